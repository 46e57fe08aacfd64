//! `ls`: lists the objects of a prefix, page by page.

use std::time::Duration;

use cenotaph::{Entry, Expiration, ObjectMeta, Timestamp};
use serde_json::{Value, json};

use crate::args::LsArgs;
use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::human::{self, Align};
use crate::ui::report::Report;

/// Number of entries per page.
const PAGE: usize = 1000;

/// Runs `ls`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: LsArgs,
) -> Result<(), Failure> {
    let mut left = options.limit.unwrap_or(usize::MAX);
    let mut unreadable = 0u64;
    let mut after: Option<String> = None;
    while left > 0 {
        let list = store
            .engine
            .list(&options.prefix)
            .namespace(store.namespace.clone())
            .limit(left.min(PAGE));
        // A damaged range is reported and skipped, so that the objects after it are listed.
        let mut list = list.step_over_damage();
        if let Some(delimiter) = options.delimiter {
            list = list.delimiter(delimiter);
        }
        if let Some(after) = &after {
            list = list.start_after(after);
        }
        // Each page is printed before the next is read, so that memory stays bounded.
        let page = retrying(&store.env, async || list.clone().await).await?;
        left -= page.entries.len().min(left);
        report.text(&show(&page.entries, report.is_json(), options.long))?;
        for range in &page.unreadable {
            report.note(&human::key(&range.to_string()));
            unreadable += 1;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    if unreadable > 0 {
        let ranges = human::counted(unreadable, "range");
        return Err(Failure::Failed(format!(
            "{ranges} of keys can't be read, so the listing is incomplete; see `salvage`"
        )));
    }
    Ok(())
}

/// Formats a page, so that it is printed by a single write and as a single table.
fn show(entries: &[Entry], is_json: bool, is_long: bool) -> String {
    if is_json {
        return entries
            .iter()
            .map(|entry| human::json_line(&in_json(entry)))
            .collect();
    }
    if is_long {
        let rows: Vec<_> = entries.iter().map(long).collect();
        return human::table(
            [Align::Right, Align::Left, Align::Right, Align::Left],
            &rows,
        );
    }
    entries
        .iter()
        .map(|entry| format!("{}\n", human::key(entry.name())))
        .collect()
}

/// Returns the row of an entry in the long format: size, time, version, name.
fn long(entry: &Entry) -> [String; 4] {
    let name = human::key(entry.name());
    match entry {
        Entry::Object(head) => {
            let metadata = &head.metadata;
            [
                metadata.size.to_string(),
                human::moment(metadata.modified),
                head.version
                    .map_or_else(|| "-".to_owned(), |version| format!("v{version}")),
                name,
            ]
        }
        Entry::Prefix(_) => ["-".to_owned(), "-".to_owned(), "-".to_owned(), name],
    }
}

/// Returns an entry for scripts.
fn in_json(entry: &Entry) -> Value {
    match entry {
        Entry::Object(head) => head_in_json(head),
        Entry::Prefix(prefix) => json!({ "prefix": prefix }),
    }
}

/// Returns the metadata of an object for scripts.
pub(crate) fn head_in_json(head: &ObjectMeta) -> Value {
    let metadata = &head.metadata;
    let attributes = &metadata.attributes;
    json!({
        "key": head.id.key(),
        "namespace": head.id.namespace_str(),
        "size": metadata.size,
        "version": head.version.map(cenotaph::Version::get),
        "etag": head.etag,
        "checksum": metadata.checksum.map(|checksum| checksum.to_string()),
        "created_ms": metadata.created.as_millis(),
        "modified_ms": metadata.modified.as_millis(),
        "expires_at_ms": metadata.expires_at.map(Timestamp::as_millis),
        "expiration": expiration_in_json(attributes.expiration),
        "content_type": attributes.content_type,
        "compression": attributes.compression,
        "origin": attributes.origin,
        "filename": attributes.filename,
        "custom": attributes.custom,
    })
}

/// Returns an expiration policy for scripts.
pub(crate) fn expiration_in_json(expiration: Expiration) -> Value {
    let policy = |name: &str, time: Duration| {
        let ms = u64::try_from(time.as_millis()).ok();
        json!({ "policy": name, "ms": ms })
    };
    match expiration {
        Expiration::Manual => json!({ "policy": "manual" }),
        Expiration::TimeToLive(time) => policy("time-to-live", time),
        Expiration::TimeToIdle(time) => policy("time-to-idle", time),
    }
}
