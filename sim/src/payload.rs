//! Payloads of a workload: each write has its own bytes, which anybody can make again from its number.

use bytes::Bytes;

/// The bytes of this write: its number, then whatever follows from that.
pub(crate) fn payload(write: u64, bytes: u64) -> Bytes {
    let length = usize::try_from(bytes).expect("payloads fit into memory");
    let mut out = Vec::with_capacity(length + 16);
    out.extend_from_slice(&write.to_le_bytes());
    let mut word = write.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while out.len() < length {
        out.extend_from_slice(&word.to_le_bytes());
        word = word.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1);
    }
    out.truncate(length);
    out.into()
}

/// The number of the write whose payload this is; none if it is too short to tell.
pub(crate) fn write_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|number| u64::from_le_bytes(*number))
}
