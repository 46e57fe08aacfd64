//! Comparison of the store with directory trees: every byte of both, in both directions.
//!
//! ```text
//! check                                                     problem if it fails
//! each file of the tree has an object with the same bytes   missing, differs, damaged, unreadable
//! each object of the store has a file                       extra
//! ```

use std::path::Path;
use std::time::Duration;

use cenotaph::Entry;
use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use crate::store::OpenStore;
use crate::transfer::compare::{Comparison, Unreadable, compare};
use crate::transfer::output::blocking;
use crate::transfer::tree::{self, FoundFile, Root, WalkStep};
use crate::ui::failure::{Failure, one_line};
use crate::ui::human;
use crate::ui::report::{Bar, Report};

/// Number of keys that are looked up in the tree by a single blocking call.
const KEYS_AT_ONCE: usize = 256;

/// Difference between the store and a tree.
#[derive(Clone, Debug)]
pub(crate) struct TreeDifference {
    /// Key of the object, or path of the file if it has no key.
    pub(crate) name: String,
    /// Kind of the problem, as a single word.
    pub(crate) kind: &'static str,
    /// Details for people.
    pub(crate) detail: String,
}

/// Result of a comparison.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verified {
    /// Number of files that are equal to their objects.
    pub(crate) files: u64,
    /// Bytes of these files.
    pub(crate) bytes: u64,
    /// Number of entries that are no regular files.
    pub(crate) skipped: u64,
    /// Number of problems.
    pub(crate) problems: u64,
    /// The first problem.
    pub(crate) first: Option<TreeDifference>,
}

/// Compares the trees with the store. Each problem is printed as soon as it is found.
pub(crate) async fn verify(
    store: &OpenStore,
    report: &Report,
    roots: &[Root],
    jobs: usize,
) -> Result<Verified, Failure> {
    let total = if report.shows_progress() {
        Some(tree::count(&store.env, roots).await?)
    } else {
        None
    };
    let bar = report
        .bar("verify", total.map(|total| total.bytes))
        .of_files(total.map(|total| total.files));
    let mut verified = Verified::default();
    let checks = tree::walk(&store.env, roots)
        .map(|step| check(store, step, &bar))
        .buffer_unordered(jobs);
    let mut checks = std::pin::pin!(checks);
    while let Some(checked) = checks.next().await {
        bar.item_done();
        verified.take(report, checked)?;
    }
    for root in roots {
        extras(store, report, root, &mut verified).await?;
    }
    Ok(verified)
}

/// Result of a step of the walk.
enum Checked {
    /// The file is equal to its object and has this many bytes.
    Same(u64),
    /// The entry is no regular file.
    Skipped,
    /// File and object differ, or can't be compared.
    Wrong(TreeDifference),
}

/// Checks a step of the walk.
async fn check(store: &OpenStore, step: WalkStep, bar: &Bar) -> Checked {
    match step {
        WalkStep::File(found) => match check_file(store, &found, bar).await {
            None => Checked::Same(found.bytes),
            Some(problem) => Checked::Wrong(problem),
        },
        WalkStep::Skipped { .. } => Checked::Skipped,
        WalkStep::Failed { path, why } => Checked::Wrong(TreeDifference {
            name: path,
            kind: "unreadable",
            detail: why,
        }),
    }
}

/// Compares a file with its object. Returns the problem, or `None` if both are equal.
pub(crate) async fn check_file(
    store: &OpenStore,
    found: &FoundFile,
    bar: &Bar,
) -> Option<TreeDifference> {
    let problem = |kind, detail| {
        Some(TreeDifference {
            name: found.key.clone(),
            kind,
            detail,
        })
    };
    let id = match store.id(&found.key) {
        Ok(id) => id,
        // No object can have an invalid key.
        Err(failure) => return problem("missing", failure.to_string()),
    };
    match compare(store, &id, Path::new(&found.path), bar).await {
        Ok(Comparison::Same) => None,
        Ok(Comparison::Size { object, file }) => problem(
            "differs",
            format!("the object has {object} bytes, the file {file}"),
        ),
        Ok(Comparison::Byte(at)) => problem("differs", format!("first at byte {at}")),
        Ok(Comparison::Missing) => problem("missing", "the store has no such object".to_owned()),
        Ok(Comparison::NoFile) => problem("differs", "the file was removed".to_owned()),
        Err(Unreadable::Object(error)) if error.kind() == cenotaph::ErrorKind::Corrupt => {
            problem("damaged", one_line(&error))
        }
        Err(unreadable) => problem("unreadable", unreadable.to_string()),
    }
}

