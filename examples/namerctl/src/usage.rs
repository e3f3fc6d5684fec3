//! Help, and what is said of a command line that cannot be, in the layout of the original's flag library.

use std::fmt::Write as _;

use clap::{
    Arg, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// A command, from the program's down to the one that the command line names.
#[derive(Debug)]
pub(crate) struct Chosen<'a>(Vec<&'a Command>);

/// Why a command line cannot be.
#[derive(Debug)]
pub(crate) struct Mistake {
    /// What is wrong with it.
    pub(crate) text: String,
    /// What to read below.
    pub(crate) advice: String,
}

impl<'a> Chosen<'a> {
    /// The command that these words name; the words after it that are not flags.
    pub(crate) fn find(root: &'a Command, words: &[String]) -> (Self, Vec<String>) {
        let mut chosen = Self(vec![root]);
        let mut rest = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                rest.extend(words.cloned());
                break;
            }
            if word.starts_with('-') && word.len() > 1 {
                if chosen.takes_next(word) {
                    words.next();
                }
                continue;
            }
            match chosen.command().find_subcommand(word) {
                Some(command) if rest.is_empty() => chosen.0.push(command),
                _ => rest.push(word.clone()),
            }
        }
        (chosen, rest)
    }

    /// Whether the word after this flag is its value.
    fn takes_next(&self, flag: &str) -> bool {
        let Some(name) = flag.strip_prefix("--") else { return false };
        let arg = self.0.iter().flat_map(|command| command.get_arguments()).find(|arg| arg.get_long() == Some(name));
        arg.is_some_and(takes_value)
    }

    fn command(&self) -> &'a Command {
        self.0[self.0.len() - 1]
    }

    fn path(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|command| command.get_name()).collect();
        names.join(" ")
    }

    /// Whether it does something itself.
    pub(crate) fn runs(&self) -> bool {
        !self.command().has_subcommands()
    }

    /// What the command is for, and its usage.
    pub(crate) fn help(&self) -> String {
        let about = self.command().get_about().map(ToString::to_string).unwrap_or_default();
        format!("{about}\n\n{}", self.usage())
    }

    /// How to call it.
    pub(crate) fn usage(&self) -> String {
        let (command, path) = (self.command(), self.path());
        let mut text = String::from("Usage:\n");
        if self.runs() {
            let words = command.get_positionals().filter(|arg| !arg.is_hide_set());
            let words: Vec<_> = words.map(|arg| format!(" [{}]", placeholder(arg))).collect();
            let _ = write!(text, "  {path}{} [flags]", words.concat());
        } else {
            let _ = write!(text, "  {path} [command]");
        }
        let aliases: Vec<_> = command.get_all_aliases().collect();
        if !aliases.is_empty() {
            let _ = write!(text, "\n\nAliases:\n  {}, {}", command.get_name(), aliases.join(", "));
        }
        if !self.runs() {
            text += "\n\nAvailable Commands:";
            let mut commands: Vec<_> = command.get_subcommands().collect();
            commands.sort_by_key(|command| command.get_name());
            for command in commands {
                let about = command.get_about().map(ToString::to_string).unwrap_or_default();
                let _ = write!(text, "\n  {:11} {about}", command.get_name());
            }
        }
        let help = Flag { left: "  -h, --help".into(), sort: "help".into(), about: self.help_for() };
        let (mut local, mut inherited) = (vec![help], Vec::new());
        for (depth, command) in self.0.iter().enumerate() {
            let shown = command.get_arguments().filter(|arg| arg.get_long().is_some() && !arg.is_hide_set());
            if depth + 1 == self.0.len() {
                local.extend(shown.map(Flag::of));
            } else {
                inherited.extend(shown.filter(|arg| arg.is_global_set()).map(Flag::of));
            }
        }
        text += &listed("Flags", local);
        text += &listed("Global Flags", inherited);
        if !self.runs() {
            let _ = write!(text, "\n\nUse \"{path} [command] --help\" for more information about a command.");
        }
        text + "\n"
    }

    fn help_for(&self) -> String {
        format!("help for {}", self.command().get_name())
    }

    /// What is wrong, and the usage below it.
    pub(crate) fn mistake(&self, text: impl Into<String>) -> Mistake {
        Mistake { text: text.into(), advice: format!("{}\n", self.usage()) }
    }

    /// A word that is no command here.
    pub(crate) fn unknown(&self, word: &str) -> Mistake {
        let path = self.path();
        let mut text = format!("unknown command \"{word}\" for \"{path}\"");
        let names = self.command().get_subcommands().map(Command::get_name);
        let near: Vec<_> = names.filter(|name| is_near(word, name)).map(|name| format!("\t{name}\n")).collect();
        if !near.is_empty() {
            let _ = write!(text, "\n\nDid you mean this?\n{}", near.concat());
        }
        Mistake { text, advice: format!("Run '{path} --help' for usage.\n") }
    }

    /// What the parser found, in the original's words. `rest` are the words that name no command.
    pub(crate) fn explain(&self, error: &clap::Error, rest: &[String]) -> Mistake {
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => text.clone(),
            Some(ContextValue::Strings(texts)) => texts.join(" "),
            _ => String::new(),
        };
        let arg = context(ContextKind::InvalidArg);
        let flag = arg.split([' ', '=', '[', '<']).next().unwrap_or_default();
        let value = context(ContextKind::InvalidValue);
        match (error.kind(), rest) {
            (ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand, [word, ..])
                if !self.runs() && !flag.starts_with('-') =>
            {
                self.unknown(word)
            }
            (ErrorKind::UnknownArgument, _) if flag.starts_with("--") => self.mistake(format!("unknown flag: {flag}")),
            (ErrorKind::UnknownArgument, _) => {
                let letter = flag.chars().nth(1).unwrap_or('-');
                self.mistake(format!("unknown shorthand flag: '{letter}' in {flag}"))
            }
            (ErrorKind::InvalidValue, _) if value.is_empty() => self.mistake(format!("flag needs an argument: {flag}")),
            (ErrorKind::InvalidValue | ErrorKind::ValueValidation, _) => {
                let of = if flag.starts_with('-') {
                    format!("\"{flag}\" flag")
                } else {
                    format!("[{}]", placeholder_of(&arg))
                };
                let valid = context(ContextKind::ValidValue);
                let reason = match std::error::Error::source(error) {
                    Some(source) => source.to_string(),
                    None if valid.is_empty() => "not a value that it takes".into(),
                    None => format!("not one of {valid}"),
                };
                self.mistake(format!("invalid argument \"{value}\" for {of}: {reason}"))
            }
            (kind, _) => self.mistake(kind.to_string()),
        }
    }
}

