//! `salvage`: copies everything readable of a damaged store into a new store. The exit code is 5 if
//! something is lost.

use cenotaph::SalvageReport;
use serde_json::{Value, json};

use crate::args::{SalvageArgs, StoreArgs};
use crate::blob_location::{Location, Remembered};
use crate::blob_uri::{self, BlobPlace};
use crate::ui::failure::Failure;
use crate::ui::human;
use crate::ui::report::Report;

/// Runs `salvage`. Of the options of the store, `--blobs` and `--older-blobs` apply to the old one.
pub(crate) async fn run(
    report: &Report,
    options: &SalvageArgs,
    store: &StoreArgs,
) -> Result<(), Failure> {
    let mut salvage = cenotaph::salvage(&options.old, &options.new);
    // As in other commands, the remembered tiers are the default, here those of the old store. A
    // damaged file does not matter if the tier is given.
    let remembered = match (Remembered::read(&options.old), &store.blobs) {
        (Err(_), Some(_)) => None,
        (remembered, _) => remembered?,
    };
    let place = match (&store.blobs, &remembered) {
        (Some(given), _) => blob_uri::parse(given)?,
        (None, Some(remembered)) => blob_uri::parse(remembered.current.uri())?,
        (None, None) => BlobPlace::UnderData,
    };
    let older = older(store, remembered, options)?;
    let place = match place {
        BlobPlace::UnderData => {
            // The salvage reads this directory by default. It is absent if all objects are inline.
            let place = options.old.join("blobs");
            place.is_dir().then(|| format!("fs:{}", place.display()))
        }
        BlobPlace::Directory(dir) if !dir.is_dir() => {
            return Err(Failure::Failed(format!(
                "the blob directory does not exist: path={}",
                dir.display()
            )));
        }
        BlobPlace::Directory(dir) => {
            salvage = salvage.blobs(blob_uri::directory(&dir)?);
            Some(format!("fs:{}", dir.display()))
        }
        BlobPlace::Remote(uri) => {
            salvage = salvage.blobs(blob_uri::remote(&uri)?);
            // Not the URI itself: it may contain credentials.
            Some("URI, as given here".to_owned())
        }
    };
    let bar = report.bar("salvage", None);
    let salvaged = salvage.await?;
    bar.end();
    if report.is_json() {
        report.json(&in_json(&salvaged))?;
    } else {
        report.text(&in_text(&salvaged))?;
    }
    if let Some(place) = place {
        report.note(&format!(
            "large objects were not copied: use the new store with --data {} --blobs {place}{older}, \
             and do not use the old store any more",
            options.new.display()
        ));
    }
    if salvaged.is_complete() {
        return Ok(());
    }
    let new = options.new.display();
    Err(Failure::Incomplete(format!(
        "not everything could be copied, see the report: new={new}"
    )))
}

/// Returns the options that name the older tiers of the old store to the new one.
fn older(
    store: &StoreArgs,
    remembered: Option<Remembered>,
    options: &SalvageArgs,
) -> Result<String, Failure> {
    let mut uris = Vec::new();
    for given in &store.older_blobs {
        let place = blob_uri::parse_option("--older-blobs", given)?;
        uris.push(Location::of(&place)?.uri().to_owned());
    }
    for older in remembered.into_iter().flat_map(|tiers| tiers.older) {
        uris.push(match older.uri() {
            "fs:" => format!("fs:{}", options.old.join("blobs").display()),
            uri => uri.to_owned(),
        });
    }
    uris.dedup();
    Ok(uris
        .iter()
        .map(|uri| format!(" --older-blobs {uri}"))
        .collect())
}

/// Returns the report for scripts.
fn in_json(salvaged: &SalvageReport) -> Value {
    let mut value = json!(salvaged);
    value["complete"] = json!(salvaged.is_complete());
    value
}

/// Formats the report for people: a line per loss, and a summary. Names are escaped.
fn in_text(salvaged: &SalvageReport) -> String {
    let mut lines = Vec::new();
    for lost in &salvaged.lost_tables {
        let table = format!("table={} file={}: {}", lost.table, lost.file, lost.why);
        lines.push(format!(
            "lost-table {} (entries may be missing or outdated)",
            human::key(&table)
        ));
    }
    for range in &salvaged.unreadable_ranges {
        let to = range
            .to
            .as_ref()
            .map_or("the end".to_owned(), ToString::to_string);
        let range = format!(
            "table={} from={} to={to}: {}",
            range.table, range.from, range.why
        );
        lines.push(format!("unreadable {}", human::key(&range)));
    }
    for object in &salvaged.objects_without_payload {
        lines.push(format!(
            "lost-bytes {}",
            human::key(&format!("object={}/{}", object.namespace, object.key))
        ));
    }
    for blob in &salvaged.lost_objects {
        let name = blob.object.as_ref().map_or("?".to_owned(), |object| {
            format!("{}/{}", object.namespace, object.key)
        });
        let object = format!("object={name} path={}", blob.path);
        lines.push(format!("lost-object {}", human::key(&object)));
    }
    if salvaged.journal_damaged {
        lines.push(
            "lost-batches the journal is damaged: objects may be missing or outdated".to_owned(),
        );
    }
    lines.push(format!(
        "copied {}, {}, {} of uploads, {}, {}; {} unreadable, {} without bytes, {} lost by name",
        human::counted(salvaged.rows, "object"),
        human::counted(salvaged.payloads, "payload"),
        human::counted(salvaged.sessions, "record"),
        human::counted(salvaged.changes, "change"),
        human::counted(salvaged.orphans, "orphan"),
        human::counted(salvaged.unreadable, "range"),
        human::grouped(salvaged.without_payload),
        human::grouped(salvaged.lost_blobs),
    ));
    lines.join("\n") + "\n"
}
