//! The control writer: shows that a power cut loses data that was not synced, and no other.
//!
//! It appends numbered records to two files in turn, and syncs one of them after each record.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cenotaph::Env;

const RECORD_BYTES: usize = 64;
/// Pause between records, so that the syncs of the control do not become those of the victim.
const PAUSE: Duration = Duration::from_millis(5);

/// A running control writer.
pub(super) struct Control {
    directory: PathBuf,
    counts: Arc<Counts>,
    thread: JoinHandle<()>,
}

/// Number of records in each file.
#[derive(Default)]
struct Counts {
    synced: AtomicU64,
    unsynced: AtomicU64,
}

/// Counts of a control writer at a cut.
pub(super) struct Written {
    directory: PathBuf,
    synced: u64,
    unsynced: u64,
}

impl Control {
    /// Starts a writer with new files in this directory.
    pub(super) fn start(env: &Env, directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        let files = ["synced", "unsynced"].map(|name| File::create(directory.join(name)).unwrap());
        // The names are durable, so that only the records may be lost.
        for file in &files {
            file.sync_all().unwrap();
        }
        File::open(&directory).unwrap().sync_all().unwrap();
        let counts = Arc::new(Counts::default());
        let ours = counts.clone();
        let body = move || write_until_the_cut(files, &ours);
        let thread = env.thread("control", body).unwrap();
        Self {
            directory,
            counts,
            thread,
        }
    }

    /// Returns the counts of this moment.
    pub(super) fn written(&self) -> Written {
        Written {
            directory: self.directory.clone(),
            synced: self.counts.synced.load(Ordering::SeqCst),
            unsynced: self.counts.unsynced.load(Ordering::SeqCst),
        }
    }

    /// Waits for the writer, which fails at the cut.
    pub(super) fn join(self) {
        self.thread.join().unwrap();
    }
}

fn write_until_the_cut(files: [File; 2], counts: &Counts) {
    write(files, counts).expect_err("no write succeeds after the cut");
}

/// Writes until a write fails.
fn write([mut synced, mut unsynced]: [File; 2], counts: &Counts) -> io::Result<()> {
    for number in 0.. {
        unsynced.write_all(&record(number))?;
        counts.unsynced.store(number + 1, Ordering::SeqCst);
        synced.write_all(&record(number))?;
        synced.sync_data()?;
        counts.synced.store(number + 1, Ordering::SeqCst);
        thread::park_timeout(PAUSE);
    }
    Ok(())
}

impl Written {
    /// Asserts that every synced record exists, and returns the number of lost records among the
    /// others.
    pub(super) fn lost(&self) -> u64 {
        let synced = records(&self.directory.join("synced"));
        assert!(
            synced >= self.synced,
            "the disk loses synced data: {} records of {}",
            synced,
            self.synced
        );
        self.unsynced
            .saturating_sub(records(&self.directory.join("unsynced")))
    }
}

fn record(number: u64) -> [u8; RECORD_BYTES] {
    let mut record = [b'.'; RECORD_BYTES];
    record[..8].copy_from_slice(&number.to_le_bytes());
    record
}

/// Returns the number of intact records at the start of a file.
fn records(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let records = (0..).zip(bytes.chunks_exact(RECORD_BYTES));
    records
        .take_while(|(number, bytes)| **bytes == record(*number))
        .count() as u64
}
