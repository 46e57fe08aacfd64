//! `export`: every object as a file, with the mode and time that an import kept.
//!
//! A key that means no path below the directory, such as `../a`, is refused and named; so is a file that is there and
//! differs, unless it may be overwritten. Each file appears when it is whole.

use std::path::Path;
use std::time::Duration;

use cenotaph::{Entry, Head};
use futures::TryStreamExt;
use serde_json::json;

use crate::args::ExportArgs;
use crate::clock::Stopwatch;
use crate::failure::Failure;
use crate::human;
use crate::output::{Existing, Output, blocking};
use crate::report::{Bar, Report};
use crate::retry::retrying;
use crate::stamp::Stamp;
use crate::store::Store;
use crate::tree;

pub(crate) async fn run(store: &Store, report: &Report, options: &ExportArgs) -> Result<(), Failure> {
    let dir = &options.tree.dir;
    let prefix = tree::key_prefix(&options.tree.prefix);
    let made = std::fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    let dir =
        made.map_err(|error| Failure::io(format!("the directory can't be used: path={}", dir.display()), &error))?;
    if store.owns(&dir) {
        return Err(Failure::Usage(format!("this directory belongs to the store itself: path={}", dir.display())));
    }
    let watch = Stopwatch::start(&store.env);
    let bar = report.bar("export", total_bytes(store, report, &prefix).await?).of_files(None);
    let job = Job { store, dir: &dir, prefix: &prefix, overwrite: options.overwrite, bar: &bar };
    let listed = store.engine.list(prefix.as_str()).namespace(store.namespace.clone()).stream();
    let exports = listed.map_ok(|entry| async {
        let name = entry.name().to_owned();
        let outcome = match entry {
            Entry::Object(head) => Some(job.one(head).await),
            Entry::Prefix(_) => None,
        };
        Ok((name, outcome))
    });
    let mut outcomes = exports.try_buffer_unordered(options.tree.jobs);
    let mut exported = Exported::default();
    while let Some((key, outcome)) = outcomes.try_next().await? {
        bar.one_done();
        if let Some(outcome) = outcome {
            exported.take(report, &key, outcome)?;
        }
    }
    exported.tell(report, watch.elapsed())?;
    match exported.failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!("{} could not be exported", human::counted(failed, "object")))),
    }
}

async fn total_bytes(store: &Store, report: &Report, prefix: &str) -> Result<Option<u64>, Failure> {
    if !report.shows_progress() {
        return Ok(None);
    }
    let mut listed = store.engine.list(prefix).namespace(store.namespace.clone()).stream();
    let mut bytes = 0;
    while let Some(entry) = listed.try_next().await? {
        if let Entry::Object(head) = entry {
            bytes += head.metadata.size;
        }
    }
    Ok(Some(bytes))
}

/// What became of an object.
enum Outcome {
    Written(u64),
    Unchanged(u64),
    Failed(String),
}

struct Job<'a> {
    store: &'a Store,
    dir: &'a Path,
    prefix: &'a str,
    overwrite: bool,
    bar: &'a Bar,
}

impl Job<'_> {
    async fn one(&self, head: Head) -> Outcome {
        let relative = head.id.key().strip_prefix(self.prefix).and_then(tree::path_of);
        let Some(path) = relative.map(|relative| self.dir.join(relative)) else {
            return Outcome::Failed("the key means no file below the directory".to_owned());
        };
        let stamp = Stamp::from_custom(&head.metadata.attributes.custom);
        let existing = match self.existing(&path, head.metadata.size, stamp).await {
            Ok(Found::Same) => {
                self.bar.add(head.metadata.size);
                return Outcome::Unchanged(head.metadata.size);
            }
            Ok(Found::Other) if !self.overwrite => {
                return Outcome::Failed(format!("a file that differs is there: path={}", path.display()));
            }
            Ok(Found::Other) => Existing::Replace,
            Ok(Found::Nothing) => Existing::Refuse,
            Err(error) => return Outcome::Failed(Failure::io(path.display(), &error).to_string()),
        };
        match self.write(&head, &path, stamp, existing).await {
            Ok(bytes) => Outcome::Written(bytes),
            Err(failure) => Outcome::Failed(failure.to_string()),
        }
    }

    /// What is there; its directory is there after it.
    async fn existing(&self, path: &Path, bytes: u64, stamp: Stamp) -> std::io::Result<Found> {
        let path = path.to_owned();
        let look = move || match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                let is_same = metadata.len() == bytes && stamp.has_mtime() && Stamp::of(&metadata) == stamp;
                Ok(if is_same { Found::Same } else { Found::Other })
            }
            // A directory makes the write fail, as it should; a link is replaced, never followed.
            Ok(_) => Ok(Found::Other),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                Ok(Found::Nothing)
            }
            Err(error) => Err(error),
        };
        blocking(&self.store.env, look).await
    }

    async fn write(&self, head: &Head, path: &Path, stamp: Stamp, existing: Existing) -> Result<u64, Failure> {
        let failed = |error| Failure::io(format!("the file can't be written: path={}", path.display()), &error);
        let env = &self.store.env;
        let found = retrying(env, async || self.store.engine.get(&head.id).await).await?;
        let Some(mut object) = found else {
            return Err(Failure::Failed("it was deleted meanwhile".to_owned()));
        };
        let mut output = Output::at(env, path).await.map_err(failed)?;
        let mut written = 0;
        while let Some(chunk) = object.chunk().await? {
            let bytes = chunk.len() as u64;
            output = output.write(env, chunk).await.map_err(failed)?;
            written += bytes;
            self.bar.add(bytes);
        }
        output.finish(env, stamp, existing).await.map_err(failed)?;
        Ok(written)
    }
}

/// What is at the place of a file that is to be written.
enum Found {
    Nothing,
    Same,
    Other,
}

/// What an export came to.
#[derive(Default)]
struct Exported {
    files: u64,
    bytes: u64,
    unchanged: u64,
    failed: u64,
}

impl Exported {
    fn take(&mut self, report: &Report, key: &str, outcome: Outcome) -> Result<(), Failure> {
        let file = |bytes: u64, outcome: &str| match report.is_json() {
            true => report.json(&json!({ "event": "file", "key": key, "bytes": bytes, "outcome": outcome })),
            false => Ok(()),
        };
        match outcome {
            Outcome::Written(bytes) => {
                self.files += 1;
                self.bytes += bytes;
                file(bytes, "exported")
            }
            Outcome::Unchanged(bytes) => {
                self.unchanged += 1;
                file(bytes, "unchanged")
            }
            Outcome::Failed(why) => {
                self.failed += 1;
                report.note(&format!("failed: {}: {why}", human::key(key)));
                match report.is_json() {
                    true => report.json(&json!({ "event": "failed", "key": key, "why": why })),
                    false => Ok(()),
                }
            }
        }
    }

    fn tell(&self, report: &Report, took: Duration) -> Result<(), Failure> {
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
                let (files, bytes) = (human::counted(self.files, "file"), human::bytes(self.bytes));
                let (unchanged, failed) = (human::grouped(self.unchanged), human::grouped(self.failed));
                format!(
                    "exported {files}, {bytes}, in {}; unchanged {unchanged}, failed {failed}",
                    human::duration(took)
                )
            },
        )
    }
}
