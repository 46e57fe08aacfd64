//! `demo`: shows the guarantees of the store in a temporary store.
//!
//! ```text
//! generate ─> child imports ─SIGKILL─> reopen, recover ─> acknowledged files complete?
//!   ─> resume ─> [flip a byte] ─> verify every byte, both ways ─> delete some ─> recheck
//!   ─> blobs == revisions that rows name? ─> table
//! ```
//!
//! Checks I9 (acknowledged writes survive a crash) and I5 (the blob tier contains only blobs that
//! rows name) with the built tool. The demo uses the public API of the engine, and reads the blob
//! tier as a directory of files.

mod checks;
pub(crate) mod child;
mod material;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cenotaph::Env;
use serde_json::json;

use crate::args::{DemoArgs, StoreArgs};
use crate::commands::recover::settle;
use crate::store::{OpenStore, StoreAccess};
use crate::transfer::import::{ImportOptions, Tells, Unchanged, import};
use crate::transfer::tree::{FileTotal, Root};
use crate::transfer::verify::verify;
use crate::ui::clock::Stopwatch;
use crate::ui::failure::Failure;
use crate::ui::human::{self, Align};
use crate::ui::report::Report;

/// Largest inline payload of the demo, in bytes. Small, so that the files of a checkout are in both
/// tiers.
const INLINE_MAX: usize = 4 * 1024;
/// Number of files that are processed at once.
const JOBS: usize = 16;
/// Names in a checkout that the demo does not import.
const EXCLUDE: [&str; 2] = ["target", ".git"];

/// Runs `demo`.
pub(crate) async fn run(report: &Report, env: &Env, options: &DemoArgs) -> Result<(), Failure> {
    let mut temporary = tempfile::Builder::new()
        .prefix("cenotaph-demo-")
        .tempdir()
        .map_err(|error| Failure::io("the temporary directory can't be created", &error))?;
    // Before the first step, so that the path is printed even if the demo fails or is killed.
    if options.keep {
        temporary.disable_cleanup(true);
        report.note(&format!("kept: {}", temporary.path().display()));
    }
    let mut demo = Demo {
        report,
        env,
        options,
        work: temporary.path().to_owned(),
        steps: Vec::new(),
    };
    // The table of a failed demo shows the steps that succeeded.
    let result = demo.run_steps().await;
    demo.print()?;
    result
}

/// A running demo.
struct Demo<'a> {
    report: &'a Report,
    env: &'a Env,
    options: &'a DemoArgs,
    work: PathBuf,
    steps: Vec<StepRow>,
}

/// Row of the table: a completed step.
struct StepRow {
    name: &'static str,
    what: String,
    took: Duration,
    rate: String,
}

/// Trees on disk that the demo imports.
#[derive(Clone)]
pub(crate) struct Material {
    /// Existing tree.
    tree: PathBuf,
    /// Directory of the generated file.
    generated: PathBuf,
}

impl Material {
    /// Returns the trees with their prefixes in the store.
    fn roots(&self) -> Result<Vec<Root>, Failure> {
        let generated = Root::new(&self.generated, "generated", &[], &[])?;
        let mut tree = Root::new(&self.tree, "tree", &EXCLUDE.map(str::to_owned), &[])?;
        // The directory of the demo may lie in the tree. A checkout may have a store, whose files
        // change during the demo if it is in use.
        let work = generated.dir.parent().map(Path::to_owned);
        let data = Some(tree.dir.join("data")).filter(|data| data.join("index").is_dir());
        for own in work.into_iter().chain(data) {
            tree = tree.without(own);
        }
        Ok(vec![generated, tree])
    }
}

