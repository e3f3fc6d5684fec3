//! Explanations as text, for people.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::{Delegation, Node, Step, Unsettled};
use crate::{Addr, Bound, State};

/// How many steps are shown; that there are more is said at the end.
const MAX_STEPS: usize = 10_000;
const MAX_ENTRY: usize = 120;

/// Displays an explanation as an indented tree, a step a line, with all addresses and their age as they are now.
///
/// Shows no more than 10,000 steps.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    delegation: &'a Delegation,
    timed_out: Option<Duration>,
}

impl Delegation {
    /// The explanation as text, in which what is pending has timed out after so long.
    ///
    /// The explanation itself displays the same, but for `pending`.
    #[must_use]
    pub fn timed_out(&self, after: Duration) -> Text<'_> {
        Text { delegation: self, timed_out: Some(after) }
    }
}

impl Unsettled {
    /// What was known when the time was over, if anything was, as text: each name and address that took too long says so.
    #[must_use]
    pub fn text(&self) -> Option<Text<'_>> {
        match self {
            Self::Pending { after, last: Some(last) } => Some(last.timed_out(*after)),
            _ => None,
        }
    }
}

impl fmt::Display for Delegation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Text { delegation: self, timed_out: None }.fmt(f)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = Instant::now();
        // Not by recursion: explanations nest as deep as tables send names round.
        let mut todo = vec![Line { depth: 0, weight: None, from: None, node: &self.delegation.root }];
        let mut left = MAX_STEPS;
        while let Some(line) = todo.pop() {
            if left == 0 {
                writeln!(f, "... more than {MAX_STEPS} steps")?;
                break;
            }
            left -= 1;
            self.line(f, &line, now)?;
            let next = |weight, node| Line { depth: line.depth + 1, weight, from: Some(line.node), node };
            match &line.node.step {
                Step::Delegate { to, namers } => {
                    todo.extend(namers.iter().map(|node| next(None, node)));
                    todo.push(next(None, to));
                }
                Step::Rewritten(to) | Step::Transformed { to, .. } => todo.push(next(None, to)),
                Step::Alt(nodes) => todo.extend(nodes.iter().rev().map(|node| next(None, node))),
                Step::Union(branches) => {
                    todo.extend(branches.iter().rev().map(|(weight, node)| next(Some(*weight), node)));
                }
                _ => {}
            }
        }
        match &self.delegation.failure {
            Some(error) => writeln!(f, "no outcome: {error}"),
            None => Ok(()),
        }
    }
}

struct Line<'a> {
    depth: usize,
    weight: Option<f64>,
    from: Option<&'a Node>,
    node: &'a Node,
}

impl Text<'_> {
    fn line(&self, f: &mut fmt::Formatter<'_>, line: &Line<'_>, now: Instant) -> fmt::Result {
        let Node { path, dentry, step } = line.node;
        write!(f, "{:1$}", "", line.depth * 2)?;
        if let Some(weight) = line.weight {
            write!(f, "{weight:.2} * ")?;
        }
        if path.is_empty() && matches!(step, Step::Neg) {
            f.write_str("~")?;
        } else {
            write!(f, "{path}")?;
        }
        // Once for all that one entry leads to.
        let from = line.from.and_then(|node| node.dentry.as_ref());
        if let Some(entry) = dentry
            && from.is_none_or(|from| from.index != entry.index || from.dtab != entry.dtab)
        {
            let text = entry.to_string();
            match text.char_indices().nth(MAX_ENTRY) {
                Some((end, _)) => write!(f, " (by {}...)", &text[..end])?,
                None => write!(f, " (by {text})")?,
            }
        }
        f.write_str(": ")?;
        match step {
            Step::Delegate { .. } => f.write_str("stands for")?,
            Step::Rewritten(_) => f.write_str("rewritten by a namer to")?,
            Step::Alt(_) => f.write_str("first of")?,
            Step::Union(_) => f.write_str("shared by")?,
            Step::Transformed { name, bound, .. } => write!(f, "{bound}, changed by {name} to")?,
            Step::Leaf(bound) => self.bound(f, bound, now)?,
            Step::Neg => f.write_str("neg, no such name")?,
            Step::Fail => f.write_str("fail")?,
            Step::Empty => f.write_str("empty, no replicas")?,
            Step::Failed(error) => write!(f, "failed: {error}")?,
            Step::Pending => self.pending(f)?,
        }
        f.write_str("\n")
    }

    fn bound(&self, f: &mut fmt::Formatter<'_>, bound: &Bound, now: Instant) -> fmt::Result {
        write!(f, "bound to {bound}, ")?;
        let snapshot = bound.addr.snapshot();
        match &snapshot.state {
            State::Pending => return self.pending(f),
            State::Failed(error) => write!(f, "failed: {error}")?,
            State::Ok(Addr::Neg) => f.write_str("neg, no address")?,
            State::Ok(Addr::Bound(endpoints)) if endpoints.is_empty() => f.write_str("empty, no replicas")?,
            State::Ok(Addr::Bound(endpoints)) => {
                for (i, endpoint) in endpoints.iter().enumerate() {
                    let separator = if i == 0 { "" } else { " " };
                    write!(f, "{separator}{}", endpoint.addr)?;
                }
            }
        }
        write!(f, " (for {}", Age(now.duration_since(snapshot.since)))?;
        match snapshot.contact {
            Some(contact) => write!(f, ", last contact {} ago", Age(now.duration_since(contact)))?,
            None => f.write_str(", never any contact")?,
        }
        if let Some(error) = &snapshot.stale {
            write!(f, ", stale: {error}")?;
        }
        f.write_str(")")
    }

    fn pending(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timed_out {
            Some(after) => write!(f, "timed out after {after:?}"),
            None => f.write_str("pending"),
        }
    }
}

/// Whole seconds, or milliseconds below one.
struct Age(Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{}ms", self.0.as_millis()),
            seconds => write!(f, "{seconds}s"),
        }
    }
}
