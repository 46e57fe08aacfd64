//! A directory tree: [`walk`] finds its files, [`key_of`] and [`path_of`] relate paths and keys.
//!
//! Paths are found lazily, one directory's names in memory at a time, and handed over a short
//! channel: a slow reader slows the walk down. Deliberately not here: what is done with a file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::FileType;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cenotaph::Env;
use futures::Stream;
use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

use crate::failure::{Failure, one_line};
use crate::output::unfinished;
use crate::stamp::Stamp;

/// Files found ahead of whoever takes them.
const AHEAD: usize = 256;

/// A tree, and which objects it corresponds to.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// The directory, without links.
    pub(crate) dir: PathBuf,
    /// What every key begins with: empty, or ends with `/`.
    pub(crate) prefix: String,
    /// Names that are left out.
    exclude: BTreeSet<OsString>,
    /// Directories that are left out.
    own_dirs: Vec<PathBuf>,
}

/// A regular file.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The key of its object.
    pub(crate) key: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// How long it was when it was found.
    pub(crate) bytes: u64,
    /// Its mode and time then.
    pub(crate) stamp: Stamp,
}

/// What a walk comes across.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A regular file.
    File(Found),
    /// Something that is no regular file, or not meant.
    Skipped { path: PathBuf, why: &'static str },
    /// Something that should have been taken and can't be.
    Failed { path: String, why: String },
}

impl Root {
    /// The tree at `dir`, which must be there and not within the store itself.
    pub(crate) fn new(
        dir: &Path,
        prefix: &str,
        exclude: &[String],
        own_dirs: &[PathBuf],
    ) -> Result<Self, Failure> {
        let failed = |error| {
            Failure::io(
                format!("the directory can't be read: path={}", dir.display()),
                &error,
            )
        };
        let canonical = dir.canonicalize().map_err(failed)?;
        if !canonical.is_dir() {
            return Err(Failure::Failed(format!(
                "not a directory: path={}",
                dir.display()
            )));
        }
        if own_dirs.iter().any(|own| canonical.starts_with(own)) {
            return Err(Failure::Usage(format!(
                "this directory belongs to the store itself: path={}",
                dir.display()
            )));
        }
        let exclude = exclude.iter().map(OsString::from).collect();
        Ok(Self {
            dir: canonical,
            prefix: key_prefix(prefix),
            exclude,
            own_dirs: own_dirs.to_vec(),
        })
    }

    /// The same tree without this directory either.
    pub(crate) fn without(mut self, dir: PathBuf) -> Self {
        self.own_dirs.push(dir);
        self
    }

    /// Whether the object of this key is left out by name.
    pub(crate) fn excludes(&self, key: &str) -> bool {
        let path = key.strip_prefix(&self.prefix).unwrap_or(key);
        path.split('/')
            .any(|name| self.exclude.contains(std::ffi::OsStr::new(name)))
    }

    /// Goes through it, in the order of names. Blocks for the disk.
    fn steps(&self) -> impl Iterator<Item = Step> {
        let mut walk = WalkDir::new(&self.dir).sort_by_file_name().into_iter();
        std::iter::from_fn(move || {
            loop {
                match walk.next()? {
                    Ok(entry) if entry.depth() > 0 && self.exclude.contains(entry.file_name()) => {
                        if entry.file_type().is_dir() {
                            walk.skip_current_dir();
                        }
                    }
                    Ok(entry) if entry.file_type().is_dir() => {
                        if self.own_dirs.iter().any(|own| own == entry.path()) {
                            walk.skip_current_dir();
                            return Some(Step::Skipped {
                                path: entry.into_path(),
                                why: "the store's own directory",
                            });
                        }
                    }
                    Ok(entry) => return Some(self.step(&entry)),
                    Err(error) => {
                        let path = error.path().unwrap_or(&self.dir).display().to_string();
                        return Some(Step::Failed {
                            path,
                            why: one_line(&error),
                        });
                    }
                }
            }
        })
    }

