//! The command line.

/// What is printed for `--help`, and after a mistake.
pub(crate) const USAGE: &str = "\
usage: quickstart [--once] [--port PORT] [--admin-port PORT]
       quickstart --delivery [--once]

  --delivery         deliver a new version to three nodes with a namerd, all on free ports
  --once             end after the demonstration: with 0 if everything was as it should be, else with 1
  --port PORT        the proxy's port; any free one by default
  --admin-port PORT  the port of its admin pages; any free one by default
";

/// A command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) once: bool,
    pub(crate) delivery: bool,
    /// 0 takes a free one, as the next.
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
}

/// Reads a command line, without the program's own name; `None` if it asks for help.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Option<Flags>, String> {
    let mut args = args.into_iter();
    let mut flags = Flags::default();
    while let Some(arg) = args.next() {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let port = match name {
            "--help" | "-h" if value.is_none() => return Ok(None),
            "--once" if value.is_none() => {
                flags.once = true;
                continue;
            }
            "--delivery" if value.is_none() => {
                flags.delivery = true;
                continue;
            }
            "--port" => &mut flags.port,
            "--admin-port" => &mut flags.admin_port,
            _ => return Err(format!("{arg} is no flag")),
        };
        let value = value.or_else(|| args.next()).ok_or_else(|| format!("{name}: the port is missing"))?;
        *port = value.parse().map_err(|_| format!("{name}: {value} is no port"))?;
    }
    if flags.delivery && (flags.port, flags.admin_port) != (0, 0) {
        return Err("--delivery takes no port".into());
    }
    Ok(Some(flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Flags>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_are_read() {
        assert_eq!(parsed(""), Ok(Some(Flags::default())));
        let all = Flags { once: true, delivery: false, port: 4140, admin_port: 9990 };
        assert_eq!(parsed("--once --port 4140 --admin-port=9990"), Ok(Some(all)));
        let delivery = Flags { once: true, delivery: true, ..Flags::default() };
        assert_eq!(parsed("--delivery --once"), Ok(Some(delivery)));
        assert_eq!(parsed("--help"), Ok(None));
    }

    #[test]
    fn a_mistake_is_named() {
        for (line, text) in [
            ("--twice", "--twice is no flag"),
            ("--delivery --port 4140", "--delivery takes no port"),
            ("--once=yes", "--once=yes is no flag"),
            ("file", "file is no flag"),
            ("--port", "--port: the port is missing"),
            ("--port 70000", "--port: 70000 is no port"),
        ] {
            assert_eq!(parsed(line), Err(text.to_owned()), "{line}");
        }
    }
}
