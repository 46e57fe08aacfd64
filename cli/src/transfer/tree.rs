//! Walk over the files of directory trees, and the mapping between paths and keys.
//!
//! The walk is lazy: it holds the names of the current directories only, and sends its steps
//! through a bounded channel, so a slow consumer slows it down.

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

use crate::transfer::file_metadata::FileMetadata;
use crate::transfer::output::unfinished;
use crate::ui::failure::{Failure, one_line};

/// Number of steps that a walk is ahead of its consumer.
const AHEAD: usize = 256;

/// A directory tree and the prefix of its keys.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// Canonical path of the directory.
    pub(crate) dir: PathBuf,
    /// Prefix of all keys: empty, or with a `/` at the end.
    pub(crate) prefix: String,
    /// Names of files and directories that are skipped.
    exclude: BTreeSet<OsString>,
    /// Directories that are skipped.
    own_dirs: Vec<PathBuf>,
}

/// A regular file found by a walk.
#[derive(Clone, Debug)]
pub(crate) struct FoundFile {
    /// Key of its object.
    pub(crate) key: String,
    /// Path of the file.
    pub(crate) path: PathBuf,
    /// Size at the time of the walk, in bytes.
    pub(crate) bytes: u64,
    /// Mode and modification time at the time of the walk.
    pub(crate) file_metadata: FileMetadata,
}

/// Step of a walk.
#[derive(Clone, Debug)]
pub(crate) enum WalkStep {
    /// A regular file.
    File(FoundFile),
    /// An entry that is no regular file, or is excluded.
    Skipped { path: PathBuf, why: &'static str },
    /// An entry that can't be read.
    Failed { path: String, why: String },
}

impl Root {
    /// Returns the tree at `dir`.
    ///
    /// # Errors
    /// [`Failure::Failed`] if `dir` can't be read or is no directory; [`Failure::Usage`] if it lies
    /// in a directory of the store.
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

    /// Skips this directory, too.
    pub(crate) fn without(mut self, dir: PathBuf) -> Self {
        self.own_dirs.push(dir);
        self
    }

    /// Returns whether an excluded name is part of this key.
    pub(crate) fn excludes(&self, key: &str) -> bool {
        let path = key.strip_prefix(&self.prefix).unwrap_or(key);
        path.split('/')
            .any(|name| self.exclude.contains(std::ffi::OsStr::new(name)))
    }

    /// Walks the tree in the order of names. Blocks on the file system.
    fn steps(&self) -> impl Iterator<Item = WalkStep> {
        let mut walk = WalkDir::new(&self.dir).sort_by_file_name().into_iter();
        std::iter::from_fn(move || {
            loop {
                match walk.next()? {
                    // Depth 0 is the root itself: an excluded name does not exclude a directory
                    // that the command line names.
                    Ok(entry) if entry.depth() > 0 && self.exclude.contains(entry.file_name()) => {
                        if entry.file_type().is_dir() {
                            walk.skip_current_dir();
                        }
                    }
                    Ok(entry) if entry.file_type().is_dir() => {
                        if self.own_dirs.iter().any(|own| own == entry.path()) {
                            walk.skip_current_dir();
                            return Some(WalkStep::Skipped {
                                path: entry.into_path(),
                                why: "the store's own directory",
                            });
                        }
                    }
                    Ok(entry) => return Some(self.step(&entry)),
                    Err(error) => {
                        let path = error.path().unwrap_or(&self.dir).display().to_string();
                        return Some(WalkStep::Failed {
                            path,
                            why: one_line(&error),
                        });
                    }
                }
            }
        })
    }

