//! `import`: a directory tree into the store, many files at once, resumable.
//!
//! ```text
//! walk ──> unchanged?  head: same size, time and mode (or --checksum: same bytes)   yes: skip
//!             │ no
//!             └──> put, with the file's mode and time as they were before it was read
//! ```
//!
//! A file that changes while it is read breaks its promised length, and is looked at afresh once.
//! One that changes without changing its length is imported with its earlier time, so that the next
//! run takes it again.

use std::path::Path;
use std::time::Duration;

use cenotaph::ErrorKind;
use futures::StreamExt;
use serde_json::json;

use crate::args::ImportArgs;
use crate::clock::Stopwatch;
use crate::compare::{Verdict, compare};
use crate::failure::{Failure, one_line};
use crate::human;
use crate::put::{Source, put_file};
use crate::report::{Bar, Report};
use crate::retry::retrying;
use crate::stamp::Stamp;
use crate::stated::{PutError, Stated};
use crate::store::Store;
use crate::tree::{self, Found, Root, Step};

/// Files in a row that the store could not take before the import gives up: it is the store then,
/// not the files.
const STORE_FAILURES_MAX: u32 = 32;

pub(crate) async fn run(
    store: &Store,
    report: &Report,
    options: &ImportArgs,
) -> Result<(), Failure> {
    let root = Root::new(
        &options.tree.dir,
        &options.tree.prefix,
        &options.exclude,
        &store.own_dirs,
    )?;
    let by = if options.checksum {
        Unchanged::ByContent
    } else {
        Unchanged::ByStamp
    };
    let watch = Stopwatch::start(&store.env);
    let plan = Plan {
        roots: vec![root],
        jobs: options.tree.jobs,
        by,
        tells: Tells::Everything,
    };
    let imported = import(store, report, &plan).await?;
    imported.tell(report, watch.elapsed())?;
    imported.success()
}

/// How it is decided that a file need not be imported again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// Its size, time and mode.
    ByStamp,
    /// All of its bytes.
    ByContent,
}

/// Whether the import speaks of single files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tells {
    /// Each file as a line of JSON, if that is wanted, and each failure.
    Everything,
    /// Failures only.
    Failures,
}

/// What to import.
pub(crate) struct Plan {
    /// The trees.
    pub(crate) roots: Vec<Root>,
    /// Files at once.
    pub(crate) jobs: usize,
    /// What to skip.
    pub(crate) by: Unchanged,
    /// What to say.
    pub(crate) tells: Tells,
}

/// What an import came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Imported {
    /// Files that were put.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Files that were there already.
    pub(crate) unchanged: u64,
    /// What is no regular file.
    pub(crate) skipped: u64,
    /// What should have been imported and was not.
    pub(crate) failed: u64,
}

/// What became of one step of the walk.
enum Outcome {
    Put(Found),
    Unchanged(Found),
    Skipped {
        path: String,
        why: &'static str,
    },
    Failed {
        path: String,
        why: String,
        is_of_store: bool,
    },
    /// The store will take nothing more.
    Over(String),
}

/// Imports the trees.
pub(crate) async fn import(
    store: &Store,
    report: &Report,
    plan: &Plan,
) -> Result<Imported, Failure> {
    let total = if report.shows_progress() {
        Some(tree::count(&store.env, &plan.roots).await?)
    } else {
        None
    };
    let bar = report
        .bar("import", total.map(|total| total.bytes))
        .of_files(total.map(|total| total.files));
    let outcomes = tree::walk(&store.env, &plan.roots)
        .map(|step| one(store, plan.by, step, &bar))
        .buffer_unordered(plan.jobs);
    let mut outcomes = std::pin::pin!(outcomes);
    let (mut imported, mut failures_in_a_row) = (Imported::default(), 0);
    while let Some(outcome) = outcomes.next().await {
        match &outcome {
            Outcome::Failed {
                is_of_store: true, ..
            } => failures_in_a_row += 1,
            Outcome::Over(_) => failures_in_a_row = STORE_FAILURES_MAX,
            Outcome::Put(_) | Outcome::Unchanged(_) => failures_in_a_row = 0,
            Outcome::Skipped { .. } | Outcome::Failed { .. } => {}
        }
        bar.one_done();
        imported.take(report, plan.tells, outcome)?;
        if failures_in_a_row == STORE_FAILURES_MAX {
            return Err(Failure::Failed(
                "the store takes no more files; run the import again to resume it".to_owned(),
            ));
        }
    }
    Ok(imported)
}

async fn one(store: &Store, by: Unchanged, step: Step, bar: &Bar) -> Outcome {
    match step {
        Step::File(found) => file(store, by, found, bar).await,
        Step::Skipped { path, why } => Outcome::Skipped {
            path: path.display().to_string(),
            why,
        },
        Step::Failed { path, why } => Outcome::Failed {
            path,
            why,
            is_of_store: false,
        },
    }
}

