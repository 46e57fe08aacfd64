//! The second tier of simulation: real fjall under the simulated clock. [`RealDisk`], one open
//! database; [`RealDirectory`], what is left of it after its process was killed.
//!
//! fjall runs in lockstep: a commit blocks the one thread of the world until its committer has
//! answered, so that virtual time stands still meanwhile. A crash is a killed process: the
//! directory is copied as the operating system has it, and the next life opens the copy. That does
//! not model a power cut; the simulated disk does.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::{fs, io};

use cenotaph_storage::index::fjall::{FjallIndex, FjallOptions};
use cenotaph_storage::index::{Batch, Index};
use cenotaph_storage::{Env, Result};
use tempfile::TempDir;

/// A directory that outlives a life.
pub(crate) struct RealDirectory {
    root: TempDir,
    generation: u32,
}

impl RealDirectory {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            root: TempDir::new()?,
            generation: 0,
        })
    }

    /// Where the database of this life is.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().join(self.generation.to_string())
    }

    /// The process is killed: what it has written stays as it is now, and what it does from now on
    /// is lost.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        let before = self.path();
        self.generation += 1;
        if before.exists() {
            copy(&before, &self.path())?;
        }
        Ok(())
    }

    /// The old life is over: nobody needs its directory any more.
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

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(source, target)?;
        }
    }
    Ok(())
}

/// An open database.
pub(crate) struct RealDisk(Arc<FjallIndex>);

impl RealDisk {
    pub(crate) fn open(path: &Path, env: Env) -> Result<Self> {
        // A crash copies the directory: no reserve.
        let options = FjallOptions {
            worker_threads: 1,
            reserve_bytes: 0,
            ..FjallOptions::default()
        };
        Ok(Self(Arc::new(FjallIndex::open(path, env, options)?)))
    }

    pub(crate) fn index(&self) -> &FjallIndex {
        &self.0
    }

    /// Makes batches durable, and waits for it with the whole world. Gives those that are, in
    /// order.
    pub(crate) fn commit(&self, batches: &[Batch]) -> Vec<Batch> {
        let (sender, outcomes) = mpsc::channel();
        for batch in batches {
            let sender = sender.clone();
            self.0.submit(
                batch.clone(),
                Box::new(move |outcome| drop(sender.send(outcome))),
            );
        }
        drop(sender);
        let durable = outcomes
            .into_iter()
            .take_while(std::result::Result::is_ok)
            .count();
        batches[..durable].to_vec()
    }

    pub(crate) async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}
