//! Encodes the marker: a small object in the blob tier that names the store to which it belongs.
//!
//! ```text
//! path "cenotaph-store"   never the path of a blob, which contains `/` and `@`
//!
//! first tier of a store
//! 0          8        9          25              33
//! | magic    | format | store id | xxh3 of 0..25 |
//! | CENOTAPH | 1      | 16 bytes | little endian |
//!
//! later tiers
//! 0          8        9          25         41              49
//! | magic    | format | store id | tier id  | xxh3 of 0..41 |
//! | CENOTAPH | 2      | 16 bytes | 16 bytes | little endian |
//! ```
//!
//! Guards I11. `ownership.rs` decides when the marker is written, and whether a store may be opened
//! with a marker.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::types::{Error, ErrorKind, Result, StoreId, TierId, TierMark};

/// Path of the marker, relative to the root of the blob tier.
pub const MARKER_PATH: &str = "cenotaph-store";

const MAGIC: &[u8; 8] = b"CENOTAPH";
/// Format of the marker of the first tier of a store.
const FIRST: u8 = 1;
/// Format of the markers of later tiers.
const LATER: u8 = 2;
/// Offset of the store id.
const ID_AT: usize = MAGIC.len() + 1;
/// Length of an id in bytes.
const ID_BYTES: usize = 16;
/// Length of the checksum in bytes.
const SUM_BYTES: usize = 8;

/// Returns the marker with this mark.
pub fn encode(mark: impl Into<TierMark>) -> Bytes {
    let mark: TierMark = mark.into();
    let mut marker = Vec::with_capacity(ID_AT + 2 * ID_BYTES + SUM_BYTES);
    marker.extend_from_slice(MAGIC);
    marker.push(if mark.tier.is_none() { FIRST } else { LATER });
    marker.extend_from_slice(mark.store.as_bytes());
    if let Some(tier) = mark.tier {
        marker.extend_from_slice(tier.as_bytes());
    }
    let sum = xxh3_64(&marker);
    marker.extend_from_slice(&sum.to_le_bytes());
    marker.into()
}

/// Returns the mark of a marker.
///
/// # Errors
/// [`ErrorKind::UnknownFormat`] if a later build wrote the marker, [`ErrorKind::Corrupt`] if the
/// bytes are damaged or not a marker.
pub fn decode(marker: &[u8]) -> Result<TierMark> {
    let corrupt = |cause: &str| {
        let message = format!("the marker of the blob tier is damaged: {cause} path={MARKER_PATH}");
        Error::new(ErrorKind::Corrupt, "open", message)
    };
    let Some((&format, rest)) = marker.strip_prefix(MAGIC).and_then(<[u8]>::split_first) else {
        return Err(corrupt("wrong magic"));
    };
    // The format is checked before the checksum, whose place a later format may change.
    let ids = match format {
        FIRST => 1,
        LATER => 2,
        _ => {
            let message = format!(
                "the marker of the blob tier has an unknown format: found={format} known={LATER}"
            );
            return Err(Error::new(ErrorKind::UnknownFormat, "open", message));
        }
    };
    let sum_at = ID_AT + ids * ID_BYTES;
    let id = |number: usize| rest.get(number * ID_BYTES..(number + 1) * ID_BYTES);
    let sum = marker
        .get(sum_at..)
        .and_then(|sum| <[u8; SUM_BYTES]>::try_from(sum).ok());
    let store = id(0).and_then(StoreId::from_slice);
    match (store, sum) {
        (Some(store), Some(sum)) if u64::from_le_bytes(sum) == xxh3_64(&marker[..sum_at]) => {
            let tier = (format == LATER).then(|| id(1).and_then(TierId::from_slice));
            Ok(TierMark {
                store,
                tier: tier.flatten(),
            })
        }
        (Some(_), Some(_)) => Err(corrupt("checksum mismatch")),
        // Also matches a marker with bytes behind the checksum, whose `sum` is not 8 bytes.
        (_, _) => Err(corrupt(&format!("wrong length: bytes={}", marker.len()))),
    }
}

/// Returns whether a crash while the first marker of this store was written may have produced these
/// bytes: a beginning of the marker, or zeros.
pub fn is_unfinished(found: &[u8], id: StoreId) -> bool {
    let whole = encode(id);
    found.len() <= whole.len() && (whole.starts_with(found) || found.iter().all(|&byte| byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::path::from_path;
    use uuid::Uuid;

    fn id(number: u128) -> StoreId {
        StoreId::from_uuid(Uuid::from_u128(number))
    }

    #[test]
    fn stored_form_of_a_marker_is_stable() {
        let marker = encode(id(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
        let hex: String = marker.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "43454e4f54415048010102030405060708090a0b0c0d0e0f1091c038d95fe42a03"
        );
        let mark = TierMark::from(id(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
        assert_eq!(decode(&marker).unwrap(), mark);
    }

    #[test]
    fn stored_form_of_a_later_marker_is_stable() {
        let mark = TierMark {
            tier: Some(TierId::from_uuid(Uuid::from_u128(0xf0))),
            ..TierMark::from(id(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10))
        };
        let marker = encode(mark);
        let hex: String = marker.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "43454e4f54415048020102030405060708090a0b0c0d0e0f10\
             000000000000000000000000000000f06f2bf8647190c44e"
        );
        assert_eq!(decode(&marker).unwrap(), mark);
        for at in 0..marker.len() {
            let mut damaged = marker.to_vec();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&marker[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn damaged_marker_names_no_store() {
        let marker = encode(id(7));
        assert_eq!(marker.len(), 33);
        for at in 0..marker.len() {
            for bit in 0..8 {
                let mut damaged = marker.to_vec();
                damaged[at] ^= 1 << bit;
                // The formats 1 and 2 differ in two bits.
                let expected = if at == MAGIC.len() {
                    ErrorKind::UnknownFormat
                } else {
                    ErrorKind::Corrupt
                };
                assert_eq!(
                    decode(&damaged).unwrap_err().kind(),
                    expected,
                    "byte {at}, bit {bit}"
                );
            }
            assert_eq!(
                decode(&marker[..at]).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "cut at {at}"
            );
        }
        assert!(decode(&[&marker[..], b"x"].concat()).is_err());
    }

    #[test]
    fn torn_marker_is_neither_damaged_nor_foreign() {
        let marker = encode(id(7));
        for end in 0..marker.len() {
            assert!(is_unfinished(&marker[..end], id(7)));
            assert!(is_unfinished(&vec![0; end], id(7)));
            assert_eq!(
                is_unfinished(&marker[..end], id(8)),
                end < ID_AT + ID_BYTES,
                "cut at {end}"
            );
        }
        assert!(!is_unfinished(b"something else", id(7)));
    }

    #[test]
    fn path_of_the_marker_is_no_revisions_path() {
        assert!(from_path(MARKER_PATH).is_err());
    }
}
