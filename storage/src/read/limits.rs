//! Limits of reads and listings: [`ReadLimits`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Limits of reads and listings. Fields that a configuration omits have their default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadLimits {
    /// Number of units that a stream fetches or has fetched ahead of its reader, if the memory
    /// budget has room; 0 disables fetching ahead. Default 3.
    pub read_ahead: usize,
    /// Blocks of 1 MiB per unit, which is fetched by a single ranged read of the blob tier; at
    /// least
    /// 1. Larger units pay off if requests to the blob tier are slow. Default 1.
    pub unit_blocks: u32,
    /// Memory budget of all streams, in bytes of blobs: being fetched, fetched ahead, or not yet
    /// taken by their reader. A quarter is reserved for bytes for which readers wait, so that slow
    /// readers cost others only their read-ahead. When the rest is used up, streams fetch a single
    /// block at a time, and fetch the bytes that [`Reads::open`](super::Reads::open) has verified
    /// again. A unit that is larger than the reserve is fetched alone. Default 256 MiB.
    pub bytes_in_flight: u64,
    /// Longest wait for memory to fetch the next bytes. After that the read is `Overloaded`.
    /// Default 30 s.
    pub budget_wait: Duration,
    /// Most open objects: opened, and neither read to the end nor dropped. Further reads are
    /// `Overloaded`. The payload of an open inline object does not count in `bytes_in_flight`.
    /// Default 4096.
    pub open_at_once: usize,
    /// Most attempts to open an object that is replaced during each attempt; at least 1. Default
    /// 16.
    pub attempts: u32,
    /// Most entries in a page of a listing. Default 10 000.
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
    fn omitted_fields_have_their_default() {
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
