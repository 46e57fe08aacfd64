//! Payloads of a workload. The bytes of a write are a function of its number, so that a check can
//! generate them again.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::buffers::{buffer, content};

/// Size of the generated piece in bytes. A longer payload repeats the piece, which is much faster
/// than generating all bytes.
const PIECE: usize = 1024;

/// Returns the payload of a write: its number, followed by bytes that are derived from it. No two
/// pieces of a payload are equal.
fn payload(write: u64, bytes: u64) -> Bytes {
    let length = usize::try_from(bytes).expect("payloads fit into memory");
    let mut piece = Vec::with_capacity(PIECE);
    let mut word = write.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while piece.len() < PIECE.min(length) {
        piece.extend_from_slice(&word.to_le_bytes());
        word = word.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1);
    }
    let mut out = buffer(length + PIECE);
    let mut number = write;
    while out.len() < length {
        // The first 8 bytes of every piece differ, so that swapped blocks are detected.
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&piece[8.min(piece.len())..]);
        number = number.wrapping_add(1 << 32);
    }
    out.truncate(length);
    content(out)
}

/// Payloads that the clients of a run have sent, kept for the checks that compare with them.
#[derive(Default)]
pub(crate) struct Payloads(BTreeMap<(u64, u64), Bytes>);

impl Payloads {
    /// Returns the payload of a write, and keeps it.
    pub(crate) fn keep(&mut self, write: u64, bytes: u64) -> Bytes {
        let kept = self.0.entry((write, bytes));
        kept.or_insert_with(|| payload(write, bytes)).clone()
    }

    /// Returns the payload of a write, which need not be kept.
    pub(crate) fn of(&self, write: u64, bytes: u64) -> Bytes {
        let kept = self.0.get(&(write, bytes)).cloned();
        kept.unwrap_or_else(|| payload(write, bytes))
    }
}

/// Returns the number of the write of a payload, or `None` if the payload is shorter than 8 bytes.
pub(crate) fn write_of(payload: &[u8]) -> Option<u64> {
    payload
        .first_chunk()
        .map(|number| u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_contain_their_number_and_differ() {
        for bytes in [0, 1, 7, 8, 9, 1023, 1024, 1025, 5000] {
            let seventh = payload(7, bytes);
            assert_eq!(seventh.len() as u64, bytes);
            assert_eq!(seventh, payload(7, bytes));
            assert_eq!(seventh == payload(8, bytes), bytes == 0);
            assert_eq!(write_of(&seventh), (bytes >= 8).then_some(7));
        }
        let long = payload(7, 10 * PIECE as u64);
        let pieces: std::collections::BTreeSet<_> = long.chunks(PIECE).collect();
        assert_eq!(pieces.len(), 10);
    }
}
