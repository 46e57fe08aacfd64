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

use crate::types::{Error, ErrorKind, Result};

/// Encodes the version byte and then the body.
pub(super) fn encode(version: u8, body: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(body, vec![version]).expect("our own types serialize into memory")
}

/// Decodes the body and returns it with the bytes after it. `kind` names the value in errors.
pub(super) fn decode_with_tail<T: DeserializeOwned>(
    kind: &'static str,
    version: u8,
    value: &Bytes,
) -> Result<(T, Bytes)> {
    match value.first() {
        Some(&found) if found == version => {}
        Some(&found) => {
            let message = format!("{kind} of an unknown format: found={found} known={version}");
            return Err(Error::new(ErrorKind::UnknownFormat, "decode", message));
        }
        None => return Err(corrupt(kind, "empty value")),
    }
    let (body, tail) = postcard::take_from_bytes(&value[1..])
        .map_err(|error| corrupt(kind, "malformed body").with_source(error))?;
    // The tail stays a slice of the value: an embedded payload is not copied.
    let tail_at = value.len() - tail.len();
    Ok((body, value.slice(tail_at..)))
}

/// Decodes the body and refuses any bytes after it. `kind` names the value in errors.
pub(super) fn decode<T: DeserializeOwned>(
    kind: &'static str,
    version: u8,
    value: &Bytes,
) -> Result<T> {
    match decode_with_tail(kind, version, value)? {
        (body, tail) if tail.is_empty() => Ok(body),
        _ => Err(corrupt(kind, "trailing bytes")),
    }
}

/// Returns a [`Corrupt`](ErrorKind::Corrupt) error about a stored value of this kind.
pub(super) fn corrupt(kind: &'static str, reason: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "decode", format!("{kind}: {reason}"))
}

#[cfg(test)]
pub(super) mod fixture {
    //! Golden fixtures: the hexadecimal bytes of a known value, taken when its format was made.

    use bytes::Bytes;

    /// Asserts that a value encodes to its golden bytes.
    pub(crate) fn assert_golden(encoded: &[u8], golden: &str) {
        let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            golden.split_whitespace().collect::<String>(),
            "the stored format has changed"
        );
    }

    /// Asserts that the decoder refuses every proper prefix of a value, and that it does not panic
    /// when any single byte is inverted.
    pub(crate) fn assert_robust<T>(encoded: &[u8], decode: impl Fn(&Bytes) -> crate::Result<T>) {
        for end in 0..encoded.len() {
            assert!(
                decode(&Bytes::copy_from_slice(&encoded[..end])).is_err(),
                "a truncated value was accepted: bytes={end}"
            );
        }
        for at in 0..encoded.len() {
            let mut damaged = encoded.to_vec();
            damaged[at] ^= 0xff;
            drop(decode(&damaged.into()));
        }
    }

    /// Asserts that a value of a later format is refused as an unknown format.
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
