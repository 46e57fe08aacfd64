//! `stats`: prints the contents of the store and the counters of the engine.

use cenotaph::{ErrorKind, FallbackState, PayloadLogStats, SpaceStats, Stats, Timestamp, Usage};
use serde_json::json;

use crate::args::StatsArgs;
use crate::store::OpenStore;
use crate::ui::failure::{Failure, one_line};
use crate::ui::human::{self, Align};
use crate::ui::report::Report;

/// Runs `stats`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &StatsArgs,
) -> Result<(), Failure> {
    let stats = store.engine.stats().await?;
    let usage = if options.no_count {
        None
    } else {
        usage(store, report).await?
    };
    let fallback = store.engine.fallback_status().await?;
    let older = store.tiers.older(&store.engine);
    let members = match store.is_shared {
        true => Some(store.engine.members().await?.0.len() as u64),
        false => None,
    };
    if report.is_json() {
        let mut value = in_json(&stats);
        value["shared"] = json!(store.is_shared);
        value["members"] = json!(members);
        let state = fallback.as_ref().map(|fallback| state(fallback.state));
        value["blobs"] = json!(store.tiers.current());
        value["older_blobs"] = json!(older);
        value["fallback"] = json!(fallback.as_ref().map(|fallback| &fallback.description));
        value["fallback_state"] = json!(state);
        value["fallback_moved"] = json!(fallback.as_ref().map(|fallback| fallback.migration.moved));
        for (name, counted) in usage_in_json(usage.as_ref()) {
            value[name] = counted;
        }
        report.json(&value)?;
    } else {
        let mut rows: Vec<[String; 2]> = usage.as_ref().map(usage_in_rows).unwrap_or_default();
        let owned = |(name, value): (&str, String)| [name.to_owned(), value];
        rows.extend(work_in_rows(&stats).map(owned));
        match members {
            // A member has neither a disk nor a payload log of its own.
            Some(members) => {
                rows.insert(0, owned(("shared, members", human::grouped(members))));
                rows.push(owned(("of this member alone", String::new())));
                rows.extend(engine_in_rows(&stats, "  "));
            }
            None => {
                rows.extend(engine_in_rows(&stats, ""));
                rows.extend(disk_in_rows(&stats).map(owned));
            }
        }
        let current = store.tiers.readable(store.tiers.current());
        rows.push(["blob tier".to_owned(), current]);
        rows.extend(
            older
                .into_iter()
                .map(|uri| ["  older".to_owned(), store.tiers.readable(uri)]),
        );
        if let Some(fallback) = &fallback {
            let moved = human::grouped(fallback.migration.moved);
            rows.push(["fallback".to_owned(), fallback.description.clone()]);
            rows.push(["  state".to_owned(), state(fallback.state).to_owned()]);
            rows.push(["  moved from it".to_owned(), moved]);
        }
        report.text(&human::table([Align::Left, Align::Right], &rows))?;
    }
    // Printed first, failed then: the counts of the readable rows are still useful.
    match usage.map_or(0, |usage| usage.unreadable_ranges) {
        0 => Ok(()),
        ranges => {
            let ranges = human::counted(ranges, "range");
            Err(Failure::Failed(format!(
                "{ranges} of rows can't be read, so the counts are incomplete; run `scrub`"
            )))
        }
    }
}

/// Returns the state of a fallback as a word.
fn state(state: FallbackState) -> &'static str {
    match state {
        FallbackState::Open => "open",
        FallbackState::Sealed => "sealed",
        FallbackState::Lost => "lost",
    }
}

