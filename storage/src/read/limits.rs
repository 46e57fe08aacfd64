//! The limits of the read side.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of reads and listings. Fields that a configuration leaves out have their default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadLimits {
    /// Units that one stream fetches or has fetched ahead of its reader, while there is room for
    /// them; 0 fetches only what is asked for. Default 3.
    pub read_ahead: usize,
    /// Blocks of 1 MiB in one unit, which is one ranged read of the blob tier; at least 1. More are
    /// worth it where a request takes long. Default 1.
    pub unit_blocks: u32,
    /// Bytes of blobs in memory, over all streams: being fetched, fetched ahead, or not taken by
    /// their reader yet. A quarter of them is for what readers wait for, so that slow readers cost
    /// others their read-ahead and no more; under such pressure one block is fetched at a time, and
    /// what [`Reads::open`](super::Reads::open) has verified is fetched again when it is asked for.
    /// A unit that is larger is fetched alone. Default 256 MiB.
    pub bytes_in_flight: u64,
    /// Longest wait for room to fetch what is asked for. Then the read is `Overloaded`. Default 30
    /// s.
    pub budget_wait: Duration,
    /// Objects that are being read at once: opened, and neither read to the end nor dropped. One
    /// more is `Overloaded`. Each that is inline holds its payload beside the bytes in flight.
    /// Default 4096.
    pub open_at_once: usize,
    /// How often a read looks at an object that is replaced under its eyes, before it gives up; at
    /// least 1. Default 16.
    pub attempts: u32,
    /// Most entries in one page of a listing. Default 10 000.
    pub list_page_max: usize,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            read_ahead: 3,
            unit_blocks: 1,
            bytes_in_flight: 256 * 1024 * 1024,
            budget_wait: Duration::from_secs(30),
            open_at_once: 4096,
            attempts: 16,
            list_page_max: 10_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_configuration_leaves_out_has_its_default() {
        let limits: ReadLimits = serde_json::from_str(r#"{ "read_ahead": 7 }"#).unwrap();
        assert_eq!(
            limits,
            ReadLimits {
                read_ahead: 7,
                ..ReadLimits::default()
            }
        );
        assert!(serde_json::from_str::<ReadLimits>(r#"{ "readahead": 7 }"#).is_err());
    }
}
