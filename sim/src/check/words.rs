//! Texts about a commit: descriptions for the trace and names of coverage counters.

use uuid::Uuid;

use super::format::{Body, Row};

/// Description of a batch for the trace. Composed only if the trace is recorded.
pub(crate) struct Words(Option<Vec<String>>);

impl Words {
    /// Creates an empty description.
    pub(crate) fn new(is_recorded: bool) -> Self {
        Self(is_recorded.then(Vec::new))
    }

    /// Adds a text.
    pub(super) fn push(&mut self, text: impl FnOnce() -> String) {
        if let Some(words) = &mut self.0 {
            words.push(text());
        }
    }

    /// Returns true if the description is composed, and has no text yet.
    pub(super) fn lacks_text(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// Returns all texts.
    pub(crate) fn joined(&self) -> String {
        self.0.as_deref().unwrap_or_default().join("; ")
    }
}

/// Returns the last six digits of an id. The first digits encode the time and are alike.
pub(super) fn short(id: Uuid) -> String {
    let text = id.simple().to_string();
    text[text.len() - 6..].to_owned()
}

/// Returns the name of an object, for people.
pub(super) fn readable(object: &[u8]) -> String {
    String::from_utf8_lossy(object).replace('\0', ":")
}

/// Returns a description of a row.
pub(super) fn described(row: &Row) -> String {
    let write = row
        .write
        .map(|write| format!("write {write}, "))
        .unwrap_or_default();
    match &row.body {
        Body::Embedded(_) => format!("{write}{} bytes in the row", row.size),
        Body::Separate(_) => format!("{write}{} bytes beside the row", row.size),
        Body::Tombstone(_) => {
            let revisions: Vec<_> = row.revisions().into_iter().map(short).collect();
            format!("{write}{} bytes in blob {}", row.size, revisions.join(", "))
        }
    }
}

/// Returns the coverage counter of a change of a row.
pub(super) fn transition(old: Option<&Row>, new: Option<&Row>) -> &'static str {
    let is_tombstone = |row: &Row| matches!(row.body, Body::Tombstone(_));
    match (old.map(is_tombstone), new.map(is_tombstone)) {
        (None, Some(false)) => "swap: absent to inline",
        (None, Some(true)) => "swap: absent to tombstone",
        (Some(false), Some(false)) => "swap: inline to inline",
        (Some(false), Some(true)) => "swap: inline to tombstone",
        (Some(true), Some(false)) => "swap: tombstone to inline",
        (Some(true), Some(true)) => "swap: tombstone to tombstone",
        (Some(false), None) => "swap: inline deleted",
        (Some(true), None) => "swap: tombstone deleted",
        (None, None) => "swap: nothing",
    }
}
