//! Engine configuration of a plan: [`config`]. Small limits make rare paths frequent.

use std::time::Duration;

use cenotaph::{
    Config, ExpiryLimits, LastVersionLimits, Limits, MultipartLimits, QueueLimits, ReadLimits,
    RestartLimits, SplitLimits, SweepLimits,
};
use cenotaph_storage::blobs::BlobOptions;

use crate::plan::{BlobCut, LastVersionRules, Setting};

/// Returns the configuration of the engine for the setting of a plan.
pub(super) fn config(setting: &Setting) -> Config {
    let budget = |bytes: usize| {
        if setting.scarce {
            bytes
        } else {
            256 * 1024 * 1024
        }
    };
    Config {
        // The payloads of a plan are around this limit, so both tiers are used.
        inline_bytes_max: usize::try_from(setting.inline_bytes_max)
            .expect("inline payloads fit into memory"),
        limits: Limits {
            shards: setting.shards,
            writes_at_once: setting.writes_at_once,
            uploads_at_once: setting.uploads_at_once,
            // A scarce budget admits only a few of the plan's uploads and writes at once.
            upload_bytes_in_flight: budget(9 * 1024 * 1024),
            write_bytes_in_flight: budget(64 * 1024),
            // Without places a call over a limit fails at once.
            queue: QueueLimits {
                places: if setting.scarce { 2 } else { 0 },
                wait: Duration::from_secs(1),
            },
            // A run lasts minutes of virtual time, most of them idle.
            heartbeat: Duration::from_secs(5),
            // A few changes, orphans and expired rows already need several pages.
            recovery_page: 2,
            restarts: RestartLimits {
                max: setting.restarts_max,
                ..RestartLimits::default()
            },
            sweep: sweep(),
            multipart: MultipartLimits {
                part_bytes_min: setting.multipart.part_bytes_min,
                lifetime: Duration::from_millis(setting.multipart.lifetime_ms),
                kept_for: Duration::from_millis(setting.multipart.kept_for_ms),
                ..MultipartLimits::default()
            },
            // Without a cut every large put is a single blob.
            split: setting.cut.map_or_else(
                SplitLimits::default,
                |BlobCut {
                     over_bytes,
                     part_bytes,
                     at_once,
                 }| {
                    SplitLimits {
                        over_bytes,
                        part_bytes,
                        at_once,
                    }
                },
            ),
            last_versions: last_versions(setting.last_versions),
            expiry: ExpiryLimits {
                page: 3,
                removals_at_once: 2,
                ..ExpiryLimits::default()
            },
            ..Limits::default()
        },
        reads: ReadLimits {
            bytes_in_flight: budget(32 * 1024) as u64,
            ..ReadLimits::default()
        },
        blobs: BlobOptions {
            // Smaller than the largest payloads of a plan, so that some blobs take several chunks.
            chunk_bytes: 1024 * 1024,
            concurrent: 1,
            ..BlobOptions::default()
        },
        ..Config::default()
    }
}

/// Returns the limits of the sweeper. The grace time is short, so that a run sees both deletions of
/// an orphan that may land.
fn sweep() -> SweepLimits {
    SweepLimits {
        grace: Duration::from_secs(30),
        backoff_max: Duration::from_secs(20),
        page: 3,
        ..SweepLimits::default()
    }
}

/// Returns the limits of last versions. With limits that a plan can reach, a run has several pages
/// and walks.
fn last_versions(rules: LastVersionRules) -> LastVersionLimits {
    let LastVersionRules {
        kept_for_ms,
        entries_max,
    } = rules;
    let limits = LastVersionLimits {
        kept_for: Duration::from_millis(kept_for_ms),
        entries_max,
        ..LastVersionLimits::default()
    };
    if rules == LastVersionRules::default() {
        return limits;
    }
    LastVersionLimits {
        page: 3,
        page_interval: Duration::from_millis(20),
        walk_interval: Duration::from_secs(10),
        ..limits
    }
}
