//! Import of directory trees into the store: concurrent and resumable.
//!
//! ```text
//! walk ──> unchanged?  object has same size, time and mode (--checksum: same bytes)   yes: skip
//!             │ no
//!             └──> put, with the mode and time that the file had before the read
//! ```
//!
//! Invariant: a file that changes during the import is imported again by the next run. A change of
//! the length fails the put, and the file is read afresh, once. A change without a new length is
//! stored with the earlier modification time, which differs from that of the file.

use std::path::Path;
use std::time::Duration;

use cenotaph::ErrorKind;
use futures::StreamExt;
use serde_json::json;

use crate::store::OpenStore;
use crate::transfer::compare::{Comparison, compare};
use crate::transfer::file_metadata::FileMetadata;
use crate::transfer::put_file::{SourceFile, put_file};
use crate::transfer::put_options::{PutError, PutOptions};
use crate::transfer::retry::retrying;
use crate::transfer::tree::{self, FoundFile, Root, WalkStep};
use crate::ui::failure::{Failure, one_line};
use crate::ui::human;
use crate::ui::report::{Bar, Report};

/// Number of consecutive files refused by the store after which the import gives up: the cause is
/// the store then, not the files.
const STORE_FAILURES_MAX: u32 = 32;

/// Criterion for files that need no import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// Size, time and mode are equal.
    ByMetadata,
    /// All bytes are equal.
    ByContent,
}

/// Output of an import about single files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tells {
    /// Each file with `--json`, each skipped entry, and each failure.
    Everything,
    /// Failures only.
    Failures,
}

/// Parameters of an import.
pub(crate) struct ImportOptions {
    /// Trees to import.
    pub(crate) roots: Vec<Root>,
    /// Number of files that are imported at once.
    pub(crate) jobs: usize,
    /// Criterion for files that are skipped.
    pub(crate) by: Unchanged,
    /// Output about single files.
    pub(crate) tells: Tells,
}

/// Counts of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Imported {
    /// Number of files that were put.
    pub(crate) files: u64,
    /// Bytes of these files.
    pub(crate) bytes: u64,
    /// Number of files that were already imported.
    pub(crate) unchanged: u64,
    /// Number of entries that are no regular files.
    pub(crate) skipped: u64,
    /// Number of files whose import failed.
    pub(crate) failed: u64,
}

/// Result of a step of the walk.
enum ImportOutcome {
    /// The file was put.
    Put(FoundFile),
    /// The file was already imported.
    Unchanged(FoundFile),
    /// The entry is no regular file.
    Skipped { path: String, why: &'static str },
    /// The import of the file failed.
    Failed {
        path: String,
        why: String,
        is_of_store: bool,
    },
    /// The store accepts no more writes.
    Over(String),
}

/// Imports the trees.
///
/// # Errors
/// [`Failure::Failed`] if the store accepts no more files. Failures of single files are counted.
pub(crate) async fn import(
    store: &OpenStore,
    report: &Report,
    plan: &ImportOptions,
) -> Result<Imported, Failure> {
    let total = if report.shows_progress() {
        Some(tree::count(&store.env, &plan.roots).await?)
    } else {
        None
    };
    let bar = report
        .bar("import", total.map(|total| total.bytes))
        .of_files(total.map(|total| total.files));
    // Files are imported in any order, so that a large file does not hold up the others.
    let outcomes = tree::walk(&store.env, &plan.roots)
        .map(|step| import_step(store, plan.by, step, &bar))
        .buffer_unordered(plan.jobs);
    let mut outcomes = std::pin::pin!(outcomes);
    let mut imported = Imported::default();
    let mut failures_in_a_row = 0;
    while let Some(outcome) = outcomes.next().await {
        match &outcome {
            ImportOutcome::Failed {
                is_of_store: true, ..
            } => failures_in_a_row += 1,
            // All later files would fail as well.
            ImportOutcome::Over(_) => failures_in_a_row = STORE_FAILURES_MAX,
            ImportOutcome::Put(_) | ImportOutcome::Unchanged(_) => failures_in_a_row = 0,
            // These do not reach the store, so they neither confirm nor refute its failure.
            ImportOutcome::Skipped { .. } | ImportOutcome::Failed { .. } => {}
        }
        bar.item_done();
        imported.take(report, plan.tells, outcome)?;
        if failures_in_a_row == STORE_FAILURES_MAX {
            return Err(Failure::Failed(
                "the store accepts no more files; run the import again to resume it".to_owned(),
            ));
        }
    }
    Ok(imported)
}

/// Imports a step of the walk.
async fn import_step(store: &OpenStore, by: Unchanged, step: WalkStep, bar: &Bar) -> ImportOutcome {
    match step {
        WalkStep::File(found) => import_file(store, by, found, bar).await,
        WalkStep::Skipped { path, why } => ImportOutcome::Skipped {
            path: path.display().to_string(),
            why,
        },
        WalkStep::Failed { path, why } => ImportOutcome::Failed {
            path,
            why,
            is_of_store: false,
        },
    }
}

/// Imports a file unless it is unchanged.
async fn import_file(
    store: &OpenStore,
    by: Unchanged,
    found: FoundFile,
    bar: &Bar,
) -> ImportOutcome {
    let failed = |why: String, is_of_store| ImportOutcome::Failed {
        path: found.path.display().to_string(),
        why,
        is_of_store,
    };
    let id = match store.id(&found.key) {
        Ok(id) => id,
        Err(failure) => return failed(failure.to_string(), false),
    };
    match is_unchanged(store, by, &found, &id, bar).await {
        Ok(true) => return ImportOutcome::Unchanged(found),
        Ok(false) => {}
        Err(error) => return failed(one_line(&error), true),
    }
    let mut current = found.clone();
    // A file that changes during the read gets a second attempt with fresh metadata. There is no
    // third: a file that is written all the time would never be done.
    for is_last in [false, true] {
        let source = SourceFile {
            path: current.path.clone(),
            bytes: current.bytes,
        };
        let put_options = PutOptions {
            // Taken before the read: if the file changes meanwhile, its time differs from the
            // stored time, and the next import reads it again.
            custom: current.file_metadata.to_custom(),
            ..PutOptions::default()
        };
        match put_file(store, &id, &source, &put_options, bar).await {
            Ok(_) => return ImportOutcome::Put(current),
            Err(error) if error.is_of_source() && !is_last => match refresh(&current).await {
                Ok(again) => current = again,
                Err(error) => return failed(PutError::File(error).message(), false),
            },
            Err(PutError::Store(error)) if is_over(&error) => {
                return ImportOutcome::Over(one_line(&error));
            }
            Err(error) => return failed(error.message(), matches!(error, PutError::Store(_))),
        }
    }
    failed(PutError::Changed.message(), false)
}

/// Returns whether the engine fails all later calls after this error.
fn is_over(error: &cenotaph::Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Indeterminate)
}

