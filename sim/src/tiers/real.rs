//! Real fjall under the simulated clock: [`RealDisk`] (an open database) and [`RealDirectory`] (its
//! directory, which outlives an incarnation).
//!
//! fjall runs in lockstep: a commit blocks the only thread of the world until the committer has
//! answered, so that virtual time does not advance meanwhile. A crash is the kill of a process: the
//! directory is copied as the operating system has it, and the next incarnation opens the copy.
//! Only the simulated disk (`disk.rs`) models a power cut.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::{fs, io};

use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_storage::index::{Batch, Index};
use cenotaph_storage::{Env, Result};
use tempfile::TempDir;

/// Directory of a database. It outlives an incarnation.
pub(crate) struct RealDirectory {
    root: TempDir,
    generation: u32,
}

impl RealDirectory {
    /// Creates a temporary directory.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            root: TempDir::new()?,
            generation: 0,
        })
    }

    /// Returns the path of the database of this incarnation.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().join(self.generation.to_string())
    }

    /// Simulates a killed process. Its writes so far are copied for the next incarnation, and its
    /// later writes are lost.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        let before = self.path();
        self.generation += 1;
        // A world may crash before its first open.
        if before.exists() {
            copy(&before, &self.path())?;
        }
        Ok(())
    }

    /// Removes the directories of earlier incarnations. Called after their runtimes are dropped.
    pub(crate) fn forget_old(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.path())? {
            let path = entry?.path();
            if path != self.path() {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }
}

/// Copies a directory recursively.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let source = entry.path();
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(source, target)?;
        }
    }
    Ok(())
}

/// Open database.
pub(crate) struct RealDisk(Arc<FjallIndex>);

impl RealDisk {
    /// Opens the database in this directory.
    pub(crate) fn open(path: &Path, env: Env) -> Result<Self> {
        // Every crash copies the directory. A reserve would only make the copies slower.
        let options = FjallOptions {
            worker_threads: 1,
            reserve_bytes: 0,
            ..FjallOptions::default()
        };
        Ok(Self(Arc::new(FjallIndex::open(path, env, options)?)))
    }

    /// Returns the index.
    pub(crate) fn index(&self) -> &FjallIndex {
        &self.0
    }

    /// Commits batches and blocks the whole world until all have their outcome. Returns the durable
    /// batches in order.
    pub(crate) fn commit(&self, batches: &[Batch]) -> Vec<Batch> {
        let (sender, outcomes) = mpsc::channel();
        for batch in batches {
            let sender = sender.clone();
            self.0.submit(
                batch.clone(),
                Box::new(move |outcome| drop(sender.send(outcome))),
            );
        }
        // The channel ends after the last callback has dropped its sender.
        drop(sender);
        // Batches commit in order, and none after a failed batch.
        let durable = outcomes
            .into_iter()
            .take_while(std::result::Result::is_ok)
            .count();
        batches[..durable].to_vec()
    }

    /// Closes the database.
    pub(crate) async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}
