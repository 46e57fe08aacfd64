//! The child process that imports, and the parent that kills it: [`run`] is the one, [`Stage`] the
//! other.
//!
//! The child says each file on standard output once it is durable, one line of JSON, flushed. The
//! parent reads along and kills at a moment drawn at random: after so many files, or after so many
//! bytes in the blob tier, which hits large writes under way. What stands in the pipe by then was
//! acknowledged before the kill, and counts.

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
use crate::clock::Stopwatch;
use crate::failure::Failure;
use crate::import::{Plan, Tells, Unchanged, import};
use crate::report::Report;
use crate::store::Store;
use crate::tree::Total;

/// Fresh stores tried until a child is killed before it has finished.
const TRIES_MAX: usize = 10;
/// How often the blob tier is looked at.
const TICK: Duration = Duration::from_millis(3);

/// The child.
pub(crate) async fn run(
    store: &Store,
    report: &Report,
    options: &DemoChildArgs,
) -> Result<(), Failure> {
    let material = Material {
        tree: options.tree.clone(),
        generated: options.generated.clone(),
    };
    let roots = material.roots()?;
    let plan = Plan {
        roots,
        jobs: JOBS,
        by: Unchanged::ByStamp,
        tells: Tells::Everything,
    };
    import(store, report, &plan).await?.success()
}

/// What is left of a child.
pub(crate) struct Killed {
    /// Its store.
    pub(crate) data: PathBuf,
    /// The files that it said were imported.
    pub(crate) acknowledged: BTreeSet<String>,
    /// What it was to import.
    pub(crate) total: Total,
    /// What the blob tier had by then.
    pub(crate) blob_bytes: u64,
    /// How long it lived.
    pub(crate) took: Duration,
}

/// Where children are started and killed.
pub(crate) struct Stage<'a> {
    pub(crate) report: &'a Report,
    pub(crate) env: &'a Env,
    pub(crate) work: &'a Path,
    pub(crate) material: &'a Material,
}

/// When to kill.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// When so many files are acknowledged.
    Files(u64),
    /// When the blob tier has so many bytes.
    BlobBytes(u64),
}

/// How a child ended.
enum Ended {
    Killed(Killed),
    Finished(Duration),
}

impl Stage<'_> {
    /// Lets children import until one is killed amid it. Gives the times of those that had finished
    /// before.
    pub(crate) async fn until_killed(&self) -> Result<(Killed, Vec<Duration>), Failure> {
        let mut early = Vec::new();
        let total = crate::tree::count(self.env, &self.material.roots()?).await?;
        for number in 1..=TRIES_MAX {
            let data = self.work.join(format!("store-{number}"));
            match self.once(data.clone(), total).await? {
                Ended::Killed(killed) => return Ok((killed, early)),
                Ended::Finished(took) => early.push(took),
            }
            let remove = move || std::fs::remove_dir_all(data);
            self.env
                .blocking(remove)
                .await?
                .map_err(|error| Failure::io("the finished store can't be removed", &error))?;
        }
        Err(Failure::Failed(format!(
            "no child was still at work when it was to be killed: tries={TRIES_MAX}"
        )))
    }

    async fn once(&self, data: PathBuf, total: Total) -> Result<Ended, Failure> {
        let moment = self.moment(total);
        let watch = Stopwatch::start(self.env);
        let (mut child, mut lines) = self.spawn(&data)?;
        let bar = self
            .report
            .bar("import", Some(total.bytes))
            .of_files(Some(total.files));
        let mut acknowledged = BTreeSet::new();
        let (mut blob_bytes, mut shown) = (0, 0);
        let is_over = |acknowledged: &BTreeSet<String>, blob_bytes| match moment {
            Moment::Files(files) => acknowledged.len() as u64 >= files,
            Moment::BlobBytes(bytes) => blob_bytes >= bytes,
        };
        while !is_over(&acknowledged, blob_bytes) {
            tokio::select! {
                biased;
                line = lines.next_line() => match line.map_err(|error| unheard(&error))? {
                    Some(line) => {
                        acknowledged.extend(key_of(&line));
                        bar.one_done();
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
        while let Some(line) = lines.next_line().await.map_err(|error| unheard(&error))? {
            acknowledged.extend(key_of(&line));
        }
        let status = child
            .wait()
            .await
            .map_err(|error| Failure::io("the child can't be waited for", &error))?;
        // It may have ended by itself between the decision and the signal.
        if status.code().is_some() {
            return finished(&mut child, &watch).await;
        }
        let blob_bytes = checks::blob_bytes(self.env, &data.join("blobs")).await?;
        Ok(Ended::Killed(Killed {
            data,
            acknowledged,
            total,
            blob_bytes,
            took,
        }))
    }

    /// Half of the time by files, half of the time by bytes; from the beginning until almost the
    /// end.
    fn moment(&self, total: Total) -> Moment {
        let share = |whole: u64| whole.saturating_mul(2 + self.env.random_u64() % 88) / 100;
        match self.env.random_u64() % 2 {
            0 => Moment::Files(share(total.files).max(1)),
            _ => Moment::BlobBytes(share(total.bytes).max(1)),
        }
    }

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

/// A child that ended by itself: well, or not.
async fn finished(child: &mut Child, watch: &Stopwatch) -> Result<Ended, Failure> {
    let status = child
        .wait()
        .await
        .map_err(|error| Failure::io("the child can't be waited for", &error))?;
    if status.success() {
        return Ok(Ended::Finished(watch.elapsed()));
    }
    Err(Failure::Failed(format!("the child failed: {status}")))
}

fn unheard(error: &std::io::Error) -> Failure {
    Failure::io("the child can't be heard", error)
}

/// The key of an acknowledged file; none if the line says something else, or was cut off by the
/// kill.
fn key_of(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    let is_file = value["event"] == "file" && value["outcome"] == "imported";
    value["key"].as_str().filter(|_| is_file).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_about_files_count_as_acknowledged() {
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