    fn step(&self, entry: &DirEntry) -> Step {
        if let Some(why) = special(entry.file_type()) {
            return Step::Skipped {
                path: entry.path().to_owned(),
                why,
            };
        }
        if unfinished::is_unfinished(entry.file_name()) {
            return Step::Skipped {
                path: entry.path().to_owned(),
                why: "an unfinished file of an export",
            };
        }
        let relative = entry.path().strip_prefix(&self.dir).unwrap_or(entry.path());
        let Some(key) = key_of(relative) else {
            let path = format!("{:?}", entry.path());
            return Step::Failed {
                path,
                why: "the name is not UTF-8".to_owned(),
            };
        };
        match entry.metadata() {
            Ok(metadata) => Step::File(Found {
                key: format!("{}{key}", self.prefix),
                bytes: metadata.len(),
                stamp: Stamp::of(&metadata),
                path: entry.path().to_owned(),
            }),
            Err(error) => Step::Failed {
                path: entry.path().display().to_string(),
                why: one_line(&error),
            },
        }
    }
}

fn special(file_type: FileType) -> Option<&'static str> {
    if file_type.is_file() {
        None
    } else if file_type.is_symlink() {
        Some("a symbolic link")
    } else {
        Some("a special file")
    }
}

/// Goes through the trees one after the other, where blocking stalls nobody, and ends when the
/// stream is dropped. A walk that breaks off ends with a failed step: it never looks like a whole
/// one.
pub(crate) fn walk(env: &Env, roots: &[Root]) -> impl Stream<Item = Step> + use<> {
    let (sender, steps) = mpsc::channel(AHEAD);
    let is_whole = Arc::new(AtomicBool::new(false));
    let (roots, runner, reached_end) = (roots.to_vec(), env.clone(), Arc::clone(&is_whole));
    let run = async move {
        for root in &roots {
            for step in root.steps() {
                if sender.send(step).await.is_err() {
                    return;
                }
            }
        }
        reached_end.store(true, Ordering::Release);
    };
    env.spawn(async move { drop(runner.offload(run).await) });
    futures::stream::unfold((steps, is_whole), |(mut steps, is_whole)| async move {
        let step = match steps.recv().await {
            Some(step) => step,
            // Said once: the next time it counts as whole.
            None if is_whole.swap(true, Ordering::AcqRel) => return None,
            None => Step::Failed {
                path: "the tree".to_owned(),
                why: "the walk broke off".to_owned(),
            },
        };
        Some((step, (steps, is_whole)))
    })
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    /// Regular files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// Counts the files of these trees.
pub(crate) async fn count(env: &Env, roots: &[Root]) -> Result<Total, Failure> {
    let roots = roots.to_vec();
    let count = move || {
        let mut total = Total::default();
        for root in &roots {
            for step in root.steps() {
                if let Step::File(found) = step {
                    total.files += 1;
                    total.bytes += found.bytes;
                }
            }
        }
        total
    };
    Ok(env.blocking(count).await?)
}

/// A prefix as keys begin with it.
pub(crate) fn key_prefix(prefix: &str) -> String {
    match prefix.trim_end_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    }
}

/// The key of a relative path; none if it is not UTF-8.
fn key_of(relative: &Path) -> Option<String> {
    let names: Option<Vec<&str>> = relative
        .components()
        .map(|name| name.as_os_str().to_str())
        .collect();
    names.map(|names| names.join("/"))
}

/// The relative path of a key; none if the key means no file below the directory it is taken in,
/// such as `../a` or `a//b`.
pub(crate) fn path_of(key: &str) -> Option<PathBuf> {
    let path = PathBuf::from(key);
    let is_plain = path
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    (is_plain && !key.is_empty() && !key.contains('\0') && key_of(&path).as_deref() == Some(key))
        .then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_leaves_the_directory_has_no_path() {
        for key in [
            "..", "../a", "a/../b", "/a", "a//b", "a/", "./a", "a/.", "a/./b", "", "a\0b",
        ] {
            assert_eq!(path_of(key), None, "{key:?}");
        }
        for key in ["a", "a/b", "..a", "a/...", "ü/ß", " ", "a\nb"] {
            assert_eq!(
                path_of(key).and_then(|path| key_of(&path)).as_deref(),
                Some(key)
            );
        }
    }

    #[test]
    fn a_prefix_ends_with_one_slash_or_is_empty() {
        assert_eq!(
            ["", "/", "a", "a/", "a/b//"].map(key_prefix),
            ["", "", "a/", "a/", "a/b/"]
        );
    }
}
