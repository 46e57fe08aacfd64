//! Export of objects to files, with the mode and modification time that an import stored.
//!
//! ```text
//! existing target                     without --overwrite      with --overwrite
//! none                                written                  written
//! same size, time and mode            unchanged                unchanged
//! same size and bytes                 unchanged                unchanged, gets time and mode
//! another file, or a link             failed                   replaced
//! a device, a pipe or a socket        failed                   failed
//! ```
//!
//! Invariants: no key leads out of the directory, because a key without a path below it, such as
//! `../a`, fails; a file appears only when it is complete.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cenotaph::{Entry, ObjectMeta};
use futures::TryStreamExt;
use serde_json::json;

use crate::args::ExportArgs;
use crate::store::OpenStore;
use crate::transfer::compare::{Comparison, Unreadable, compare};
use crate::transfer::file_metadata::FileMetadata;
use crate::transfer::output::{ExistingTarget, Output, blocking, unfinished};
use crate::transfer::retry::retrying;
use crate::transfer::tree;
use crate::ui::clock::Stopwatch;
use crate::ui::failure::Failure;
use crate::ui::human;
use crate::ui::report::{Bar, Report};

/// Exports the objects of the command's prefix.
///
/// # Errors
/// [`Failure::Usage`] if the directory belongs to the store. [`Failure::Failed`] if the directory
/// can't be used, the objects can't be listed, or an object could not be exported; the other
/// objects are exported all the same.
pub(crate) async fn export(
    store: &OpenStore,
    report: &Report,
    options: &ExportArgs,
) -> Result<(), Failure> {
    let dir = &options.tree.dir;
    let prefix = tree::key_prefix(&options.tree.prefix);
    let created = std::fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    let dir = created.map_err(|error| {
        Failure::io(
            format!("the directory can't be used: path={}", dir.display()),
            &error,
        )
    })?;
    if store.owns(&dir) {
        return Err(Failure::Usage(format!(
            "this directory belongs to the store itself: path={}",
            dir.display()
        )));
    }
    let watch = Stopwatch::start(&store.env);
    let bar = report
        .bar("export", total_bytes(store, report, &prefix).await?)
        .of_files(None);
    let job = ExportJob {
        store,
        dir: &dir,
        prefix: &prefix,
        overwrite: options.overwrite,
        special_bits: options.special_bits,
        bar: &bar,
        cleaned: Cleaned::default(),
    };
    let listed = store
        .engine
        .list(prefix.as_str())
        .namespace(store.namespace.clone())
        .stream();
    // Objects are exported in any order, so that a large object does not hold up the others.
    let exports = listed.map_ok(|entry| async {
        let name = entry.name().to_owned();
        let outcome = match entry {
            Entry::Object(head) => Some(job.export_object(head).await),
            Entry::Prefix(_) => None,
        };
        Ok((name, outcome))
    });
    let mut outcomes = exports.try_buffer_unordered(options.tree.jobs);
    let mut exported = Exported::default();
    while let Some((key, outcome)) = outcomes.try_next().await? {
        bar.item_done();
        if let Some(outcome) = outcome {
            exported.take(report, &key, outcome)?;
        }
    }
    exported.print(report, watch.elapsed())?;
    match exported.failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!(
            "{} could not be exported",
            human::counted(failed, "object")
        ))),
    }
}

/// Sums the sizes of the objects for the progress bar, or returns `None` if no bar is visible.
async fn total_bytes(
    store: &OpenStore,
    report: &Report,
    prefix: &str,
) -> Result<Option<u64>, Failure> {
    if !report.shows_progress() {
        return Ok(None);
    }
    let mut listed = store
        .engine
        .list(prefix)
        .namespace(store.namespace.clone())
        .stream();
    let mut bytes = 0_u64;
    while let Some(entry) = listed.try_next().await? {
        if let Entry::Object(head) = entry {
            // A damaged row may have any size.
            bytes = bytes.saturating_add(head.metadata.size);
        }
    }
    Ok(Some(bytes))
}

/// Result of the export of an object.
enum ExportOutcome {
    /// The file was written and has this many bytes.
    Written(u64),
    /// The file was up to date and has this many bytes.
    Unchanged(u64),
    /// The export failed for this reason.
    Failed(String),
}

