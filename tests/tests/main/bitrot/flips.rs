//! The changes of bytes, and the kind of the file of each.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Changes of a byte: a single bit, and all bits.
const CHANGES: [u8; 2] = [0x10, 0xff];

/// Size up to which files are changed at every fourth byte by default. Larger files are changed at
/// a fixed number of places.
const SMALL_BYTES: usize = 64;
const PLACES: usize = 14;
const PLACES_JOURNAL: usize = 80;

/// A change of one byte of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Flip {
    pub(super) kind: Kind,
    /// Relative to the data directory.
    pub(super) file: String,
    pub(super) at: usize,
    /// Mask that is combined with the byte by exclusive or.
    pub(super) with: u8,
}

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Kind {
    Journal,
    Manifest,
    Table,
    BlobFile,
    Segment,
    Own,
    FjallOther,
    BlobTier,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Journal,
        Self::Manifest,
        Self::Table,
        Self::BlobFile,
        Self::Segment,
        Self::Own,
        Self::FjallOther,
        Self::BlobTier,
    ];

    fn of(file: &str) -> Self {
        let parts: Vec<&str> = file.split('/').collect();
        match parts[..] {
            ["blobs", ..] => Self::BlobTier,
            ["index", "store", "database", name] if name.ends_with(".jnl") => Self::Journal,
            ["index", "store", "database", "keyspaces", _, "tables", _] => Self::Table,
            ["index", "store", "database", "keyspaces", _, "blobs", _] => Self::BlobFile,
            ["index", "store", "payloads", _] => Self::Segment,
            ["index", "store", "database", "keyspaces", _, _] => Self::Manifest,
            ["index", "store", "database", ..] => Self::FjallOther,
            _ => Self::Own,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Journal => "journals",
            Self::Manifest => "manifests",
            Self::Table => "tables",
            Self::BlobFile => "blob files of the index",
            Self::Segment => "segments of the payload log",
            Self::Own => "our own files",
            Self::FjallOther => "other files of fjall",
            Self::BlobTier => "blobs of the blob tier",
        })
    }
}

/// Returns changes of every `step`th byte, each in two ways.
pub(super) fn every(dir: &Path, step: usize) -> Vec<Flip> {
    of_files(
        dir,
        |_, length| (0..length).step_by(step).collect(),
        &CHANGES,
    )
}

/// Returns a change of one bit for every byte.
pub(super) fn all(dir: &Path) -> Vec<Flip> {
    let mut flips = of_files(dir, |_, length| (0..length).collect(), &CHANGES[..1]);
    for flip in &mut flips {
        flip.with = 1 << (flip.at % 8);
    }
    flips
}

/// Returns changes at the ends of every file and at odd steps between them, which match no record
/// size.
pub(super) fn some(dir: &Path) -> Vec<Flip> {
    let places = |kind: Kind, length: usize| {
        let places = if kind == Kind::Journal {
            PLACES_JOURNAL
        } else {
            PLACES
        };
        let step = if length <= SMALL_BYTES {
            4
        } else {
            (length / places).max(1) | 1
        };
        let mut places: Vec<usize> = (0..length).step_by(step).collect();
        places.extend(length.checked_sub(1));
        // The count of sections in a table of contents, by which fjall allocates.
        places.extend(length.checked_sub(60));
        places.sort_unstable();
        places.dedup();
        places
    };
    of_files(dir, places, &CHANGES[..1])
}

fn of_files(dir: &Path, places: impl Fn(Kind, usize) -> Vec<usize>, changes: &[u8]) -> Vec<Flip> {
    let mut flips = Vec::new();
    for file in files(dir, "") {
        let length = usize::try_from(fs::metadata(dir.join(&file)).unwrap().len()).unwrap();
        let kind = Kind::of(&file);
        for at in places(kind, length) {
            let flip = |&with| Flip {
                kind,
                file: file.clone(),
                at,
                with,
            };
            flips.extend(changes.iter().map(flip));
        }
    }
    flips
}

/// Returns the files below a directory, sorted.
pub(super) fn files(root: &Path, under: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(under)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if under.is_empty() {
            name
        } else {
            format!("{under}/{name}")
        };
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(root, &path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
