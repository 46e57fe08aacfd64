//! Second decoders of multipart uploads: upload records, parts, and their keys.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Expiration, Extent, WRITE};

/// Upload record: `version=1 | postcard: initiated, expires_at, attributes, precondition, phase`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Session {
    pub(crate) initiated: u64,
    pub(crate) expires_at: u64,
    pub(crate) attributes: Attributes,
    pub(crate) precondition: Precondition,
    pub(crate) phase: Phase,
}

impl Session {
    /// Returns true if the upload exists at this time of day.
    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        now_ms < self.expires_at
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Returns the number of the call that began the upload, if the record names it.
    pub(crate) fn of(&self) -> Option<u64> {
        self.attributes
            .custom
            .get(WRITE)
            .and_then(|text| text.parse().ok())
    }
}

/// Attributes of the future object, as an upload record stores them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Attributes {
    texts: [Option<String>; 4],
    custom: BTreeMap<String, String>,
    expiration: Expiration,
}

impl Attributes {
    /// Returns true if no attribute is set.
    pub(crate) fn is_empty(&self) -> bool {
        self.texts.iter().all(Option::is_none)
            && self.custom.is_empty()
            && self.expiration == Expiration::Manual
    }
}

/// Precondition of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Precondition {
    None,
    Absent,
    Version(u64),
    Etag(String),
}

/// State of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Phase {
    Open,
    Completed {
        /// SHA-256 digest of the part numbers and etags, in big endian.
        parts: [u8; 32],
        written: Written,
    },
    Aborted,
}

/// Result of a completion.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Written {
    pub(crate) outcome: CompletionOutcome,
    pub(crate) version: Option<u64>,
    pub(crate) etag: Option<String>,
    pub(crate) created: bool,
}

/// Outcome of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum CompletionOutcome {
    Applied,
    Superseded,
}

/// Part: `version=1 | postcard: extent, etag, uploaded`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Part {
    pub(crate) extent: Extent,
    pub(crate) etag: u128,
    _uploaded: u64,
}

/// Length of an upload id, in bytes.
const UPLOAD_BYTES: usize = 22;

/// Key in the session table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionKey {
    /// Upload record: `0x00 | row key, each 0x00 followed by 0xff | 0x00 | upload id`.
    Session { object: Vec<u8>, upload: Vec<u8> },
    /// Part: `0x01 | upload id | number, u16 big endian`.
    Part { upload: Vec<u8>, number: u16 },
}

impl SessionKey {
    /// Decodes a key. Returns `None` if the key does not match a drawing.
    pub(crate) fn read(key: &[u8]) -> Option<Self> {
        match key {
            [0, rest @ ..] => {
                // The upload id has a fixed length, so it is split off from the end.
                let (object, upload) =
                    rest.split_at_checked(rest.len().checked_sub(UPLOAD_BYTES)?)?;
                let escaped = object.strip_suffix(&[0])?;
                let mut object = Vec::new();
                let mut bytes = escaped.iter();
                while let Some(&byte) = bytes.next() {
                    // A zero byte of the key is escaped, so a bare zero byte ends it.
                    if byte == 0 && bytes.next() != Some(&0xff) {
                        return None;
                    }
                    object.push(byte);
                }
                Some(Self::Session {
                    object,
                    upload: upload.to_vec(),
                })
            }
            [1, rest @ ..] => {
                let (upload, number) = rest.split_at_checked(UPLOAD_BYTES)?;
                let number = u16::from_be_bytes(number.try_into().ok()?);
                (1..=10_000).contains(&number).then(|| Self::Part {
                    upload: upload.to_vec(),
                    number,
                })
            }
            [] | [_, ..] => None,
        }
    }
}

/// Returns the key of an upload record.
pub(crate) fn session_key(object: &[u8], upload: &[u8]) -> Vec<u8> {
    let escaped = object
        .iter()
        .flat_map(|&byte| if byte == 0 { vec![0, 0xff] } else { vec![byte] });
    std::iter::once(0)
        .chain(escaped)
        .chain([0])
        .chain(upload.iter().copied())
        .collect()
}