/// Finds objects without a file.
async fn extras(
    store: &OpenStore,
    report: &Report,
    root: &Root,
    verified: &mut Verified,
) -> Result<(), Failure> {
    let listed = store
        .engine
        .list(root.prefix.as_str())
        .namespace(store.namespace.clone())
        .stream();
    let mut chunks = listed.try_chunks(KEYS_AT_ONCE);
    while let Some(entries) = chunks.try_next().await.map_err(|error| error.1)? {
        let keys: Vec<String> = entries
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Object(head) => Some(head.id.key().to_owned()),
                Entry::Prefix(_) => None,
            })
            // The walk skips files of these names, so their objects would look extra.
            .filter(|key| !root.excludes(key))
            .collect();
        let root = root.clone();
        let look = move || {
            Ok(keys
                .into_iter()
                .filter(|key| !has_file(&root, key))
                .collect::<Vec<_>>())
        };
        let extra = blocking(&store.env, look)
            .await
            .map_err(|error| Failure::io("the tree can't be read", &error))?;
        for name in extra {
            let detail = "the tree has no such file".to_owned();
            verified.take(
                report,
                Checked::Wrong(TreeDifference {
                    name,
                    kind: "extra",
                    detail,
                }),
            )?;
        }
    }
    Ok(())
}

/// Returns whether the object of this key has a file.
fn has_file(root: &Root, key: &str) -> bool {
    let Some(relative) = key.strip_prefix(&root.prefix).and_then(tree::path_of) else {
        return false;
    };
    match std::fs::symlink_metadata(root.dir.join(relative)) {
        Ok(metadata) => metadata.is_file(),
        // Other errors, such as a lack of permission, do not show that the file is absent. The walk
        // has reported them.
        Err(error) => !matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
        ),
    }
}

impl Verified {
    /// Counts the result of a step. A problem is printed.
    fn take(&mut self, report: &Report, checked: Checked) -> Result<(), Failure> {
        match checked {
            Checked::Same(bytes) => {
                self.files += 1;
                self.bytes += bytes;
            }
            Checked::Skipped => self.skipped += 1,
            Checked::Wrong(problem) => {
                self.problems += 1;
                problem.print(report)?;
                self.first.get_or_insert(problem);
            }
        }
        Ok(())
    }

    /// Prints the summary.
    pub(crate) fn print(&self, report: &Report, took: Duration) -> Result<(), Failure> {
        report.result(
            || {
                json!({
                    "event": "summary",
                    "same": self.files,
                    "bytes": self.bytes,
                    "skipped": self.skipped,
                    "problems": self.problems,
                    "elapsed_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                })
            },
            || {
                let files = human::counted(self.files, "file");
                let bytes = human::bytes(self.bytes);
                let problems = human::counted(self.problems, "problem");
                let skipped = human::grouped(self.skipped);
                format!(
                    "equal {files}, {bytes}, in {}; skipped {skipped}; {problems}",
                    human::duration(took)
                )
            },
        )
    }

    /// Returns an error that names the first problem, if any.
    pub(crate) fn success(&self) -> Result<(), Failure> {
        match &self.first {
            None => Ok(()),
            Some(first) => {
                let problems = human::counted(self.problems, "problem");
                let name = human::key(&first.name);
                Err(Failure::Failed(format!(
                    "{problems}; the first: {} {name}: {}",
                    first.kind, first.detail
                )))
            }
        }
    }
}

impl TreeDifference {
    /// Prints the problem.
    fn print(&self, report: &Report) -> Result<(), Failure> {
        report.result(
            || {
                json!({
                    "event": "problem",
                    "problem": self.kind,
                    "name": self.name,
                    "detail": self.detail,
                })
            },
            || format!("{} {}: {}", self.kind, human::key(&self.name), self.detail),
        )
    }
}