/// Parameters of an export, shared by the exports of its objects.
struct ExportJob<'a> {
    store: &'a OpenStore,
    dir: &'a Path,
    prefix: &'a str,
    overwrite: bool,
    special_bits: bool,
    bar: &'a Bar,
    cleaned: Cleaned,
}

impl ExportJob<'_> {
    /// Exports an object.
    async fn export_object(&self, head: ObjectMeta) -> ExportOutcome {
        let relative = head
            .id
            .key()
            .strip_prefix(self.prefix)
            .and_then(tree::path_of);
        let Some(path) = relative.map(|relative| self.dir.join(relative)) else {
            return ExportOutcome::Failed("the key has no path below the directory".to_owned());
        };
        let file_metadata = self.file_metadata(&head);
        let existing = match self.plan(&head, &path, file_metadata).await {
            Ok(ExportDecision::Write(existing)) => existing,
            Ok(ExportDecision::Keep) => return ExportOutcome::Unchanged(head.metadata.size),
            Err(why) => return ExportOutcome::Failed(why),
        };
        match self.write(&head, &path, file_metadata, existing).await {
            Ok(bytes) => ExportOutcome::Written(bytes),
            Err(failure) => ExportOutcome::Failed(failure.to_string()),
        }
    }

    /// Returns the mode and time that the file of this object gets.
    fn file_metadata(&self, head: &ObjectMeta) -> FileMetadata {
        let file_metadata = FileMetadata::from_custom(&head.metadata.attributes.custom);
        // Dropped by default: anybody who can write to the store could otherwise plant a setuid
        // program.
        if self.special_bits {
            file_metadata
        } else {
            file_metadata.without_special_bits()
        }
    }

    /// Decides whether to write the file; see the table at the head of this file. Bytes are
    /// compared only if the sizes are equal and time or mode differs.
    async fn plan(
        &self,
        head: &ObjectMeta,
        path: &Path,
        file_metadata: FileMetadata,
    ) -> Result<ExportDecision, String> {
        let failed = |error| Failure::io(path.display(), &error).to_string();
        let found = self
            .found(path, head.metadata.size, file_metadata)
            .await
            .map_err(failed)?;
        let is_same = match found {
            TargetState::Nothing => return Ok(ExportDecision::Write(ExistingTarget::Refuse)),
            TargetState::Special => {
                return Err(format!(
                    "the target is a special file: path={}",
                    path.display()
                ));
            }
            // Size, time and mode suffice here: an export sets the time of every file it writes,
            // and a later change of the file changes its time.
            TargetState::Same => {
                self.bar.add(head.metadata.size);
                return Ok(ExportDecision::Keep);
            }
            TargetState::SameSize => match compare(self.store, &head.id, path, self.bar).await {
                Ok(verdict) => verdict == Comparison::Same,
                // An unreadable file can't be compared, but its directory may permit a replacement.
                Err(Unreadable::File(_)) if self.overwrite => false,
                Err(unreadable) => return Err(unreadable.to_string()),
            },
            TargetState::Other => false,
        };
        match (is_same, self.overwrite) {
            (true, true) => self
                .set_metadata(path, file_metadata)
                .await
                .map_err(failed)
                .map(|()| ExportDecision::Keep),
            (true, false) => Ok(ExportDecision::Keep),
            (false, true) => Ok(ExportDecision::Write(ExistingTarget::Replace)),
            (false, false) => Err(format!(
                "the target is another file; give --overwrite to replace it: path={}",
                path.display()
            )),
        }
    }

    /// Returns the state of the target, and creates its directory if the target is absent.
    async fn found(
        &self,
        path: &Path,
        bytes: u64,
        file_metadata: FileMetadata,
    ) -> io::Result<TargetState> {
        let path = path.to_owned();
        let cleaned = self.cleaned.clone();
        let look = move || {
            path.parent().inspect(|dir| cleaned.clean(dir));
            match std::fs::symlink_metadata(&path) {
                Ok(there) if there.is_file() && there.len() == bytes => {
                    let is_same =
                        file_metadata.has_mtime() && FileMetadata::of(&there) == file_metadata;
                    Ok(if is_same {
                        TargetState::Same
                    } else {
                        TargetState::SameSize
                    })
                }
                // A directory makes the rename fail with a fitting error. A link is replaced, never
                // followed: it may lead out of the tree.
                Ok(there) if there.is_file() || there.is_dir() || there.is_symlink() => {
                    Ok(TargetState::Other)
                }
                Ok(_) => Ok(TargetState::Special),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                    Ok(TargetState::Nothing)
                }
                Err(error) => Err(error),
            }
        };
        blocking(&self.store.env, look).await
    }

    /// Sets mode and time of an existing file.
    async fn set_metadata(&self, path: &Path, file_metadata: FileMetadata) -> io::Result<()> {
        let path = path.to_owned();
        blocking(&self.store.env, move || {
            file_metadata.apply(&File::open(path)?)
        })
        .await
    }

    /// Writes an object to a file. Returns its number of bytes.
    async fn write(
        &self,
        head: &ObjectMeta,
        path: &Path,
        file_metadata: FileMetadata,
        existing: ExistingTarget,
    ) -> Result<u64, Failure> {
        let failed = |error| {
            Failure::io(
                format!("the file can't be written: path={}", path.display()),
                &error,
            )
        };
        let env = &self.store.env;
        let found = retrying(env, async || self.store.engine.get(&head.id).await).await?;
        let Some(mut object) = found else {
            return Err(Failure::Failed(
                "the object was deleted during the export".to_owned(),
            ));
        };
        let mut output = Output::at(env, path).await.map_err(failed)?;
        let mut written = 0;
        while let Some(chunk) = object.chunk().await? {
            let bytes = chunk.len() as u64;
            output = output.write(env, chunk).await.map_err(failed)?;
            written += bytes;
            self.bar.add(bytes);
        }
        output
            .finish(env, file_metadata, existing)
            .await
            .map_err(failed)?;
        Ok(written)
    }
}

