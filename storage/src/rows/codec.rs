//! The envelope of every stored value: a format version byte, then a postcard body
//! (<https://postcard.jamesmunns.com/wire-format>).
//!
//! ```text
//! +---------+---------------+----------------------+
//! | version | postcard body | tail (rows only)     |
//! | 1 byte  | self-limiting | the embedded payload |
//! +---------+---------------+----------------------+
//! ```

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::word::Version;

/// `version`, then the body.
pub(super) fn encode(version: u8, body: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(body, vec![version]).expect("our own types serialize into memory")
}

/// The body, and whatever follows it.
pub(super) fn decode_with_tail<T: DeserializeOwned>(
    what: &'static str,
    version: u8,
    value: &Bytes,
) -> Result<(T, Bytes)> {
    match value.first() {
        Some(&found) if found == version => {}
        Some(&found) => {
            let message = format!("{what} of an unknown format: found={found} known={version}");
            return Err(Error::new(ErrorKind::UnknownFormat, "decode", message));
        }
        None => return Err(corrupt(what, "empty value")),
    }
    let (body, tail) = postcard::take_from_bytes(&value[1..])
        .map_err(|error| corrupt(what, "malformed body").with_source(error))?;
    let tail_at = value.len() - tail.len();
    Ok((body, value.slice(tail_at..)))
}

/// The body; nothing may follow it.
pub(super) fn decode<T: DeserializeOwned>(
    what: &'static str,
    version: u8,
    value: &Bytes,
) -> Result<T> {
    match decode_with_tail(what, version, value)? {
        (body, tail) if tail.is_empty() => Ok(body),
        _ => Err(corrupt(what, "trailing bytes")),
    }
}

/// Refuses a version that no committed write has. The next write would have to raise it.
pub(super) fn check_version(what: &'static str, version: Version) -> Result<()> {
    if version > Version::STORED_MAX {
        return Err(corrupt(what, "its version is too high"));
    }
    Ok(())
}

pub(super) fn corrupt(what: &'static str, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "decode", format!("{what}: {why}"))
}

#[cfg(test)]
pub(super) mod fixture {
    //! Golden fixtures: the bytes of a known value, in hexadecimal, as they were first written.

    use bytes::Bytes;

    /// Asserts that a value still encodes to the bytes it once did.
    pub(crate) fn assert_golden(encoded: &[u8], golden: &str) {
        let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            golden.split_whitespace().collect::<String>(),
            "the stored format has changed"
        );
    }

    /// Asserts that no prefix and no single-byte change of a value makes its decoder panic, and
    /// that no prefix is accepted.
    pub(crate) fn assert_robust<T>(encoded: &[u8], decode: impl Fn(&Bytes) -> crate::Result<T>) {
        for end in 0..encoded.len() {
            assert!(
                decode(&Bytes::copy_from_slice(&encoded[..end])).is_err(),
                "a value cut at {end} was accepted"
            );
        }
        for at in 0..encoded.len() {
            let mut damaged = encoded.to_vec();
            damaged[at] ^= 0xff;
            drop(decode(&damaged.into()));
        }
    }

    /// Asserts that a value of a later format is refused as such.
    pub(crate) fn assert_later_format_refused<T>(
        encoded: &[u8],
        decode: impl Fn(&Bytes) -> crate::Result<T>,
    ) {
        let mut later = encoded.to_vec();
        later[0] = 0xfe;
        let error = decode(&later.into())
            .err()
            .expect("a later format must be refused");
        assert_eq!(error.kind(), crate::ErrorKind::UnknownFormat);
    }
}