impl Demo<'_> {
    /// Runs all steps, up to the first failure.
    async fn run_steps(&mut self) -> Result<(), Failure> {
        let material = self.generate().await?;
        let killed = self.import_and_kill(&material).await?;
        let store = self.reopen(&killed.data).await?;
        let result = self.recover_and_resume(&store, &material, &killed).await;
        let closed = store.close().await;
        result.and(closed)?;
        // With the store closed: a blob is changed behind the back of the engine.
        if self.options.corrupt {
            self.corrupt(&killed.data).await?;
        }
        let store = OpenStore::open(
            &store_args(&killed.data),
            StoreAccess::Existing,
            self.env.clone(),
        )
        .await?;
        let result = self
            .verify_and_delete(&store, &material, &killed.data)
            .await;
        let closed = store.close().await;
        result.and(closed)
    }

    /// Runs the steps before the corruption: recover, check acknowledged files, resume.
    async fn recover_and_resume(
        &mut self,
        store: &OpenStore,
        material: &Material,
        killed: &child::Killed,
    ) -> Result<(), Failure> {
        let roots = material.roots()?;
        self.recover(store).await?;
        self.acknowledged(store, &roots, &killed.acknowledged)
            .await?;
        self.resume(store, roots, killed.acknowledged.len()).await
    }

    /// Runs the steps after the corruption: verify, delete, recheck, compare the blob tier.
    async fn verify_and_delete(
        &mut self,
        store: &OpenStore,
        material: &Material,
        data: &Path,
    ) -> Result<(), Failure> {
        self.verify(store, &material.roots()?).await?;
        if self.options.corrupt {
            return Err(Failure::Failed(
                "a byte was flipped and verify did not find it".to_owned(),
            ));
        }
        let deleted = self.delete(store).await?;
        self.recheck(store, &material.roots()?, &deleted).await?;
        self.blob_tier(store, data).await
    }

    /// Generates the large file, and chooses the tree.
    async fn generate(&mut self) -> Result<Material, Failure> {
        let watch = Stopwatch::start(self.env);
        // A directory of its own, so that the import sees nothing but the file.
        let generated = self.work.join("generated");
        let bytes = self.options.size_mib * 1024 * 1024;
        material::generate_file(self.env, self.report, &generated, bytes).await?;
        let took = watch.elapsed();
        self.step(
            "generate",
            format!("one file of {}", human::bytes(bytes)),
            took,
            human::byte_rate(bytes, took),
        );
        let tree = material::tree(
            self.env,
            self.options.tree.as_deref(),
            &self.work.join("tree"),
        )
        .await?;
        Ok(Material { tree, generated })
    }

    /// Kills a child during its import.
    async fn import_and_kill(&mut self, material: &Material) -> Result<child::Killed, Failure> {
        let stage = child::ChildStage {
            report: self.report,
            env: self.env,
            work: &self.work,
            material,
        };
        let (killed, early) = stage.until_killed().await?;
        for took in early {
            self.step(
                "import",
                "the child finished before the kill; again, with a fresh store".to_owned(),
                took,
                String::new(),
            );
        }
        let acknowledged = human::counted(killed.acknowledged.len() as u64, "file");
        let what = format!(
            "child killed by SIGKILL: {acknowledged} of {} acknowledged, {} in the blob tier",
            human::grouped(killed.total.files),
            human::bytes(killed.blob_bytes),
        );
        self.step(
            "import",
            what,
            killed.took,
            human::byte_rate(killed.blob_bytes, killed.took),
        );
        Ok(killed)
    }

    /// Opens the store of the killed child, which fences its interrupted writes.
    async fn reopen(&mut self, data: &Path) -> Result<OpenStore, Failure> {
        let watch = Stopwatch::start(self.env);
        let store =
            OpenStore::open(&store_args(data), StoreAccess::Existing, self.env.clone()).await?;
        let fenced = store.engine.stats().await?.actors.fenced;
        let what = format!(
            "{} found and fenced",
            human::counted(fenced, "interrupted write")
        );
        self.step("reopen", what, watch.elapsed(), String::new());
        Ok(store)
    }

    /// Settles all changes. An unsettled change is a failure.
    async fn recover(&mut self, store: &OpenStore) -> Result<(), Failure> {
        let recovered = settle(store).await?;
        let changes = recovered.stats.actors.changes;
        let swept = recovered.stats.actors.swept;
        if changes > 0 {
            return Err(Failure::Failed(format!(
                "recovery left {} unsettled",
                human::counted(changes, "change")
            )));
        }
        let left = match recovered.left {
            0 => String::new(),
            left => format!(", {} left for later", human::grouped(left)),
        };
        let what = format!(
            "no change left; {} swept{left}",
            human::counted(swept, "blob")
        );
        self.step("recover", what, recovered.took, String::new());
        Ok(())
    }

    /// Compares every acknowledged file with its object.
    async fn acknowledged(
        &mut self,
        store: &OpenStore,
        roots: &[Root],
        keys: &BTreeSet<String>,
    ) -> Result<(), Failure> {
        let watch = Stopwatch::start(self.env);
        let total = checks::acknowledged(store, self.report, roots, keys).await?;
        let what = format!(
            "all {} acknowledged before the kill are stored, byte for byte",
            human::counted(total.files, "file")
        );
        let took = watch.elapsed();
        self.step("check", what, took, human::byte_rate(total.bytes, took));
        Ok(())
    }

    /// Imports the rest. Acknowledged files must count as unchanged.
    async fn resume(
        &mut self,
        store: &OpenStore,
        roots: Vec<Root>,
        acknowledged: usize,
    ) -> Result<(), Failure> {
        let watch = Stopwatch::start(self.env);
        let plan = ImportOptions {
            roots,
            jobs: JOBS,
            by: Unchanged::ByMetadata,
            tells: Tells::Failures,
        };
        let imported = import(store, self.report, &plan).await?;
        imported.success()?;
        if imported.unchanged < acknowledged as u64 {
            let message = format!(
                "the resumed import skipped only {} of {acknowledged} acknowledged files",
                imported.unchanged
            );
            return Err(Failure::Failed(message));
        }
        let what = format!(
            "{} imported, {}; {} were already stored",
            human::counted(imported.files, "file"),
            human::bytes(imported.bytes),
            human::grouped(imported.unchanged),
        );
        let took = watch.elapsed();
        self.step("resume", what, took, human::byte_rate(imported.bytes, took));
        Ok(())
    }

    /// Flips a random bit of a random blob.
    async fn corrupt(&mut self, data: &Path) -> Result<(), Failure> {
        let watch = Stopwatch::start(self.env);
        let (blob, at) = material::flip_one_byte(self.env, &data.join("blobs")).await?;
        let what = format!("flipped byte {at} of one blob: {}", blob.display());
        self.step("corrupt", what, watch.elapsed(), String::new());
        Ok(())
    }

    /// Compares the store with the trees.
    async fn verify(&mut self, store: &OpenStore, roots: &[Root]) -> Result<(), Failure> {
        let watch = Stopwatch::start(self.env);
        let verified = verify(store, self.report, roots, JOBS).await?;
        let took = watch.elapsed();
        let total = FileTotal {
            files: verified.files,
            bytes: verified.bytes,
        };
        let what = format!(
            "{}, {}, every byte equal; {}",
            human::counted(verified.files, "file"),
            human::bytes(verified.bytes),
            human::counted(verified.problems, "problem"),
        );
        self.step("verify", what, took, human::byte_rate(total.bytes, took));
        // After the row: the table also shows a verification that found problems.
        verified.success()
    }

    /// Deletes some objects. Returns their keys.
    async fn delete(&mut self, store: &OpenStore) -> Result<BTreeSet<String>, Failure> {
        let watch = Stopwatch::start(self.env);
        let (deleted, total) = checks::delete_some(store, INLINE_MAX as u64, JOBS).await?;
        let took = watch.elapsed();
        let what = format!(
            "{}, {}",
            human::counted(total.files, "object"),
            human::bytes(total.bytes)
        );
        self.step(
            "delete",
            what,
            took,
            human::rate(total.files, "objects", took),
        );
        Ok(deleted)
    }

    /// Compares the remaining objects with their files, and checks that the deleted objects are
    /// gone.
    async fn recheck(
        &mut self,
        store: &OpenStore,
        roots: &[Root],
        deleted: &BTreeSet<String>,
    ) -> Result<(), Failure> {
        let watch = Stopwatch::start(self.env);
        let kept = checks::recheck(store, self.report, roots, deleted, JOBS).await?;
        let took = watch.elapsed();
        let gone = human::grouped(deleted.len() as u64);
        let what = format!(
            "all {} kept are equal, all {gone} deleted are gone",
            human::counted(kept.files, "object")
        );
        self.step("recheck", what, took, human::byte_rate(kept.bytes, took));
        Ok(())
    }

    /// Compares the blob tier with the remaining objects.
    async fn blob_tier(&mut self, store: &OpenStore, data: &Path) -> Result<(), Failure> {
        let watch = Stopwatch::start(self.env);
        let recovered = settle(store).await?;
        if recovered.stats.actors.changes > 0 {
            return Err(Failure::Failed(
                "changes remain although no write is running".to_owned(),
            ));
        }
        let total =
            checks::blobs_are_what_rows_name(store, &data.join("blobs"), INLINE_MAX as u64).await?;
        let what = format!(
            "holds exactly the {} that objects name, {}",
            human::counted(total.files, "blob"),
            human::bytes(total.bytes)
        );
        self.step("blob tier", what, watch.elapsed(), String::new());
        Ok(())
    }

    /// Adds a row to the table.
    fn step(&mut self, name: &'static str, what: String, took: Duration, rate: String) {
        self.steps.push(StepRow {
            name,
            what,
            took,
            rate,
        });
    }

    /// Prints the table.
    fn print(&self) -> Result<(), Failure> {
        if self.report.is_json() {
            return self.steps.iter().try_for_each(|row| {
                let elapsed_ms = u64::try_from(row.took.as_millis()).unwrap_or(u64::MAX);
                let StepRow {
                    name, what, rate, ..
                } = row;
                self.report.json(&json!({
                    "event": "step",
                    "step": name,
                    "what": what,
                    "elapsed_ms": elapsed_ms,
                    "rate": rate,
                }))
            });
        }
        let head = ["step", "time", "rate", "what"].map(str::to_owned);
        let rows = self.steps.iter().map(|row| {
            [
                row.name.to_owned(),
                human::duration(row.took),
                row.rate.clone(),
                row.what.clone(),
            ]
        });
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        self.report.text(&human::table(
            [Align::Left, Align::Right, Align::Right, Align::Left],
            &rows,
        ))
    }
}

/// Returns the options of the demo's store.
fn store_args(data: &Path) -> StoreArgs {
    StoreArgs {
        data: data.to_owned(),
        // Explicit, because the checks read this directory.
        blobs: Some("fs:".to_owned()),
        inline_max: INLINE_MAX,
        ..StoreArgs::default()
    }
}
