//! The result of an examination and its text form.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// State of an index directory. Its `Display` text is for people, its serialized form for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Directory of the index.
    pub dir: PathBuf,
    /// Summary of the state.
    pub condition: Condition,
    /// Number of files read.
    pub files: u64,
    /// Total length of these files, in bytes.
    pub bytes: u64,
    /// Journals, oldest first.
    pub journals: Vec<JournalSeen>,
    /// Damage. The store does not open, or operations on some objects fail.
    pub problems: Vec<Problem>,
    /// Findings that need no action.
    pub notes: Vec<String>,
}

/// Summary of the state of an index directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// No damage was found.
    Healthy,
    /// Damage was found.
    Damaged,
    /// An engine has the store open. Its files were not read.
    Open,
}

/// Contents of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JournalSeen {
    /// Path of the journal.
    pub file: PathBuf,
    /// Number of intact batches.
    pub batches: u64,
    /// Total length of the intact batches, in bytes.
    pub bytes: u64,
    /// Start and end offset of each damaged range.
    pub damaged: Vec<(u64, u64)>,
}

/// Damage to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// Path of the damaged file, or of the directory if the damaged file is unknown.
    pub file: PathBuf,
    /// Offset of the first damaged byte, if known.
    pub at: Option<u64>,
    /// Description of the damage.
    pub what: String,
    /// Possible repairs, the least loss first.
    pub ways_out: Vec<WayOut>,
}

/// A possible repair of a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WayOut {
    /// Instructions of the repair.
    pub how: String,
    /// Data that the repair loses.
    pub loses: String,
}

impl WayOut {
    /// Returns the repair by a backup.
    pub(super) fn restore() -> Self {
        Self {
            how: "restore the whole directory from a backup".to_owned(),
            loses: "everything that was written after the backup".to_owned(),
        }
    }

    /// Returns the repair by a scrub that removes the objects in `loses`.
    pub(super) fn scrub(loses: &str) -> Self {
        Self {
            how: "`cenotaph scrub --drop-damaged`, which names and removes the objects".to_owned(),
            loses: loses.to_owned(),
        }
    }

    /// Returns the repair by a salvage that loses `loses`.
    pub(super) fn salvage(loses: &str) -> Self {
        Self {
            how: "`cenotaph salvage OLD NEW`, which does not change this directory".to_owned(),
            loses: loses.to_owned(),
        }
    }
}

impl Diagnosis {
    /// Creates the diagnosis of an index without damage.
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
                    "an engine has the store open: close the store, then examine it: dir={dir}"
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
            let file = journal.file.display();
            let batches = journal.batches;
            let bytes = journal.bytes;
            writeln!(
                f,
                "journal: file={file} intact_batches={batches} bytes={bytes}"
            )?;
        }
        write!(f, "read: files={} bytes={}", self.files, self.bytes)
    }
}
