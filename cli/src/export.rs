//! `export`: every object as a file, with the mode and time that an import kept.
//!
//! A key that means no path below the directory, such as `../a`, is refused and named; so is a file
//! that is there and differs, unless it may be overwritten. Each file appears when it is whole.
//!
//! ```text
//! what is there                       without --overwrite      with it
//! nothing                             written                  written
//! same size, time and mode            unchanged                unchanged
//! same size, same bytes               unchanged                unchanged, gets time and mode
//! another file, or a link             failed                   replaced
//! a device, a pipe or a socket        failed                   failed
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cenotaph::{Entry, Head};
use futures::TryStreamExt;
use serde_json::json;

use crate::args::ExportArgs;
use crate::clock::Stopwatch;
use crate::compare::{Unreadable, Verdict, compare};
use crate::failure::Failure;
use crate::human;
use crate::output::{Existing, Output, blocking, unfinished};
use crate::report::{Bar, Report};
use crate::retry::retrying;
use crate::stamp::Stamp;
use crate::store::Store;
use crate::tree;

pub(crate) async fn run(
    store: &Store,
    report: &Report,
    options: &ExportArgs,
) -> Result<(), Failure> {
    let dir = &options.tree.dir;
    let prefix = tree::key_prefix(&options.tree.prefix);
    let made = std::fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    let dir = made.map_err(|error| {
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
    let (overwrite, special_bits, cleaned) =
        (options.overwrite, options.special_bits, Cleaned::default());
    let job = Job {
        store,
        dir: &dir,
        prefix: &prefix,
        overwrite,
        special_bits,
        bar: &bar,
        cleaned,
    };
    let listed = store
        .engine
        .list(prefix.as_str())
        .namespace(store.namespace.clone())
        .stream();
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
        failed => Err(Failure::Failed(format!(
            "{} could not be exported",
            human::counted(failed, "object")
        ))),
    }
}

async fn total_bytes(store: &Store, report: &Report, prefix: &str) -> Result<Option<u64>, Failure> {
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
    special_bits: bool,
    bar: &'a Bar,
    cleaned: Cleaned,
}

impl Job<'_> {
    async fn one(&self, head: Head) -> Outcome {
        let relative = head
            .id
            .key()
            .strip_prefix(self.prefix)
            .and_then(tree::path_of);
        let Some(path) = relative.map(|relative| self.dir.join(relative)) else {
            return Outcome::Failed("the key means no file below the directory".to_owned());
        };
        let stamp = self.stamp(&head);
        let existing = match self.plan(&head, &path, stamp).await {
            Ok(Plan::Write(existing)) => existing,
            Ok(Plan::Keep) => return Outcome::Unchanged(head.metadata.size),
            Err(why) => return Outcome::Failed(why),
        };
        match self.write(&head, &path, stamp, existing).await {
            Ok(bytes) => Outcome::Written(bytes),
            Err(failure) => Outcome::Failed(failure.to_string()),
        }
    }

    fn stamp(&self, head: &Head) -> Stamp {
        let stamp = Stamp::from_custom(&head.metadata.attributes.custom);
        if self.special_bits {
            stamp
        } else {
            stamp.without_special_bits()
        }
    }

    /// Decides what to do by what is there: its bytes are compared where its size fits and its time
    /// or mode does not.
    async fn plan(&self, head: &Head, path: &Path, stamp: Stamp) -> Result<Plan, String> {
        let failed = |error| Failure::io(path.display(), &error).to_string();
        let found = self
            .found(path, head.metadata.size, stamp)
            .await
            .map_err(failed)?;
        let is_same = match found {
            Found::Nothing => return Ok(Plan::Write(Existing::Refuse)),
            Found::Special => {
                return Err(format!("a special file is there: path={}", path.display()));
            }
            Found::Same => {
                self.bar.add(head.metadata.size);
                return Ok(Plan::Keep);
            }
            Found::SameSize => match compare(self.store, &head.id, path, self.bar).await {
                Ok(verdict) => verdict == Verdict::Same,
                // Its owner may replace a file that can't be read.
                Err(Unreadable::File(_)) if self.overwrite => false,
                Err(unreadable) => return Err(unreadable.to_string()),
            },
            Found::Other => false,
        };
        match (is_same, self.overwrite) {
            (true, true) => self
                .restamp(path, stamp)
                .await
                .map_err(failed)
                .map(|()| Plan::Keep),
            (true, false) => Ok(Plan::Keep),
            (false, true) => Ok(Plan::Write(Existing::Replace)),
            (false, false) => Err(format!(
                "a file that differs is there: path={}",
                path.display()
            )),
        }
    }

    /// Returns the state of the path, and creates its directory.
    async fn found(&self, path: &Path, bytes: u64, stamp: Stamp) -> io::Result<Found> {
        let (path, cleaned) = (path.to_owned(), self.cleaned.clone());
        let look = move || {
            path.parent().inspect(|dir| cleaned.clean(dir));
            match std::fs::symlink_metadata(&path) {
                Ok(there) if there.is_file() && there.len() == bytes => {
                    let is_same = stamp.has_mtime() && Stamp::of(&there) == stamp;
                    Ok(if is_same {
                        Found::Same
                    } else {
                        Found::SameSize
                    })
                }
                // A directory makes the write fail, as it should; a link is replaced, never
                // followed.
                Ok(there) if there.is_file() || there.is_dir() || there.is_symlink() => {
                    Ok(Found::Other)
                }
                Ok(_) => Ok(Found::Special),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                    Ok(Found::Nothing)
                }
                Err(error) => Err(error),
            }
        };
        blocking(&self.store.env, look).await
    }

    /// Gives a file that is there the mode and time of the object.
    async fn restamp(&self, path: &Path, stamp: Stamp) -> io::Result<()> {
        let path = path.to_owned();
        blocking(&self.store.env, move || stamp.apply(&File::open(path)?)).await
    }

    async fn write(
        &self,
        head: &Head,
        path: &Path,
        stamp: Stamp,
        existing: Existing,
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

/// Directories that are looked through for what killed exports left: each once.
#[derive(Clone, Default)]
struct Cleaned(Arc<Mutex<BTreeSet<PathBuf>>>);

impl Cleaned {
    /// Looks through it, unless that was done before.
    fn clean(&self, dir: &Path) {
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

/// What is at the place of a file that is to be written.
enum Found {
    Nothing,
    /// A file of the same size, time and mode.
    Same,
    /// A file of the same size.
    SameSize,
    Other,
    /// A device, a pipe or a socket.
    Special,
}

/// The work to be done for an object.
enum Plan {
    Write(Existing),
    Keep,
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
            true => report
                .json(&json!({ "event": "file", "key": key, "bytes": bytes, "outcome": outcome })),
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
                let (unchanged, failed) =
                    (human::grouped(self.unchanged), human::grouped(self.failed));
                format!(
                    "exported {files}, {bytes}, in {}; unchanged {unchanged}, failed {failed}",
                    human::duration(took)
                )
            },
        )
    }
}
