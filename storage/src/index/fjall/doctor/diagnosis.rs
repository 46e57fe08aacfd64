//! What an examination has found, and its text.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The state of an index directory. Its text is for people; it serializes for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The directory.
    pub dir: PathBuf,
    /// The state as one word.
    pub condition: Condition,
    /// Number of files that were read.
    pub files: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// The journals, the oldest first.
    pub journals: Vec<JournalSeen>,
    /// Damage. The store does not open, or gives errors for some objects.
    pub problems: Vec<Problem>,
    /// Findings that need no action.
    pub notes: Vec<String>,
}

/// The state of an index directory as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// No damage was found.
    Healthy,
    /// Damage was found.
    Damaged,
    /// An engine has the store open, so that its files can't be judged.
    Open,
}

/// The contents of one journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalSeen {
    /// The file.
    pub file: PathBuf,
    /// Number of intact batches.
    pub batches: u64,
    /// Bytes of intact batches.
    pub bytes: u64,
    /// Begin and end of each damaged range.
    pub damaged: Vec<(u64, u64)>,
}

/// Damage to one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// The file, or the directory if no file can be named.
    pub file: PathBuf,
    /// The first damaged byte, where that is known.
    pub at: Option<u64>,
    /// What is damaged.
    pub what: String,
    /// What can be done, the least loss first.
    pub ways_out: Vec<WayOut>,
}

/// Something that can be done about a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WayOut {
    /// What to do.
    pub how: String,
    /// What is lost by it.
    pub loses: String,
}

impl WayOut {
    pub(super) fn restore() -> Self {
        Self {
            how: "restore the whole directory from a backup".to_owned(),
            loses: "everything that was written after the backup".to_owned(),
        }
    }

    pub(super) fn salvage(loses: &str) -> Self {
        Self {
            how: "`cenotaph salvage OLD NEW`, which leaves this directory as it is".to_owned(),
            loses: loses.to_owned(),
        }
    }
}

impl Diagnosis {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            condition: Condition::Healthy,
            files: 0,
            bytes: 0,
            journals: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.dir.display();
        match self.condition {
            Condition::Open => {
                return write!(
                    f,
                    "an engine has the store open; close it to have it examined: dir={dir}"
                );
            }
            Condition::Healthy => writeln!(f, "no damage was found: dir={dir}")?,
            Condition::Damaged => writeln!(
                f,
                "the store is damaged: problems={} dir={dir}",
                self.problems.len()
            )?,
        }
        for (number, problem) in self.problems.iter().enumerate() {
            writeln!(f, "{}. {}", number + 1, problem.what)?;
            writeln!(f, "   file: {}", problem.file.display())?;
            for way in &problem.ways_out {
                writeln!(f, "   way out: {}", way.how)?;
                writeln!(f, "     loses: {}", way.loses)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for journal in &self.journals {
            let (file, batches, bytes) = (journal.file.display(), journal.batches, journal.bytes);
            writeln!(
                f,
                "journal: file={file} intact_batches={batches} bytes={bytes}"
            )?;
        }
        write!(f, "read: files={} bytes={}", self.files, self.bytes)
    }
}
