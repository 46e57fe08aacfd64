//! Payloads of a workload: each write has its own bytes, which anybody can make again from its
//! number.

use bytes::Bytes;

/// Bytes that are made at a time: the rest of a long payload is copied, which is much faster.
const PIECE: usize = 1024;

/// The bytes of this write: its number, then whatever follows from that. No two pieces of a payload
/// are the same.
pub(crate) fn payload(write: u64, bytes: u64) -> Bytes {
    let length = usize::try_from(bytes).expect("payloads fit into memory");
    let mut piece = Vec::with_capacity(PIECE);
    let mut word = write.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while piece.len() < PIECE.min(length) {
        piece.extend_from_slice(&word.to_le_bytes());
        word = word.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1);
    }
    let mut out = Vec::with_capacity(length + PIECE);
    let mut number = write;
    while out.len() < length {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&piece[8.min(piece.len())..]);
        number = number.wrapping_add(1 << 32);
    }
    out.truncate(length);
    out.into()
}

/// The number of the write whose payload this is; none if it is too short to tell.
pub(crate) fn write_of(payload: &[u8]) -> Option<u64> {
    payload
        .first_chunk()
        .map(|number| u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_tell_whose_they_are_and_no_two_are_alike() {
        for bytes in [0, 1, 7, 8, 9, 1023, 1024, 1025, 5000] {
            let (one, other) = (payload(7, bytes), payload(8, bytes));
            assert_eq!(one.len() as u64, bytes);
            assert_eq!(one, payload(7, bytes));
            assert_eq!(one == other, bytes == 0);
            assert_eq!(write_of(&one), (bytes >= 8).then_some(7));
        }
        let long = payload(7, 10 * PIECE as u64);
        let pieces: std::collections::BTreeSet<_> = long.chunks(PIECE).collect();
        assert_eq!(pieces.len(), 10);
    }
}
