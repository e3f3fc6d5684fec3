//! What is different between two tables, entry by entry.

use std::fmt::Write as _;

use crate::Dtab;

/// Tables that differ in more than this many pairs of entries are shown one after the other.
const MAX_PAIRS: usize = 4_000_000;

/// What makes `to` of `from`: an entry a line, after `-` if it goes, `+` if it comes, and a space if it stays.
///
/// ```
/// # use linkerd_dtab::{Dtab, namerd::diff};
/// let (from, to): (Dtab, Dtab) = ("/a => /b; /c => /d".parse()?, "/a => /b; /c => /e".parse()?);
/// assert_eq!(diff(&from, &to), "  /a => /b ;\n- /c => /d ;\n+ /c => /e ;\n");
/// # Ok::<(), linkerd_dtab::ParseError>(())
/// ```
#[must_use]
pub fn diff(from: &Dtab, to: &Dtab) -> String {
    let (mut old, mut new) = (from.entries(), to.entries());
    let begin = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let head = &old[..begin];
    (old, new) = (&old[begin..], &new[begin..]);
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let tail = &old[old.len() - end..];
    (old, new) = (&old[..old.len() - end], &new[..new.len() - end]);

    let mut lines: Vec<_> = head.iter().map(|entry| (' ', entry)).collect();
    let common = if old.len().saturating_mul(new.len()) <= MAX_PAIRS { common(old, new) } else { Vec::new() };
    let (mut at_old, mut at_new) = (0, 0);
    for (in_old, in_new) in common {
        lines.extend(old[at_old..in_old].iter().map(|entry| ('-', entry)));
        lines.extend(new[at_new..in_new].iter().map(|entry| ('+', entry)));
        lines.push((' ', &old[in_old]));
        (at_old, at_new) = (in_old + 1, in_new + 1);
    }
    lines.extend(old[at_old..].iter().map(|entry| ('-', entry)));
    lines.extend(new[at_new..].iter().map(|entry| ('+', entry)));
    lines.extend(tail.iter().map(|entry| (' ', entry)));
    let mut text = String::new();
    for (mark, entry) in lines {
        let _ = writeln!(text, "{mark} {} => {:#} ;", entry.prefix, entry.dst);
    }
    text
}

/// The longest sequence that both have, as pairs of indices.
fn common<T: PartialEq>(old: &[T], new: &[T]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    let mut longest = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i * width + j] = if old[i] == new[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::diff;

    fn lines(from: &str, to: &str) -> Vec<String> {
        diff(&from.parse().unwrap(), &to.parse().unwrap()).lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn what_stays_is_shown_once() {
        assert_eq!(
            lines("/a=>/1;/b=>/2;/c=>/3", "/b=>/2;/x=>/9;/c=>/3"),
            ["- /a => /1 ;", "  /b => /2 ;", "+ /x => /9 ;", "  /c => /3 ;"]
        );
        assert_eq!(lines("", "/a=>/1"), ["+ /a => /1 ;"]);
        assert_eq!(lines("/a=>/1", ""), ["- /a => /1 ;"]);
        assert_eq!(lines("/a=>/1;/b=>/2", "/b=>/2;/a=>/1").len(), 3, "one of them moved");
    }
}
