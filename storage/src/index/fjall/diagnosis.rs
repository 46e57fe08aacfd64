//! Why fjall has stopped writing.
//!
//! fjall answers `Poisoned` to every commit once a flush or a compaction has failed, and keeps the
//! reason to itself. The damage that stopped a compaction stops a read as well, so the tables are
//! read until one fails. Guards "an error names the way out". Deliberately not here: repairs.

use std::time::Duration;

use fjall::Readable;

use super::Store;
use super::failure::{caught, failed};
use crate::env::Env;
use crate::error::{Error, ErrorKind};
use crate::index::Table;

/// How long the damage is looked for: the callers of the failed commit wait meanwhile.
const TIME_MAX: Duration = Duration::from_secs(5);

/// The error of a failed commit, with the damage behind it if that is found.
pub(super) fn explain(store: &Store, env: &Env, error: fjall::Error) -> Error {
    if !matches!(error, fjall::Error::Poisoned) {
        return failed("commit", error);
    }
    // fjall panics at some damage.
    match caught("commit", || Ok(find(store, env))).unwrap_or_else(Some) {
        Some(damage) => {
            let message = "fjall has stopped, for a file of the index is damaged; salvage the store into a new one \
                           (`cenotaph salvage OLD NEW`)";
            Error::new(ErrorKind::Unavailable, "commit", message).with_source(damage)
        }
        None => {
            let message = "fjall has stopped after an error in the background; reopen, and see its log for the reason";
            Error::new(ErrorKind::Unavailable, "commit", message).with_source(error)
        }
    }
}

/// The first damage that a read of the tables meets within the time. Payloads come last: they are
/// the largest.
fn find(store: &Store, env: &Env) -> Option<Error> {
    let begun = env.monotonic();
    let state = store.published.latest();
    let by_size = Table::ALL
        .into_iter()
        .filter(|table| *table != Table::Payloads)
        .chain([Table::Payloads]);
    for table in by_size {
        let mut last = None;
        for entry in state.snapshot.iter(store.tables.of(table)) {
            match entry.into_inner() {
                Ok((key, _)) => last = Some(key),
                Err(error) => {
                    let behind = last.map_or(String::new(), |key| key.escape_ascii().to_string());
                    let message = format!(
                        "the keys behind one can't be read: table={} key=\"{behind}\"",
                        table.name()
                    );
                    return Some(
                        Error::new(ErrorKind::Corrupt, "commit", message)
                            .with_source(failed("scan", error)),
                    );
                }
            }
            if env.monotonic().saturating_sub(begun) > TIME_MAX {
                return None;
            }
        }
    }
    None
}