async fn file(store: &Store, by: Unchanged, found: Found, bar: &Bar) -> Outcome {
    let failed = |why: String, is_of_store| Outcome::Failed {
        path: found.path.display().to_string(),
        why,
        is_of_store,
    };
    let id = match store.id(&found.key) {
        Ok(id) => id,
        Err(failure) => return failed(failure.to_string(), false),
    };
    match is_unchanged(store, by, &found, &id, bar).await {
        Ok(true) => return Outcome::Unchanged(found),
        Ok(false) => {}
        Err(error) => return failed(one_line(&error), true),
    }
    let mut current = found.clone();
    for is_last in [false, true] {
        let source = Source {
            path: current.path.clone(),
            bytes: current.bytes,
        };
        let stated = Stated {
            custom: current.stamp.to_custom(),
            ..Stated::default()
        };
        match put_file(store, &id, &source, &stated, bar).await {
            Ok(_) => return Outcome::Put(current),
            Err(error) if error.is_of_source() && !is_last => match look_again(&current).await {
                Ok(again) => current = again,
                Err(error) => return failed(PutError::File(error).message(), false),
            },
            Err(PutError::Store(error)) if is_over(&error) => {
                return Outcome::Over(one_line(&error));
            }
            Err(error) => return failed(error.message(), matches!(error, PutError::Store(_))),
        }
    }
    failed(PutError::Changed.message(), false)
}

/// Whether the engine can't go on after this error, whatever it is asked.
fn is_over(error: &cenotaph::Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Indeterminate)
}

async fn look_again(found: &Found) -> std::io::Result<Found> {
    let metadata = tokio::fs::symlink_metadata(&found.path).await?;
    Ok(Found {
        bytes: metadata.len(),
        stamp: Stamp::of(&metadata),
        ..found.clone()
    })
}

async fn is_unchanged(
    store: &Store,
    by: Unchanged,
    found: &Found,
    id: &cenotaph::ObjectId,
    bar: &Bar,
) -> cenotaph::Result<bool> {
    let Some(head) = retrying(&store.env, async || store.engine.head(id).await).await? else {
        return Ok(false);
    };
    if head.metadata.size != found.bytes {
        return Ok(false);
    }
    match by {
        Unchanged::ByStamp => {
            let is_same = found.stamp.has_mtime()
                && Stamp::from_custom(&head.metadata.attributes.custom) == found.stamp;
            if is_same {
                bar.add(found.bytes);
            }
            Ok(is_same)
        }
        // An object that can't be read is imported again, which mends it.
        Unchanged::ByContent => Ok(matches!(
            compare(store, id, Path::new(&found.path), bar).await,
            Ok(Verdict::Same)
        )),
    }
}

impl Imported {
    fn take(&mut self, report: &Report, tells: Tells, outcome: Outcome) -> Result<(), Failure> {
        let is_json = report.is_json() && tells == Tells::Everything;
        let file = |found: &Found, outcome: &str| {
            match is_json {
            true => {
                report.json(&json!({ "event": "file", "key": found.key, "bytes": found.bytes, "outcome": outcome }))
            }
            false => Ok(()),
        }
        };
        match outcome {
            Outcome::Put(found) => {
                self.files += 1;
                self.bytes += found.bytes;
                file(&found, "imported")
            }
            Outcome::Unchanged(found) => {
                self.unchanged += 1;
                file(&found, "unchanged")
            }
            Outcome::Skipped { path, why } => {
                self.skipped += 1;
                match is_json {
                    true => report.json(&json!({ "event": "skipped", "path": path, "why": why })),
                    false if tells == Tells::Everything => {
                        report.note(&format!("skipped: {why}: path={path}"));
                        Ok(())
                    }
                    false => Ok(()),
                }
            }
            Outcome::Failed { path, why, .. } => {
                self.failed += 1;
                report.note(&format!("failed: {path}: {why}"));
                if is_json {
                    report.json(&json!({ "event": "failed", "path": path, "why": why }))
                } else {
                    Ok(())
                }
            }
            Outcome::Over(why) => Err(Failure::Failed(format!("the store has failed: {why}"))),
        }
    }

    fn tell(&self, report: &Report, took: Duration) -> Result<(), Failure> {
        report.result(
            || {
                json!({
                    "event": "summary",
                    "imported": self.files,
                    "bytes": self.bytes,
                    "unchanged": self.unchanged,
                    "skipped": self.skipped,
                    "failed": self.failed,
                    "elapsed_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                })
            },
            || {
                let files = human::counted(self.files, "file");
                let (bytes, took) = (human::bytes(self.bytes), human::duration(took));
                format!(
                    "imported {files}, {bytes}, in {took}; unchanged {}, skipped {}, failed {}",
                    human::grouped(self.unchanged),
                    human::grouped(self.skipped),
                    human::grouped(self.failed)
                )
            },
        )
    }

    /// An error if anything failed.
    pub(crate) fn success(&self) -> Result<(), Failure> {
        match self.failed {
            0 => Ok(()),
            failed => Err(Failure::Failed(format!(
                "{} could not be imported",
                human::counted(failed, "file")
            ))),
        }
    }
}
