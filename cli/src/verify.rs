//! `verify`: the store against a tree, every byte of both, in both directions.
//!
//! ```text
//! every file of the tree    its object is there and has the same bytes    else: missing, differs, unreadable
//! every object of the store its file is there                             else: extra
//! ```

use std::path::Path;
use std::time::Duration;

use cenotaph::Entry;
use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use crate::args::VerifyArgs;
use crate::clock::Stopwatch;
use crate::compare::{Unreadable, Verdict, compare};
use crate::failure::{Failure, one_line};
use crate::human;
use crate::output::blocking;
use crate::report::{Bar, Report};
use crate::store::Store;
use crate::tree::{self, Found, Root, Step};

/// Keys that are looked up in the tree at once.
const KEYS_AT_ONCE: usize = 256;

pub(crate) async fn run(
    store: &Store,
    report: &Report,
    options: &VerifyArgs,
) -> Result<(), Failure> {
    let root = Root::new(
        &options.tree.dir,
        &options.tree.prefix,
        &options.exclude,
        &store.own_dirs,
    )?;
    let watch = Stopwatch::start(&store.env);
    let verified = verify(store, report, &[root], options.tree.jobs).await?;
    verified.tell(report, watch.elapsed())?;
    verified.success()
}

/// Something that is not as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// The object's key, or the file's path where there is no key.
    pub(crate) name: String,
    /// Which kind of problem, in one word.
    pub(crate) kind: &'static str,
    /// What exactly.
    pub(crate) detail: String,
}

/// What a comparison came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verified {
    /// Files that are the same as their objects.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// What is no regular file.
    pub(crate) skipped: u64,
    /// How much is not as it should be.
    pub(crate) problems: u64,
    /// The first of it.
    pub(crate) first: Option<Problem>,
}

/// Compares the trees with the store, and says each problem as it is found.
pub(crate) async fn verify(
    store: &Store,
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
        bar.one_done();
        verified.take(report, checked)?;
    }
    for root in roots {
        extras(store, report, root, &mut verified).await?;
    }
    Ok(verified)
}

/// What one step of the walk came to.
enum Checked {
    Same(u64),
    Skipped,
    Wrong(Problem),
}

async fn check(store: &Store, step: Step, bar: &Bar) -> Checked {
    match step {
        Step::File(found) => match check_file(store, &found, bar).await {
            None => Checked::Same(found.bytes),
            Some(problem) => Checked::Wrong(problem),
        },
        Step::Skipped { .. } => Checked::Skipped,
        Step::Failed { path, why } => Checked::Wrong(Problem {
            name: path,
            kind: "unreadable",
            detail: why,
        }),
    }
}

/// What is wrong with the object of a file, if anything is.
pub(crate) async fn check_file(store: &Store, found: &Found, bar: &Bar) -> Option<Problem> {
    let problem = |kind, detail| {
        Some(Problem {
            name: found.key.clone(),
            kind,
            detail,
        })
    };
    let id = match store.id(&found.key) {
        Ok(id) => id,
        Err(failure) => return problem("missing", failure.to_string()),
    };
    match compare(store, &id, Path::new(&found.path), bar).await {
        Ok(Verdict::Same) => None,
        Ok(Verdict::Size { object, file }) => problem(
            "differs",
            format!("the object has {object} bytes, the file {file}"),
        ),
        Ok(Verdict::Byte(at)) => problem("differs", format!("first at byte {at}")),
        Ok(Verdict::Missing) => problem("missing", "the store has no such object".to_owned()),
        Ok(Verdict::NoFile) => problem("differs", "the file went away".to_owned()),
        Err(Unreadable::Object(error)) if error.kind() == cenotaph::ErrorKind::Corrupt => {
            problem("damaged", one_line(&error))
        }
        Err(unreadable) => problem("unreadable", unreadable.to_string()),
    }
}

/// Looks for objects without a file.
async fn extras(
    store: &Store,
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
                Checked::Wrong(Problem {
                    name,
                    kind: "extra",
                    detail,
                }),
            )?;
        }
    }
    Ok(())
}

/// Whether the object of this key has a file. One that can't be looked at has been reported by the
/// walk.
fn has_file(root: &Root, key: &str) -> bool {
    let Some(relative) = key.strip_prefix(&root.prefix).and_then(tree::path_of) else {
        return false;
    };
    match std::fs::symlink_metadata(root.dir.join(relative)) {
        Ok(metadata) => metadata.is_file(),
        Err(error) => !matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
        ),
    }
}

impl Verified {
    fn take(&mut self, report: &Report, checked: Checked) -> Result<(), Failure> {
        match checked {
            Checked::Same(bytes) => {
                self.files += 1;
                self.bytes += bytes;
            }
            Checked::Skipped => self.skipped += 1,
            Checked::Wrong(problem) => {
                self.problems += 1;
                problem.tell(report)?;
                self.first.get_or_insert(problem);
            }
        }
        Ok(())
    }

    fn tell(&self, report: &Report, took: Duration) -> Result<(), Failure> {
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
                let (files, bytes) = (human::counted(self.files, "file"), human::bytes(self.bytes));
                let problems = human::counted(self.problems, "problem");
                let skipped = human::grouped(self.skipped);
                format!(
                    "the same {files}, {bytes}, in {}; skipped {skipped}; {problems}",
                    human::duration(took)
                )
            },
        )
    }

    /// An error if anything is wrong.
    pub(crate) fn success(&self) -> Result<(), Failure> {
        match &self.first {
            None => Ok(()),
            Some(first) => {
                let (problems, name) = (
                    human::counted(self.problems, "problem"),
                    human::key(&first.name),
                );
                Err(Failure::Failed(format!(
                    "{problems}; the first: {} {name}: {}",
                    first.kind, first.detail
                )))
            }
        }
    }
}

impl Problem {
    pub(crate) fn tell(&self, report: &Report) -> Result<(), Failure> {
        report.result(
            || json!({ "event": "problem", "problem": self.kind, "name": self.name, "detail": self.detail }),
            || format!("{} {}: {}", self.kind, human::key(&self.name), self.detail),
        )
    }
}
