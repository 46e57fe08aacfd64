//! The child process that imports ([`run`]), and the parent that kills it ([`ChildStage`]).
//!
//! ```text
//! child                                  parent
//! file durable ── line of JSON ────────> reads lines, polls the bytes of the blob tier
//!                                        random number of files or bytes reached
//!              <──────── SIGKILL ─────── reads the rest of the pipe
//! ```
//!
//! Invariant: a file counts as acknowledged if its line is in the pipe at the kill. The child
//! prints and flushes a line only after the file is durable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cenotaph::Env;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{INLINE_MAX, JOBS, Material, checks};
use crate::args::DemoChildArgs;
use crate::store::OpenStore;
use crate::transfer::import::{ImportOptions, Tells, Unchanged, import};
use crate::transfer::tree::FileTotal;
use crate::ui::clock::Stopwatch;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Largest number of children, each with a fresh store, until one is killed before it finishes.
const TRIES_MAX: usize = 10;
/// Interval of the polls of the blob tier.
const TICK: Duration = Duration::from_millis(3);

/// Runs the child: imports the trees.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &DemoChildArgs,
) -> Result<(), Failure> {
    let material = Material {
        tree: options.tree.clone(),
        generated: options.generated.clone(),
    };
    let roots = material.roots()?;
    let plan = ImportOptions {
        roots,
        jobs: JOBS,
        by: Unchanged::ByMetadata,
        tells: Tells::Everything,
    };
    import(store, report, &plan).await?.success()
}

/// State that a killed child leaves behind.
pub(crate) struct Killed {
    /// Data directory of its store.
    pub(crate) data: PathBuf,
    /// Keys of the acknowledged files.
    pub(crate) acknowledged: BTreeSet<String>,
    /// Files to import.
    pub(crate) total: FileTotal,
    /// Bytes in the blob tier after the kill.
    pub(crate) blob_bytes: u64,
    /// Time from start to kill.
    pub(crate) took: Duration,
}

/// Parent of the children.
pub(crate) struct ChildStage<'a> {
    /// Report for the progress.
    pub(crate) report: &'a Report,
    /// Environment with clock, randomness and threads.
    pub(crate) env: &'a Env,
    /// Directory of the stores.
    pub(crate) work: &'a Path,
    /// Trees to import.
    pub(crate) material: &'a Material,
}

/// Condition on which a child is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// This many files are acknowledged.
    Files(u64),
    /// The blob tier has this many bytes.
    BlobBytes(u64),
}

/// End of a child.
enum ChildEnd {
    /// The child was killed during its import.
    Killed(Killed),
    /// The child finished before the kill, after this time.
    Finished(Duration),
}

