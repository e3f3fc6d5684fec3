//! From a path below a folder to the file that it names, and everything that this depended on.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Links followed in one walk before it counts as a cycle, as Linux has it.
const MAX_LINKS: usize = 40;
/// The longest entry name that a file system knows.
const MAX_NAME: usize = 255;

/// What a walk came to.
#[derive(Debug)]
pub(crate) enum Found {
    /// A regular file, named by the first `consumed` elements.
    File { path: PathBuf, consumed: usize },
    /// The folder is there, and what was asked for is not (or is no file).
    Missing,
    /// It cannot be told: the folder is gone, a permission is missing, links go in circles.
    Unknown { path: PathBuf, error: io::Error },
}

/// A walk, and the directory entries that decided it: once one of them changes it must be walked again.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) found: Found,
    pub(crate) entries: Vec<PathBuf>,
}

/// Whose step it is: of the folder that names are below, or of the element at this index.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    Base { last: bool },
    Element(usize),
}

enum Step {
    Drive(OsString),
    Root,
    Up,
    Down(OsString, Owner),
}

/// The directory entry that a path element stands for, or `None` if it can be none: the element would leave the folder.
pub(crate) fn entry_name(element: &[u8]) -> Option<&OsStr> {
    if element.len() > MAX_NAME || element.contains(&0) {
        return None;
    }
    #[cfg(unix)]
    let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(element);
    #[cfg(not(unix))]
    let name = OsStr::new(std::str::from_utf8(element).ok()?);
    let mut components = Path::new(name).components();
    let (Some(Component::Normal(only)), None) = (components.next(), components.next()) else {
        return None;
    };
    // `a/` has one component too, but is not it.
    (only == name).then_some(name)
}

/// Walks from the absolute path `base` down `elements`, and stops at the first regular file.
///
/// Links are followed by hand, so that each entry on the way is known and can be watched. Folders above `base`'s own
/// are taken as given: watching `/` for every change in it would cost more than it tells.
pub(crate) fn walk(base: &Path, elements: &[OsString]) -> Walk {
    let mut steps = VecDeque::new();
    push_path(&mut steps, base, Owner::Base { last: false });
    if let Some(Step::Down(_, owner)) = steps.back_mut() {
        *owner = Owner::Base { last: true };
    }
    steps.extend(elements.iter().enumerate().map(|(i, name)| Step::Down(name.clone(), Owner::Element(i))));

    let mut entries = Vec::new();
    let mut links = 0;
    let mut at = PathBuf::new();
    while let Some(step) = steps.pop_front() {
        let (name, owner) = match step {
            Step::Drive(prefix) => {
                at = PathBuf::from(prefix);
                continue;
            }
            Step::Root => {
                at.push(std::path::MAIN_SEPARATOR_STR);
                continue;
            }
            Step::Up => {
                at.pop();
                continue;
            }
            Step::Down(name, owner) => (name, owner),
        };
        let path = at.join(name);
        let given = owner == Owner::Base { last: false } && links == 0;
        let meta = fs::symlink_metadata(&path);
        if !(given && meta.as_ref().is_ok_and(fs::Metadata::is_dir)) {
            entries.push(path.clone());
        }
        let meta = match meta {
            Ok(meta) => meta,
            Err(error) if absent(&error) && matches!(owner, Owner::Element(_)) => {
                return Walk { found: Found::Missing, entries };
            }
            Err(error) => return Walk { found: Found::Unknown { path, error }, entries },
        };
        if meta.is_symlink() {
            links += 1;
            let target = if links > MAX_LINKS {
                Err(io::Error::other("too many levels of symbolic links"))
            } else {
                fs::read_link(&path)
            };
            match target {
                Ok(target) => push_front(&mut steps, &target, owner),
                Err(error) => return Walk { found: Found::Unknown { path, error }, entries },
            }
        } else if meta.is_dir() {
            at = path;
        } else {
            let found = match owner {
                Owner::Base { .. } => {
                    Found::Unknown { path, error: io::Error::new(io::ErrorKind::NotADirectory, "not a directory") }
                }
                // A link's target that goes on below a file leads nowhere; so does what is neither file nor folder.
                Owner::Element(i) if meta.is_file() && !steps.front().is_some_and(|next| next.is_of(owner)) => {
                    Found::File { path, consumed: i + 1 }
                }
                Owner::Element(_) => Found::Missing,
            };
            return Walk { found, entries };
        }
    }
    Walk { found: Found::Missing, entries }
}

