//! Everything about an engine that may be configured, with defaults that suit a service on one machine.

use cenotaph_actors::Limits;
use cenotaph_storage::ReadLimits;
use cenotaph_storage::blobs::BlobOptions;
use cenotaph_storage::index::fjall::FjallOptions;
use serde::{Deserialize, Serialize};

/// Longest payload that stays in the index by default: 1 MiB. One byte more goes to the blob tier.
pub const INLINE_BYTES_MAX: usize = 1024 * 1024;

/// The configuration of an [`Engine`](crate::Engine). Every field has a default, so that a service's configuration file
/// names only what it changes.
///
/// ```
/// # fn main() -> Result<(), serde_json::Error> {
/// let config: cenotaph::Config = serde_json::from_str(r#"{ "inline_bytes_max": 65536, "limits": { "uploads_at_once": 8 } }"#)?;
/// assert_eq!(config.limits.uploads_at_once, 8);
/// assert_eq!(config.limits.shards, 16);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Longest payload in bytes that stays in the index; one byte more goes to the blob tier. May differ at every open. On a local
    /// file system files are faster than inline payloads from about 128 KiB; against a remote tier inline wins up to the default.
    pub inline_bytes_max: usize,
    /// Limits of the writes.
    pub limits: Limits,
    /// Limits of the reads.
    pub reads: ReadLimits,
    /// How blobs are written.
    pub blobs: BlobOptions,
    /// How the index is kept. Ignored if an index of your own is given.
    pub index: FjallOptions,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            inline_bytes_max: INLINE_BYTES_MAX,
            limits: Limits::default(),
            reads: ReadLimits::default(),
            blobs: BlobOptions::default(),
            index: FjallOptions::default(),
        }
    }
}
