//! The configuration of an engine. The defaults suit a service on a single machine.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use cenotaph_actors::{Limits, NamespaceLimits};
use cenotaph_storage::ReadLimits;
use cenotaph_storage::blobs::BlobOptions;
use cenotaph_storage::index::fjall::FjallOptions;
use cenotaph_storage::{Error, ErrorKind, Namespace, Result};
use serde::{Deserialize, Serialize};

/// Default maximum length of a payload in the index, in bytes: 1 MiB. A longer payload goes to the
/// blob tier.
pub const INLINE_BYTES_MAX: usize = 1024 * 1024;

const GIB: u64 = 1024 * 1024 * 1024;

/// A hundred years of 366 days, in milliseconds.
const CENTURY_MS: u64 = 100 * 366 * 24 * 3_600_000;

/// A field, its value, and the bounds of the value. Durations are in milliseconds. The upper bound
/// `u64::MAX` is no bound.
type Bound = (&'static str, u64, RangeInclusive<u64>);

/// Treatment of an object whose row names a blob that is not in the blob tier.
///
/// The setting applies to [`get`](crate::Engine::get), [`copy`](crate::Engine::copy),
/// [`part_copy`](crate::MultipartUpload::part_copy), [`batch`](crate::Engine::batch) and
/// [`update`](crate::Engine::update). `head`, `list`, `usage` and preconditions never read the blob
/// tier; for them the object exists with either setting. A scrub reports the missing blob with
/// either setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingBlob {
    /// The read fails with [`Corrupt`](crate::ErrorKind::Corrupt) and the reason
    /// [`MissingBlob`](crate::Reason::MissingBlob): acknowledged bytes are lost.
    #[default]
    Corrupt,
    /// The object reads as absent, and `update` puts or deletes in its place.
    ///
    /// A read that has already returned bytes still ends with the error. While the blob tier is
    /// missing or belongs to another store, every read that needs it fails with
    /// [`Unavailable`](crate::ErrorKind::Unavailable). Use this setting only in services that
    /// expect a lost blob to read as absent; others mistake the absence for a deletion.
    Absent,
}

/// The configuration of an [`Engine`](crate::Engine). Every field has a default, so a configuration
/// file names only the fields that it changes.
///
/// ```
/// # fn main() -> Result<(), serde_json::Error> {
/// let json = r#"{ "inline_bytes_max": 65536, "limits": { "uploads_at_once": 8 } }"#;
/// let config: cenotaph::Config = serde_json::from_str(json)?;
/// assert_eq!(config.limits.uploads_at_once, 8);
/// assert_eq!(config.limits.shards, 16);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Maximum length of a payload in the index, in bytes. A longer payload goes to the blob tier.
    /// The value may differ at every open.
    ///
    /// On a local file system, files are faster than inline payloads from about 128 KiB on. With a
    /// remote blob tier, inline payloads are faster up to the default of 1 MiB.
    pub inline_bytes_max: usize,
    /// Limits of writes and of background work.
    pub limits: Limits,
    /// Limits of reads.
    pub reads: ReadLimits,
    /// Options of the blob tier.
    pub blobs: BlobOptions,
    /// Treatment of an object whose blob is missing. The default is an error.
    pub missing_blob: MissingBlob,
    /// Initial limits of namespaces. The key is the name of the namespace,
    /// `usecase/scope=value/..`. An entry applies to exactly that namespace.
    /// [`Engine::limit_namespace`](crate::Engine::limit_namespace) changes limits until the engine
    /// is closed.
    pub namespaces: BTreeMap<String, NamespaceLimits>,
    /// Options of the fjall index. Ignored if the builder was given another
    /// [index](crate::Builder::index).
    pub index: FjallOptions,
}

impl Config {
    /// Checks every value against its bounds. [`Builder::open`](crate::Builder::open) calls this
    /// first.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid): a value is out of bounds. The message contains the
    /// field, its value and its bounds.
    pub fn check(&self) -> Result<()> {
        let bounds = write_bounds(self)
            .into_iter()
            .chain(background_bounds(&self.limits))
            .chain(batch_and_upload_bounds(&self.limits))
            .chain(tier_bounds(&self.reads, &self.blobs));
        // The first violation in this order is reported.
        let mut violations = bounds.filter(|(_, value, bounds)| !bounds.contains(value));
        match violations.next() {
            None => {
                // These values have rules of their own instead of numeric bounds.
                self.blobs.modes.check("blobs.modes")?;
                configured_namespaces(&self.namespaces).map(drop)
            }
            Some((field, value, bounds)) => {
                let min = bounds.start();
                let max = bounds.end();
                let message = format!(
                    "setting out of bounds: field={field} value={value} min={min} max={max}"
                );
                Err(Error::new(ErrorKind::Invalid, "open", message))
            }
        }
    }
}

/// Parses the namespaces of a configuration, and checks their limits.
pub(crate) fn configured_namespaces(
    namespaces: &BTreeMap<String, NamespaceLimits>,
) -> Result<Vec<(Namespace, NamespaceLimits)>> {
    let parsed = namespaces.iter().map(|(namespace, limits)| {
        limits
            .check()
            .and_then(|()| namespace.parse())
            .map(|parsed| (parsed, limits.clone()))
            .map_err(|error| {
                let message = format!("invalid limits of a namespace: namespace={namespace:?}");
                Error::new(ErrorKind::Invalid, "open", message).with_source(error)
            })
    });
    parsed.collect()
}