impl Step {
    fn is_of(&self, owner: Owner) -> bool {
        match self {
            Self::Down(_, other) => *other == owner,
            Self::Drive(_) | Self::Root | Self::Up => true,
        }
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn push_path(steps: &mut VecDeque<Step>, path: &Path, owner: Owner) {
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Prefix(prefix) => steps.push_back(Step::Drive(prefix.as_os_str().to_owned())),
            Component::RootDir => steps.push_back(Step::Root),
            Component::ParentDir => steps.push_back(Step::Up),
            Component::Normal(name) => steps.push_back(Step::Down(name.to_owned(), owner)),
        }
    }
}

fn push_front(steps: &mut VecDeque<Step>, path: &Path, owner: Owner) {
    let mut front = VecDeque::new();
    push_path(&mut front, path, owner);
    while let Some(step) = front.pop_back() {
        steps.push_front(step);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn find(base: &Path, path: &str) -> Walk {
        let elements: Vec<_> = path.split('/').filter(|s| !s.is_empty()).map(OsString::from).collect();
        walk(base, &elements)
    }

    #[test]
    fn stops_at_the_first_file_and_counts_what_led_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), "").unwrap();
        for (path, consumed) in [("a/b", Some(2)), ("a/b/c/d", Some(2)), ("a", None), ("", None), ("x", None)] {
            match (find(dir.path(), path).found, consumed) {
                (Found::File { consumed, .. }, Some(expected)) => assert_eq!(consumed, expected, "{path}"),
                (Found::Missing, None) => {}
                (other, _) => panic!("{path}: {other:?}"),
            }
        }
    }

    #[test]
    fn links_are_followed_and_each_entry_on_the_way_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir(base.join("v1")).unwrap();
        fs::write(base.join("v1/web"), "").unwrap();
        symlink("v1", base.join("..data")).unwrap();
        symlink("..data/web", base.join("web")).unwrap();
        let walk = find(&base, "web/rest");
        assert!(
            matches!(walk.found, Found::File { ref path, consumed: 1 } if *path == base.join("v1/web")),
            "{walk:?}"
        );
        for entry in ["web", "..data", "v1", "v1/web"] {
            assert!(walk.entries.contains(&base.join(entry)), "{entry}: {walk:?}");
        }
    }

    #[test]
    fn a_cycle_of_links_and_a_missing_folder_are_unknown_and_not_missing() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(matches!(find(dir.path(), "a").found, Found::Unknown { .. }));
        let gone = find(&dir.path().join("gone"), "web");
        assert!(matches!(gone.found, Found::Unknown { .. }));
        assert!(gone.entries.iter().any(|entry| entry.ends_with("gone")), "{gone:?}");
    }

    #[test]
    fn a_link_that_goes_on_below_a_file_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        symlink("file/below", dir.path().join("link")).unwrap();
        assert!(matches!(find(dir.path(), "link").found, Found::Missing));
    }

    #[test]
    fn an_element_that_would_leave_the_folder_names_no_entry() {
        for element in [".", "..", "a/b", "/", "a/", "\0", "a\0b", &"x".repeat(256)] {
            assert_eq!(entry_name(element.as_bytes()), None, "{element:?}");
        }
        assert_eq!(entry_name(b"..data"), Some(OsStr::new("..data")));
        assert_eq!(entry_name(b"a b\xff").map(OsStr::len), Some(4));
    }
}
