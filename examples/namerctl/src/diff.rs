//! What is different between two tables, as lines.

use crate::table::{Entry, lines};

/// How many pairs of entries are compared; beyond that all that is between the same start and end is shown as replaced.
const MAX_PAIRS: usize = 4_000_000;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Same,
    Old,
    New,
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Self::Same => "  ",
            Self::Old => "- ",
            Self::New => "+ ",
        }
    }
}

/// The entries of both, in order: what to take away from `old` and to add to get `new`.
pub(crate) fn diff<'a>(old: &'a [Entry], new: &'a [Entry]) -> Vec<(Mark, &'a Entry)> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (same, old) = old.split_at(start);
    let new = &new[start..];
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, tail) = old.split_at(old.len() - end);
    let new = &new[..new.len() - end];

    let mut out: Vec<_> = same.iter().map(|entry| (Mark::Same, entry)).collect();
    middle(old, new, &mut out);
    out.extend(tail.iter().map(|entry| (Mark::Same, entry)));
    out
}

/// By the longest common subsequence.
fn middle<'a>(old: &'a [Entry], new: &'a [Entry], out: &mut Vec<(Mark, &'a Entry)>) {
    if old.len().saturating_mul(new.len()) > MAX_PAIRS {
        out.extend(old.iter().map(|entry| (Mark::Old, entry)));
        out.extend(new.iter().map(|entry| (Mark::New, entry)));
        return;
    }
    let width = new.len() + 1;
    // How long it is for the rest of both from here.
    let mut longest = vec![0u32; (old.len() + 1) * width];
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            longest[i * width + j] = if a == b {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push((Mark::Same, &old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
            out.push((Mark::Old, &old[i]));
            i += 1;
        } else {
            out.push((Mark::New, &new[j]));
            j += 1;
        }
    }
}

/// Every entry on its line, after `-`, `+` or nothing.
pub(crate) fn text(diff: &[(Mark, &Entry)]) -> String {
    lines("", diff.iter().map(|&(mark, entry)| (mark.text(), entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Vec<Entry> {
        let entry = |prefix: &str| Entry { prefix: prefix.into(), dst: "/x".into() };
        text.split_whitespace().map(entry).collect()
    }

    fn shown(old: &str, new: &str) -> String {
        let (old, new) = (table(old), table(new));
        let marks = diff(&old, &new);
        let marks: Vec<_> =
            marks.iter().map(|(mark, entry)| format!("{}{}", mark.text().trim(), entry.prefix)).collect();
        marks.join(" ")
    }

    #[test]
    fn the_least_is_taken_away_and_added() {
        assert_eq!(shown("/a /b /c", "/a /b /c"), "/a /b /c");
        assert_eq!(shown("/a /b /c", "/a /d /c"), "/a -/b +/d /c");
        assert_eq!(shown("/a /b /c", "/b /c /a"), "-/a /b /c +/a");
        assert_eq!(shown("", "/a"), "+/a");
        assert_eq!(shown("/a", ""), "-/a");
        assert_eq!(shown("/a /b /c /d", "/a /x /c /y"), "/a -/b +/x /c -/d +/y");
    }

    #[test]
    fn lines_have_their_arrows_below_each_other() {
        let (old, new) = (table("/a /long"), table("/a /b"));
        assert_eq!(text(&diff(&old, &new)), "  /a     => /x ;\n- /long  => /x ;\n+ /b     => /x ;\n");
    }

    #[test]
    fn large_tables_are_shown_as_replaced() {
        let many =
            |c: char| (0..2001).map(|i| Entry { prefix: format!("/{c}{i}"), dst: "/x".into() }).collect::<Vec<_>>();
        let (old, new) = (many('a'), many('b'));
        let marks = diff(&old, &new);
        assert_eq!(marks.len(), 4002);
        assert!(marks[..2001].iter().all(|(mark, _)| *mark == Mark::Old));
    }
}
