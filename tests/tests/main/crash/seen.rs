//! Events of a crash test: [`Seen`].

use super::log::{Answer, Line};

/// Events seen so far: a test in which no crash hits a running operation proves nothing.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) rounds: u64,
    pub(crate) kills: u64,
    /// Kills before the engine was open.
    pub(crate) kills_opening: u64,
    /// Kills before the engine was open, during recovery from an earlier crash.
    pub(crate) kills_recovering: u64,
    pub(crate) acks: u64,
    /// Victims that reported collections of the payload log, and the bytes that these had copied.
    pub(crate) collecting: u64,
    pub(crate) collected_bytes: u64,
    pub(crate) superseded: u64,
    /// Operations that were running at a kill.
    pub(crate) unanswered: u64,
    /// Unanswered puts that certainly had committed, and that certainly had not.
    pub(crate) kept: u64,
    pub(crate) lost: u64,
    /// Rounds whose crash left changes, orphans, or blobs that no row names.
    pub(crate) rounds_with_changes: u64,
    pub(crate) rounds_with_orphans: u64,
    pub(crate) rounds_with_unnamed_blobs: u64,
    /// Rounds whose crash left open uploads.
    pub(crate) rounds_with_open_uploads: u64,
    pub(crate) fenced: u64,
    pub(crate) swept: u64,
    pub(crate) objects_read: u64,
}

impl Seen {
    /// Asserts that every event that is certain over many rounds has happened.
    pub(crate) fn assert_enough(&self) {
        let enough = [
            self.kills_opening,
            self.kills_recovering,
            self.superseded,
            self.collecting,
            self.kept,
            self.lost,
            self.rounds_with_changes,
            self.rounds_with_orphans,
            self.rounds_with_unnamed_blobs,
            self.rounds_with_open_uploads,
            self.fenced,
            self.swept,
        ];
        assert!(
            enough.iter().all(|&count| count > 0),
            "an event never happened: {self:#?}"
        );
    }

    /// Counts the lines of a victim. `again` if it followed another crash without a check.
    pub(crate) fn add(&mut self, lines: &[Line], unanswered: usize, again: bool) {
        let opened = lines.iter().any(|line| matches!(line, Line::Open { .. }));
        self.kills += 1;
        self.kills_opening += u64::from(!opened);
        self.kills_recovering += u64::from(!opened && again);
        self.unanswered += unanswered as u64;
        let collecting = lines
            .iter()
            .any(|line| matches!(line, Line::Collected { .. }));
        self.collecting += u64::from(collecting);
        for line in lines {
            match line {
                Line::Ack { answer, .. } => {
                    self.acks += 1;
                    self.superseded += u64::from(*answer == Answer::Superseded);
                }
                Line::Collected { copied_bytes } => {
                    self.collected_bytes += copied_bytes;
                }
                Line::Opening | Line::Open { .. } | Line::Begin { .. } => {}
            }
        }
    }
}