/// Directories from which the remnants of killed exports have been removed.
#[derive(Clone, Default)]
struct Cleaned(Arc<Mutex<BTreeSet<PathBuf>>>);

impl Cleaned {
    /// Removes the remnants in a directory, once per directory.
    fn clean(&self, dir: &Path) {
        // Once, because reading a large directory for each of its files would be quadratic.
        if self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(dir.to_owned())
        {
            unfinished::remove_abandoned(dir);
        }
    }
}

/// State of the target of an export.
enum TargetState {
    /// The target does not exist.
    Nothing,
    /// A file of the same size, time and mode.
    Same,
    /// A file of the same size.
    SameSize,
    /// Another file, a link, or a directory.
    Other,
    /// A device, a pipe or a socket.
    Special,
}

/// Decision on an object.
enum ExportDecision {
    /// Write the file.
    Write(ExistingTarget),
    /// Keep the existing file.
    Keep,
}

/// Counts of an export.
#[derive(Default)]
struct Exported {
    files: u64,
    bytes: u64,
    unchanged: u64,
    failed: u64,
}

impl Exported {
    /// Counts and prints the result of an object.
    fn take(&mut self, report: &Report, key: &str, outcome: ExportOutcome) -> Result<(), Failure> {
        let file = |bytes: u64, outcome: &str| match report.is_json() {
            true => report
                .json(&json!({ "event": "file", "key": key, "bytes": bytes, "outcome": outcome })),
            false => Ok(()),
        };
        match outcome {
            ExportOutcome::Written(bytes) => {
                self.files += 1;
                self.bytes += bytes;
                file(bytes, "exported")
            }
            ExportOutcome::Unchanged(bytes) => {
                self.unchanged += 1;
                file(bytes, "unchanged")
            }
            ExportOutcome::Failed(why) => {
                self.failed += 1;
                report.note(&format!("failed: {}: {why}", human::key(key)));
                match report.is_json() {
                    true => report.json(&json!({ "event": "failed", "key": key, "why": why })),
                    false => Ok(()),
                }
            }
        }
    }

    /// Prints the summary.
    fn print(&self, report: &Report, took: Duration) -> Result<(), Failure> {
        report.result(
            || {
                json!({
                    "event": "summary",
                    "exported": self.files,
                    "bytes": self.bytes,
                    "unchanged": self.unchanged,
                    "failed": self.failed,
                    "elapsed_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                })
            },
            || {
                let files = human::counted(self.files, "file");
                let bytes = human::bytes(self.bytes);
                let unchanged = human::grouped(self.unchanged);
                let failed = human::grouped(self.failed);
                format!(
                    "exported {files}, {bytes}, in {}; unchanged {unchanged}, failed {failed}",
                    human::duration(took)
                )
            },
        )
    }
}
