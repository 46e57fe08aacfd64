//! `stat`: prints the metadata of an object.

use std::time::Duration;

use cenotaph::{Expiration, ObjectMeta};

use crate::args::StatArgs;
use crate::commands::ls::head_in_json;
use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::human::{self, Align};
use crate::ui::report::Report;

/// Runs `stat`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &StatArgs,
) -> Result<(), Failure> {
    let id = store.id(&options.key)?;
    match retrying(&store.env, async || store.engine.head(&id).await).await? {
        Some(head) if report.is_json() => report.json(&head_in_json(&head)),
        Some(head) => report.text(&in_words(&head)),
        None => Err(Failure::NotFound(format!("no such object: key={id}"))),
    }
}

/// Formats the metadata of an object as a table. Absent attributes have no row.
fn in_words(head: &ObjectMeta) -> String {
    let metadata = &head.metadata;
    let attributes = &metadata.attributes;
    let row = |name: &str, value: String| [name.to_owned(), human::key(&value)];
    let mut rows = vec![
        row("key", head.id.key().to_owned()),
        row("namespace", head.id.namespace_str().to_owned()),
        row("size", format!("{} bytes", human::grouped(metadata.size))),
        row("created", human::moment(metadata.created)),
        row("modified", human::moment(metadata.modified)),
    ];
    // Behind the size. An object that only the fallback has has neither.
    let version = head
        .version
        .map(|version| row("version", version.to_string()));
    let etag = head.etag.map(|etag| row("etag", etag.to_string()));
    rows.splice(3..3, version.into_iter().chain(etag));
    rows.extend(
        metadata
            .expires_at
            .map(|deadline| row("expires", human::moment(deadline))),
    );
    rows.extend(policy(attributes.expiration).map(|policy| row("expiration", policy)));
    rows.extend(
        metadata
            .checksum
            .map(|checksum| row("checksum", checksum.to_string())),
    );
    let optional = [
        ("content type", &attributes.content_type),
        ("compression", &attributes.compression),
        ("origin", &attributes.origin),
        ("filename", &attributes.filename),
    ];
    rows.extend(
        optional
            .into_iter()
            .filter_map(|(name, value)| Some(row(name, value.clone()?))),
    );
    rows.extend(
        attributes
            .custom
            .iter()
            .map(|(name, value)| row(&format!("custom {}", human::key(name)), value.clone())),
    );
    human::table([Align::Left, Align::Left], &rows)
}

/// Formats an expiration policy, or returns `None` if the object does not expire by itself.
fn policy(expiration: Expiration) -> Option<String> {
    let time = |time: Duration| humantime::format_duration(time).to_string();
    match expiration {
        Expiration::Manual => None,
        Expiration::TimeToLive(live) => Some(format!("{} after the write", time(live))),
        Expiration::TimeToIdle(idle) => {
            Some(format!("{} after the last write or read", time(idle)))
        }
    }
}