impl ChildStage<'_> {
    /// Runs children until one is killed during its import. Also returns the times of the children
    /// that finished before.
    ///
    /// # Errors
    /// [`Failure::Failed`] if a child fails, or if [`TRIES_MAX`] children finish.
    pub(crate) async fn until_killed(&self) -> Result<(Killed, Vec<Duration>), Failure> {
        let mut early = Vec::new();
        let total = crate::transfer::tree::count(self.env, &self.material.roots()?).await?;
        for number in 1..=TRIES_MAX {
            let data = self.work.join(format!("store-{number}"));
            match self.run_child(data.clone(), total).await? {
                ChildEnd::Killed(killed) => return Ok((killed, early)),
                ChildEnd::Finished(took) => early.push(took),
            }
            // Frees the space for the next try.
            let remove = move || std::fs::remove_dir_all(data);
            self.env
                .blocking(remove)
                .await?
                .map_err(|error| Failure::io("the finished store can't be removed", &error))?;
        }
        Err(Failure::Failed(format!(
            "every child finished before the kill: tries={TRIES_MAX}"
        )))
    }

    /// Runs a child on a fresh store, and kills it at a random moment.
    async fn run_child(&self, data: PathBuf, total: FileTotal) -> Result<ChildEnd, Failure> {
        let moment = self.moment(total);
        let watch = Stopwatch::start(self.env);
        let (mut child, mut lines) = self.spawn(&data)?;
        let bar = self
            .report
            .bar("import", Some(total.bytes))
            .of_files(Some(total.files));
        let mut acknowledged = BTreeSet::new();
        let mut blob_bytes = 0;
        let mut shown = 0;
        let is_over = |acknowledged: &BTreeSet<String>, blob_bytes| match moment {
            Moment::Files(files) => acknowledged.len() as u64 >= files,
            Moment::BlobBytes(bytes) => blob_bytes >= bytes,
        };
        while !is_over(&acknowledged, blob_bytes) {
            tokio::select! {
                // Lines first: the count of files is exact then, that of bytes is polled anyway.
                biased;
                line = lines.next_line() => match line.map_err(|error| unreadable(&error))? {
                    Some(line) => {
                        acknowledged.extend(key_of(&line));
                        bar.item_done();
                    }
                    None => return finished(&mut child, &watch).await,
                },
                () = self.env.sleep(TICK) => {
                    blob_bytes = checks::blob_bytes(self.env, &data.join("blobs")).await?;
                    bar.add(blob_bytes.saturating_sub(shown));
                    shown = shown.max(blob_bytes);
                }
            }
        }
        child
            .start_kill()
            .map_err(|error| Failure::io("the child can't be killed", &error))?;
        let took = watch.elapsed();
        // The lines that are in the pipe were written before the kill.
        while let Some(line) = lines
            .next_line()
            .await
            .map_err(|error| unreadable(&error))?
        {
            acknowledged.extend(key_of(&line));
        }
        let status = child
            .wait()
            .await
            .map_err(|error| Failure::io("the child can't be waited for", &error))?;
        // A killed process has no exit code. With a code the child has ended by itself between the
        // decision and the signal.
        if status.code().is_some() {
            return finished(&mut child, &watch).await;
        }
        let blob_bytes = checks::blob_bytes(self.env, &data.join("blobs")).await?;
        Ok(ChildEnd::Killed(Killed {
            data,
            acknowledged,
            total,
            blob_bytes,
            took,
        }))
    }

    /// Draws the moment of the kill: by files or by bytes, at 2 % to 89 % of the import.
    fn moment(&self, total: FileTotal) -> Moment {
        // By bytes hits large writes in progress; by files hits any moment of a tree of small
        // files.
        let share = |whole: u64| whole.saturating_mul(2 + self.env.random_u64() % 88) / 100;
        match self.env.random_u64() % 2 {
            0 => Moment::Files(share(total.files).max(1)),
            _ => Moment::BlobBytes(share(total.bytes).max(1)),
        }
    }

    /// Starts a child whose output is piped.
    fn spawn(&self, data: &Path) -> Result<(Child, Lines<BufReader<ChildStdout>>), Failure> {
        let failed = |error| Failure::io("the child can't be started", &error);
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg("demo-child")
            .args(["--json", "--quiet", "--inline-max", &INLINE_MAX.to_string()])
            .arg("--data")
            .arg(data)
            .arg("--tree")
            .arg(&self.material.tree)
            .arg("--generated")
            .arg(&self.material.generated)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // An interrupted demo must not leave a child that writes to a removed directory.
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| Failure::Failed("the child has no standard output".to_owned()))?;
        Ok((child, BufReader::new(stdout).lines()))
    }
}

/// Returns the end of a child that has ended by itself, or an error if it failed.
async fn finished(child: &mut Child, watch: &Stopwatch) -> Result<ChildEnd, Failure> {
    let status = child
        .wait()
        .await
        .map_err(|error| Failure::io("the child can't be waited for", &error))?;
    if status.success() {
        return Ok(ChildEnd::Finished(watch.elapsed()));
    }
    Err(Failure::Failed(format!("the child failed: {status}")))
}

/// Returns the failure of reading the output of a child.
fn unreadable(error: &std::io::Error) -> Failure {
    Failure::io("the output of the child can't be read", error)
}

/// Returns the key of an acknowledged file, or `None` if the line is another event or was cut off
/// by the kill.
fn key_of(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    let is_file = value["event"] == "file" && value["outcome"] == "imported";
    value["key"].as_str().filter(|_| is_file).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_file_lines_are_acknowledged() {
        let line = r#"{"bytes":1,"event":"file","key":"a","outcome":"imported"}"#;
        assert_eq!(key_of(line).as_deref(), Some("a"));
        for other in [
            &line[..line.len() - 1],
            "",
            r#"{"event":"failed","key":"a"}"#,
        ] {
            assert_eq!(key_of(other), None, "{other:?}");
        }
    }
}