/// A flag of a list.
struct Flag {
    left: String,
    sort: String,
    about: String,
}

impl Flag {
    fn of(arg: &Arg) -> Self {
        let long = arg.get_long().unwrap_or_default().to_owned();
        let value = if takes_value(arg) { format!(" {}", placeholder(arg)) } else { String::new() };
        let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
        Self { left: format!("      --{long}{value}"), sort: long, about }
    }
}

fn listed(title: &str, mut flags: Vec<Flag>) -> String {
    if flags.is_empty() {
        return String::new();
    }
    flags.sort_by(|a, b| a.sort.cmp(&b.sort));
    let width = flags.iter().map(|flag| flag.left.len()).max().unwrap_or_default();
    let lines: Vec<_> = flags.iter().map(|flag| format!("\n{:width$}   {}", flag.left, flag.about)).collect();
    format!("\n\n{title}:{}", lines.concat())
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && arg.get_num_args().is_none_or(|range| range.min_values() > 0)
}

fn placeholder(arg: &Arg) -> String {
    let name =
        arg.get_value_names().and_then(|names| names.first()).map_or(arg.get_id().as_str(), |name| name.as_str());
    name.to_lowercase()
}

fn placeholder_of(shown: &str) -> String {
    shown.trim_matches(['[', ']', '<', '>', '.']).to_lowercase()
}

/// Whether `name` may have been meant: two letters off at most, or `word` is its start.
fn is_near(word: &str, name: &str) -> bool {
    name.starts_with(word) || distance(word, name) <= 2
}

/// How many letters to add, drop or change (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let changed = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_two_letters_off_or_the_start() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert!(is_near("dta", "dtab") && is_near("hel", "help") && is_near("comp", "completion"));
        assert!(!is_near("foo", "dtab"));
    }
}