/// Reads the metadata of a file again.
async fn refresh(found: &FoundFile) -> std::io::Result<FoundFile> {
    let metadata = tokio::fs::symlink_metadata(&found.path).await?;
    Ok(FoundFile {
        bytes: metadata.len(),
        file_metadata: FileMetadata::of(&metadata),
        ..found.clone()
    })
}

/// Returns whether the object of a file is up to date.
async fn is_unchanged(
    store: &OpenStore,
    by: Unchanged,
    found: &FoundFile,
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
        Unchanged::ByMetadata => {
            let is_same = found.file_metadata.has_mtime()
                && FileMetadata::from_custom(&head.metadata.attributes.custom)
                    == found.file_metadata;
            if is_same {
                bar.add(found.bytes);
            }
            Ok(is_same)
        }
        // An unreadable object counts as changed: the import replaces it.
        Unchanged::ByContent => Ok(matches!(
            compare(store, id, Path::new(&found.path), bar).await,
            Ok(Comparison::Same)
        )),
    }
}

impl Imported {
    /// Counts and prints the result of a step.
    fn take(
        &mut self,
        report: &Report,
        tells: Tells,
        outcome: ImportOutcome,
    ) -> Result<(), Failure> {
        let is_json = report.is_json() && tells == Tells::Everything;
        let file = |found: &FoundFile, outcome: &str| match is_json {
            true => report.json(&json!({
                "event": "file",
                "key": found.key,
                "bytes": found.bytes,
                "outcome": outcome,
            })),
            false => Ok(()),
        };
        match outcome {
            ImportOutcome::Put(found) => {
                self.files += 1;
                self.bytes += found.bytes;
                file(&found, "imported")
            }
            ImportOutcome::Unchanged(found) => {
                self.unchanged += 1;
                file(&found, "unchanged")
            }
            ImportOutcome::Skipped { path, why } => {
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
            ImportOutcome::Failed { path, why, .. } => {
                self.failed += 1;
                report.note(&format!("failed: {path}: {why}"));
                if is_json {
                    report.json(&json!({ "event": "failed", "path": path, "why": why }))
                } else {
                    Ok(())
                }
            }
            ImportOutcome::Over(why) => {
                Err(Failure::Failed(format!("the store has failed: {why}")))
            }
        }
    }

    /// Prints the summary.
    pub(crate) fn print(&self, report: &Report, took: Duration) -> Result<(), Failure> {
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
                let bytes = human::bytes(self.bytes);
                let took = human::duration(took);
                format!(
                    "imported {files}, {bytes}, in {took}; unchanged {}, skipped {}, failed {}",
                    human::grouped(self.unchanged),
                    human::grouped(self.skipped),
                    human::grouped(self.failed)
                )
            },
        )
    }

    /// Returns an error if a file failed.
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
