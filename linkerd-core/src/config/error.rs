use std::{fmt, io, path::Path, sync::Arc};

/// The most problems that one [`Errors`] lists; the rest are counted.
const MAX_LISTED: usize = 100;

/// One thing that is wrong with a configuration file, and where.
///
/// Shown as `FILE:LINE:COLUMN: KEY: MESSAGE`, without the parts that do not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as it was named when it was loaded.
    pub file: Arc<str>,
    /// Where in the file, unless the problem is the file itself.
    pub position: Option<Position>,
    /// The key, dotted and indexed: `routers[0].servers[0].port`. Empty for the file as a whole.
    pub key: String,
    /// What is wrong, with the offending value.
    pub message: String,
}

/// A place in a file; lines and columns (in characters) count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

/// Everything that is wrong with a configuration, in the order of the file. Never empty.
///
/// Shows one problem a line. Lists at most 100 of them and then says how many more there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    problems: Vec<Problem>,
    unlisted: usize,
}

impl Problem {
    /// A problem of the file as a whole.
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self { file: file.into(), position: None, key: String::new(), message: message.into() }
    }
}

impl Errors {
    /// Gathers problems in the order of the file; `None` if there are none.
    pub fn from_problems(mut problems: Vec<Problem>) -> Option<Self> {
        if problems.is_empty() {
            return None;
        }
        problems.sort_by_key(|p| p.position);
        problems.dedup();
        let unlisted = problems.len().saturating_sub(MAX_LISTED);
        problems.truncate(MAX_LISTED);
        Some(Self { problems, unlisted })
    }

    /// The problems, in the order of the file, at most 100.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let file = path.display().to_string();
        Self::from(Problem::of_file(&file, format!("cannot be read: {error}")))
    }
}

impl From<Problem> for Errors {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem], unlisted: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if let Some(position) = self.position {
            write!(f, "{position}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        if self.unlisted > 0 {
            write!(f, "\nand {} more problems", self.unlisted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl std::error::Error for Errors {}