/// Bounds of the writes in progress.
fn write_bounds(config: &Config) -> [Bound; 8] {
    let limits = &config.limits;
    [
        (
            "inline_bytes_max",
            config.inline_bytes_max as u64,
            0..=64 * 1024 * 1024,
        ),
        ("limits.shards", limits.shards as u64, 1..=4096),
        (
            "limits.writes_at_once",
            limits.writes_at_once as u64,
            1..=1 << 24,
        ),
        (
            "limits.write_bytes_in_flight",
            limits.write_bytes_in_flight as u64,
            1..=256 * GIB,
        ),
        (
            "limits.uploads_at_once",
            limits.uploads_at_once as u64,
            1..=1 << 16,
        ),
        (
            "limits.upload_bytes_in_flight",
            limits.upload_bytes_in_flight as u64,
            1..=256 * GIB,
        ),
        (
            "limits.heartbeat in ms",
            millis(limits.heartbeat),
            1..=3_600_000,
        ),
        (
            "limits.recovery_page",
            limits.recovery_page as u64,
            1..=100_000,
        ),
    ]
}

/// Bounds of the background work: sweep, restarts, expiry, last versions, members.
fn background_bounds(limits: &Limits) -> [Bound; 14] {
    let sweep = &limits.sweep;
    let expiry = &limits.expiry;
    let last_versions = &limits.last_versions;
    [
        (
            "limits.sweep.deletes_at_once",
            sweep.deletes_at_once as u64,
            1..=1024,
        ),
        ("limits.sweep.page", sweep.page as u64, 1..=100_000),
        (
            "limits.sweep.backoff_min in ms",
            millis(sweep.backoff_min),
            1..=3_600_000,
        ),
        (
            "limits.sweep.backoff_max in ms",
            millis(sweep.backoff_max),
            1..=u64::MAX,
        ),
        (
            "limits.sweep.timeout in ms",
            millis(sweep.timeout),
            1..=u64::MAX,
        ),
        (
            "limits.restarts.backoff_max in ms",
            millis(limits.restarts.backoff_max),
            1..=u64::MAX,
        ),
        (
            "limits.expiry.removals_at_once",
            expiry.removals_at_once as u64,
            1..=100_000,
        ),
        ("limits.expiry.page", expiry.page as u64, 1..=100_000),
        (
            "limits.expiry.interval_max in ms",
            millis(expiry.interval_max),
            1..=u64::MAX,
        ),
        (
            "limits.last_versions.page",
            last_versions.page as u64,
            1..=100_000,
        ),
        (
            "limits.last_versions.page_interval in ms",
            millis(last_versions.page_interval),
            1..=3_600_000,
        ),
        (
            "limits.last_versions.walk_interval in ms",
            millis(last_versions.walk_interval),
            1..=u64::MAX,
        ),
        (
            "limits.members.lease in ms",
            millis(limits.members.lease),
            1..=3_600_000,
        ),
        (
            "limits.members.reader_grace in ms",
            millis(limits.members.reader_grace),
            0..=3_600_000,
        ),
    ]
}

/// Bounds of batches, updates and multipart uploads.
fn batch_and_upload_bounds(limits: &Limits) -> [Bound; 10] {
    [
        (
            "limits.batch_operations_max",
            limits.batch_operations_max as u64,
            1..=100_000,
        ),
        (
            "limits.atomic_bytes_max",
            limits.atomic_bytes_max as u64,
            1..=GIB,
        ),
        (
            "limits.update_attempts",
            u64::from(limits.update_attempts),
            1..=1000,
        ),
        (
            "limits.multipart.part_bytes_max",
            limits.multipart.part_bytes_max,
            1..=u64::MAX,
        ),
        (
            "limits.multipart.lifetime in ms",
            millis(limits.multipart.lifetime),
            1..=CENTURY_MS,
        ),
        (
            "limits.multipart.parts_ending_at_once",
            limits.multipart.parts_ending_at_once as u64,
            1..=1 << 24,
        ),
        (
            "limits.multipart.kept_for in ms",
            millis(limits.multipart.kept_for),
            1..=CENTURY_MS,
        ),
        (
            "limits.split.over_bytes",
            limits.split.over_bytes,
            1..=u64::MAX,
        ),
        (
            "limits.split.part_bytes",
            limits.split.part_bytes,
            1..=u64::MAX,
        ),
        (
            "limits.split.at_once",
            limits.split.at_once as u64,
            1..=1024,
        ),
    ]
}

/// Bounds of reads and of the blob tier.
fn tier_bounds(reads: &ReadLimits, blobs: &BlobOptions) -> [Bound; 7] {
    [
        ("reads.attempts", u64::from(reads.attempts), 1..=1024),
        (
            "reads.bytes_in_flight",
            reads.bytes_in_flight,
            1..=256 * GIB,
        ),
        ("reads.read_ahead", reads.read_ahead as u64, 1..=1024),
        ("reads.unit_blocks", u64::from(reads.unit_blocks), 1..=1024),
        (
            "reads.list_page_max",
            reads.list_page_max as u64,
            1..=1_000_000,
        ),
        (
            "blobs.chunk_bytes",
            blobs.chunk_bytes as u64,
            1024 * 1024..=5 * GIB,
        ),
        ("blobs.concurrent", blobs.concurrent as u64, 1..=1024),
    ]
}

/// Returns a duration in milliseconds. A longer duration than fits is the maximum.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            inline_bytes_max: INLINE_BYTES_MAX,
            limits: Limits::default(),
            reads: ReadLimits::default(),
            blobs: BlobOptions::default(),
            missing_blob: MissingBlob::default(),
            namespaces: BTreeMap::new(),
            index: FjallOptions::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_valid_and_a_bad_value_is_named() {
        Config::default().check().unwrap();
        let config = Config {
            limits: Limits {
                shards: 0,
                ..Limits::default()
            },
            ..Config::default()
        };
        let error = config.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error
                .to_string()
                .contains("field=limits.shards value=0 min=1"),
            "{error}"
        );
    }
}