/// Counts objects and bytes, or returns `None` and prints a message if a row is damaged. The damage
/// must not hide the counters of the engine.
async fn usage(store: &OpenStore, report: &Report) -> Result<Option<Usage>, Failure> {
    match store.engine.usage().await {
        Ok(usage) => Ok(Some(usage)),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            report.note(&format!(
                "the objects can't be counted; run `scrub`: {}",
                one_line(&error)
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the fields of the usage for scripts, `null` if it is unknown.
fn usage_in_json(usage: Option<&Usage>) -> [(&'static str, serde_json::Value); 9] {
    [
        ("objects", json!(usage.map(|usage| usage.objects))),
        (
            "bytes",
            json!(usage.map(|usage| usage.inline_bytes + usage.blob_bytes)),
        ),
        (
            "inline_objects",
            json!(usage.map(|usage| usage.inline_objects)),
        ),
        ("inline_bytes", json!(usage.map(|usage| usage.inline_bytes))),
        ("blob_objects", json!(usage.map(|usage| usage.blob_objects))),
        ("blob_bytes", json!(usage.map(|usage| usage.blob_bytes))),
        ("expired", json!(usage.map(|usage| usage.expired))),
        (
            "unreadable_ranges",
            json!(usage.map(|usage| usage.unreadable_ranges)),
        ),
        (
            "oldest_ms",
            json!(
                usage
                    .and_then(|usage| usage.oldest)
                    .map(Timestamp::as_millis)
            ),
        ),
    ]
}

/// Returns the rows of the usage for people.
fn usage_in_rows(usage: &Usage) -> Vec<[String; 2]> {
    let row = |name: &str, value: String| [name.to_owned(), value];
    vec![
        row("objects", human::grouped(usage.objects)),
        row("  in the index", human::grouped(usage.inline_objects)),
        row("  in the blob tier", human::grouped(usage.blob_objects)),
        row(
            "bytes",
            human::grouped(usage.inline_bytes + usage.blob_bytes),
        ),
        row("  in the index", human::grouped(usage.inline_bytes)),
        row("  in the blob tier", human::grouped(usage.blob_bytes)),
        row("expired, not removed yet", human::grouped(usage.expired)),
        row("oldest object", moment(usage.oldest)),
    ]
}

/// Formats an optional timestamp; `-` if absent.
fn moment(moment: Option<Timestamp>) -> String {
    moment.map_or_else(|| "-".to_owned(), human::moment)
}

/// Returns the counters of the engine for scripts. On a shared index those of changes, orphans, open
/// uploads (`sessions`) and the base version are of the whole store, the others of this member.
fn in_json(stats: &Stats) -> serde_json::Value {
    let index = &stats.index;
    let actors = &stats.actors;
    let reads = &stats.reads;
    json!({
        "epoch": stats.epoch.get(),
        "changes": actors.changes,
        "orphans": actors.orphans,
        "oldest_change_ms": actors.oldest_change.map(Timestamp::as_millis),
        "oldest_orphan_ms": actors.oldest_orphan.map(Timestamp::as_millis),
        "sessions": actors.open_uploads,
        "oldest_session_ms": actors.oldest_upload.map(Timestamp::as_millis),
        "base_version": actors.base_version,
        "fenced": actors.fenced,
        "swept": actors.swept,
        "sweep_failures": actors.sweep_failures,
        "superseded": actors.superseded,
        "restarts": actors.restarts,
        "writes_live": actors.writes_live,
        "uploads_live": actors.uploads_live,
        "index_batches": index.batches,
        "index_syncs": index.syncs,
        "index_waiting": index.waiting,
        "disk_free_bytes": stats.space.map(|space| space.free_bytes),
        "disk_needed_bytes": stats.space.map(|space| space.needed_bytes),
        "disk_reserve_bytes": stats.space.map(|space| space.reserve_bytes),
        "disk_is_low": stats.space.map(|space| space.is_low),
        "log_segments": stats.payload_log.map(|log| log.segments),
        "log_live_bytes": stats.payload_log.map(|log| log.live_bytes),
        "log_dead_bytes": stats.payload_log.map(|log| log.dead_bytes),
        "log_total_bytes": stats.payload_log.map(|log| log.total_bytes()),
        "log_last_collection": stats.payload_log.and_then(|log| log.last_collection).map(
            |collection| {
                serde_json::json!({
                    "ended_ms": collection.ended.as_millis(),
                    "freed_bytes": collection.freed_bytes,
                    "copied_bytes": collection.copied_bytes,
                })
            },
        ),
        "missing_blobs": reads.missing_blobs,
        "corrupt_blocks": reads.corrupt_blocks,
    })
}

/// Returns the rows of the work that is left for people. On a shared index it is that of all members.
fn work_in_rows(stats: &Stats) -> [(&'static str, String); 7] {
    let actors = &stats.actors;
    [
        ("changes not settled", human::grouped(actors.changes)),
        ("  oldest", moment(actors.oldest_change)),
        ("orphans not settled", human::grouped(actors.orphans)),
        ("  oldest", moment(actors.oldest_orphan)),
        ("open uploads", human::grouped(actors.open_uploads)),
        ("  oldest", moment(actors.oldest_upload)),
        ("base version", human::grouped(actors.base_version)),
    ]
}

/// Returns the rows of the counters of this engine for people, each name behind `indent`.
fn engine_in_rows(stats: &Stats, indent: &str) -> [[String; 2]; 5] {
    let actors = &stats.actors;
    [
        ("epoch", stats.epoch.get()),
        ("changes settled since open", actors.fenced),
        ("orphans settled since open", actors.swept),
        ("failed deletions since open", actors.sweep_failures),
        ("batches committed since open", stats.index.batches),
    ]
    .map(|(name, value)| [format!("{indent}{name}"), human::grouped(value)])
}

/// Returns the rows of the disk of the index for people.
fn disk_in_rows(stats: &Stats) -> [(&'static str, String); 9] {
    let of_disk = |bytes: fn(&SpaceStats) -> u64| {
        stats
            .space
            .as_ref()
            .map_or_else(|| "-".to_owned(), |space| human::grouped(bytes(space)))
    };
    let of_log = |bytes: fn(&PayloadLogStats) -> u64| {
        stats
            .payload_log
            .as_ref()
            .map_or_else(|| "-".to_owned(), |log| human::grouped(bytes(log)))
    };
    let last_collection = stats.payload_log.and_then(|log| log.last_collection);
    let is_low = stats.space.is_some_and(|space| space.is_low);
    [
        (
            "disk of the index, bytes free",
            of_disk(|space| space.free_bytes),
        ),
        ("  needed to take puts", of_disk(|space| space.needed_bytes)),
        ("  held in reserve", of_disk(|space| space.reserve_bytes)),
        (
            "  state",
            if is_low {
                "no space: only deletes are accepted"
            } else {
                "ok"
            }
            .to_owned(),
        ),
        ("payload log, bytes in use", of_log(|log| log.live_bytes)),
        ("  no longer in use", of_log(|log| log.dead_bytes)),
        ("  total", of_log(PayloadLogStats::total_bytes)),
        ("  segments", of_log(|log| log.segments)),
        (
            "  last collection",
            last_collection.map_or_else(
                || "-".to_owned(),
                |collection| {
                    format!(
                        "{}, {} bytes freed, {} copied",
                        moment(Some(collection.ended)),
                        human::grouped(collection.freed_bytes),
                        human::grouped(collection.copied_bytes)
                    )
                },
            ),
        ),
    ]
}