    /// Classifies an entry that is no directory.
    fn step(&self, entry: &DirEntry) -> WalkStep {
        if let Some(why) = special(entry.file_type()) {
            return WalkStep::Skipped {
                path: entry.path().to_owned(),
                why,
            };
        }
        if unfinished::is_unfinished(entry.file_name()) {
            return WalkStep::Skipped {
                path: entry.path().to_owned(),
                why: "an unfinished file of an export",
            };
        }
        let relative = entry.path().strip_prefix(&self.dir).unwrap_or(entry.path());
        let Some(key) = key_of(relative) else {
            let path = format!("{:?}", entry.path());
            return WalkStep::Failed {
                path,
                why: "the name is not UTF-8".to_owned(),
            };
        };
        match entry.metadata() {
            Ok(metadata) => WalkStep::File(FoundFile {
                key: format!("{}{key}", self.prefix),
                bytes: metadata.len(),
                file_metadata: FileMetadata::of(&metadata),
                path: entry.path().to_owned(),
            }),
            Err(error) => WalkStep::Failed {
                path: entry.path().display().to_string(),
                why: one_line(&error),
            },
        }
    }
}

/// Returns the reason to skip a file of this type, or `None` for a regular file.
fn special(file_type: FileType) -> Option<&'static str> {
    if file_type.is_file() {
        None
    } else if file_type.is_symlink() {
        Some("a symbolic link")
    } else {
        Some("a special file")
    }
}

/// Walks the trees one after the other on a thread for blocking calls. The walk ends when the
/// stream is dropped. A walk that ends early, for example by a panic, yields a failed step at the
/// end: it never looks complete.
pub(crate) fn walk(env: &Env, roots: &[Root]) -> impl Stream<Item = WalkStep> + use<> {
    let (sender, steps) = mpsc::channel(AHEAD);
    let is_whole = Arc::new(AtomicBool::new(false));
    let roots = roots.to_vec();
    let runner = env.clone();
    let reached_end = Arc::clone(&is_whole);
    let run = async move {
        for root in &roots {
            for step in root.steps() {
                // The stream was dropped: no consumer needs the rest.
                if sender.send(step).await.is_err() {
                    return;
                }
            }
        }
        // Set only at the regular end. A panic leaves the flag unset.
        reached_end.store(true, Ordering::Release);
    };
    // The result is dropped: the missing flag reports a panic of the walk.
    env.spawn(async move { drop(runner.offload(run).await) });
    futures::stream::unfold((steps, is_whole), |(mut steps, is_whole)| async move {
        let step = match steps.recv().await {
            Some(step) => step,
            // The swap makes the failed step appear once: the next call finds the flag set.
            None if is_whole.swap(true, Ordering::AcqRel) => return None,
            None => WalkStep::Failed {
                path: "the tree".to_owned(),
                why: "the walk ended early".to_owned(),
            },
        };
        Some((step, (steps, is_whole)))
    })
}

/// Number and bytes of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileTotal {
    /// Number of regular files.
    pub(crate) files: u64,
    /// Bytes of these files.
    pub(crate) bytes: u64,
}

/// Counts the files of the trees.
pub(crate) async fn count(env: &Env, roots: &[Root]) -> Result<FileTotal, Failure> {
    let roots = roots.to_vec();
    let count = move || {
        let mut total = FileTotal::default();
        for root in &roots {
            for step in root.steps() {
                if let WalkStep::File(found) = step {
                    total.files += 1;
                    total.bytes += found.bytes;
                }
            }
        }
        total
    };
    Ok(env.blocking(count).await?)
}

/// Normalizes a prefix: empty, or with exactly one `/` at the end.
pub(crate) fn key_prefix(prefix: &str) -> String {
    match prefix.trim_end_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    }
}

/// Returns the key of a relative path, or `None` if the path is not UTF-8.
fn key_of(relative: &Path) -> Option<String> {
    let names: Option<Vec<&str>> = relative
        .components()
        .map(|name| name.as_os_str().to_str())
        .collect();
    names.map(|names| names.join("/"))
}

/// Returns the relative path of a key, or `None` if the key has no path below a directory, such as
/// `../a` or `a//b`.
pub(crate) fn path_of(key: &str) -> Option<PathBuf> {
    let path = PathBuf::from(key);
    let is_plain = path
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    // The round trip refuses keys that the components normalize, such as `a//b`, `a/` and `a/./b`:
    // two keys must not have the same file.
    (is_plain && !key.is_empty() && !key.contains('\0') && key_of(&path).as_deref() == Some(key))
        .then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_that_leaves_the_directory_has_no_path() {
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
    fn prefix_is_empty_or_ends_with_a_single_slash() {
        assert_eq!(
            ["", "/", "a", "a/", "a/b//"].map(key_prefix),
            ["", "", "a/", "a/", "a/b/"]
        );
    }
}
