//! Contents allowed after a crash, derived from the lines that victims printed (I9).
//!
//! ```text
//! X is overtaken by Y     Y took effect, and either began after X had ended,
//!                         or both were puts and Y's version is higher
//!   X ended               when it was acknowledged; at the kill if it was not
//!   Y took effect         it was acknowledged, as applied or as deleted
//!
//! found                   allowed if
//! ----------------------- --------------------------------------------------------------
//! nothing                 a delete, acknowledged or not, is not overtaken;
//!                         or nothing was found before, and that is not overtaken
//! content of X, whole     X is not overtaken, and
//!   X was applied         it has the version that was acknowledged
//!   X was not answered    its version is new and higher than all known before
//!   X was superseded      never
//! content found before    it is not overtaken, and has the same version
//! ```
//!
//! Also: no version is used twice, none is lower than a version acknowledged before its operation
//! began, and none is skipped unless an unanswered put can have taken it. This module is pure:
//! `load.rs` checks that content is whole, and `remains.rs` checks the tiers.

use std::collections::{BTreeMap, BTreeSet};

use cenotaph::Version;

use super::log::{Action, Answer, Line, Number};

/// Description of a violation.
pub(crate) type Violation = String;

/// An object found after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Number of the operation whose content it has.
    pub(crate) number: Number,
    pub(crate) bytes: usize,
    pub(crate) version: Version,
}

/// Outcome of the puts that were never answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Puts that certainly committed.
    pub(crate) kept: u64,
    /// Puts that certainly did not commit.
    pub(crate) lost: u64,
}

/// Model of the objects in a directory.
#[derive(Default)]
pub(crate) struct Model {
    /// Number of lines so far.
    clock: u64,
    histories: BTreeMap<String, History>,
    /// Keys of running operations.
    under_way: BTreeMap<Number, String>,
}

/// Model of one key.
#[derive(Debug, Default)]
struct History {
    /// Object found at the last check.
    last_found: Option<Found>,
    /// Operations since the last check.
    operations: Vec<Operation>,
    /// Known versions and the operations that committed them.
    versions: BTreeMap<Version, Number>,
    /// Versions below the highest that had no known operation at the last check.
    missing: u64,
    /// Unanswered puts that may have taken versions above the highest known one: possible only
    /// while the object is absent.
    hidden: u64,
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    number: Number,
    action: Action,
    begun: u64,
    /// Clock of the end, or `None` while the operation runs.
    ended: Option<u64>,
    answer: Option<Answer>,
    /// Highest version known when the operation began.
    floor: Version,
}

impl Model {
    /// Applies a line of a victim.
    pub(crate) fn apply(&mut self, line: &Line) -> Result<(), Violation> {
        self.clock += 1;
        match line {
            Line::Opening | Line::Open { .. } | Line::Collected { .. } => Ok(()),
            Line::Begin {
                number,
                key,
                action,
            } => {
                self.histories
                    .entry(key.clone())
                    .or_default()
                    .begin(*number, *action, self.clock);
                self.under_way.insert(*number, key.clone());
                Ok(())
            }
            Line::Ack { number, answer } => {
                let key = self
                    .under_way
                    .remove(number)
                    .ok_or(format!("{number} is answered twice"))?;
                let history = self
                    .histories
                    .get_mut(&key)
                    .expect("`Begin` creates the history");
                history
                    .end(*number, *answer, self.clock)
                    .map_err(|why| history.describe(&key, &why))
            }
        }
    }

    /// Ends all running operations unanswered, as the kill did, and returns their number.
    pub(crate) fn crash(&mut self) -> usize {
        self.clock += 1;
        let under_way = std::mem::take(&mut self.under_way);
        for (number, key) in &under_way {
            let history = self
                .histories
                .get_mut(key)
                .expect("`Begin` creates the history");
            history.operation(*number).ended = Some(self.clock);
        }
        under_way.len()
    }

    /// Returns every key that was ever written.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        self.histories.keys().cloned().collect()
    }

    /// Returns the object found at the last check if no operation on the key began since.
    pub(crate) fn untouched(&self, key: &str) -> Option<Option<Found>> {
        self.histories
            .get(key)
            .filter(|history| history.operations.is_empty())
            .map(|history| history.last_found)
    }

    /// Checks an object found after a crash and makes it the new starting point.
    pub(crate) fn judge(&mut self, key: &str, found: Option<Found>) -> Result<Verdict, Violation> {
        let history = self
            .histories
            .get_mut(key)
            .ok_or(format!("{key} was never written to: {found:?}"))?;
        history
            .judge(found)
            .map_err(|why| history.describe(key, &why))
    }
}

impl History {
    fn begin(&mut self, number: Number, action: Action, clock: u64) {
        let floor = self.highest();
        self.operations.push(Operation {
            number,
            action,
            begun: clock,
            ended: None,
            answer: None,
            floor,
        });
    }

    fn end(&mut self, number: Number, answer: Answer, clock: u64) -> Result<(), Violation> {
        let operation = self.operation(number);
        operation.ended = Some(clock);
        operation.answer = Some(answer);
        let operation = *operation;
        match (operation.action, answer) {
            (Action::Put { .. }, Answer::Applied { version }) if version <= operation.floor => Err(
                format!("{number} got version {version}, which is not above an earlier version"),
            ),
            (Action::Put { .. }, Answer::Applied { version }) => self.assign(version, number),
            (Action::Put { .. }, Answer::Superseded) | (Action::Delete, Answer::Deleted) => Ok(()),
            (action, answer) => Err(format!("{number}: {action:?} was answered by {answer:?}")),
        }
    }

    fn assign(&mut self, version: Version, number: Number) -> Result<(), Violation> {
        match self.versions.insert(version, number) {
            Some(other) if other != number => {
                Err(format!("version {version} belongs to {other} and {number}"))
            }
            _ => Ok(()),
        }
    }

    fn operation(&mut self, number: Number) -> &mut Operation {
        self.operations
            .iter_mut()
            .find(|operation| operation.number == number)
            .expect("the operation has begun")
    }

    /// Returns the highest known version.
    fn highest(&self) -> Version {
        self.versions
            .last_key_value()
            .map_or(Version::NONE, |(version, _)| *version)
    }

    /// Returns the number of versions without a known operation.
    fn gaps(&self) -> u64 {
        self.highest().get() - self.versions.len() as u64
    }

    fn judge(&mut self, found: Option<Found>) -> Result<Verdict, Violation> {
        match found {
            None => self.judge_absent()?,
            Some(found) => self.judge_present(&found)?,
        }
        let kept = found.filter(|found| {
            self.operations
                .iter()
                .any(|it| it.number == found.number && it.is_open_put())
        });
        if let Some(kept) = kept {
            self.assign(kept.version, kept.number)?;
        }
        let open_puts = self.operations.iter().filter(|it| it.is_open_put()).count() as u64;
        let unheard = open_puts - u64::from(kept.is_some());
        let taken = self.gaps() - self.missing;
        let takers = self.hidden + unheard;
        if taken > takers {
            return Err(format!(
                "{taken} versions have no owner, but only {takers} puts can have taken them"
            ));
        }
        self.missing = self.gaps();
        // The object found has the highest version of all, so every version that an unanswered put
        // has taken is counted by now.
        self.hidden = if found.is_some() { 0 } else { takers - taken };
        self.last_found = found;
        self.operations = Vec::new();
        let lost = if found.is_some() && taken == 0 {
            unheard
        } else {
            0
        };
        Ok(Verdict {
            kept: u64::from(kept.is_some()),
            lost,
        })
    }

    fn judge_absent(&self) -> Result<(), Violation> {
        let deleted = self
            .operations
            .iter()
            .any(|it| it.action == Action::Delete && !self.overtaken(it));
        if deleted
            || (self.last_found.is_none() && !self.operations.iter().any(Operation::took_effect))
        {
            return Ok(());
        }
        Err("acknowledged write lost: the object is absent".into())
    }

    fn judge_present(&self, found: &Found) -> Result<(), Violation> {
        let highest = self.highest();
        if let Some(last_found) = self
            .last_found
            .filter(|last_found| last_found.number == found.number)
        {
            let changed =
                last_found != *found || self.operations.iter().any(Operation::took_effect);
            return if changed {
                Err("acknowledged write lost: found the object of the last check".into())
            } else {
                Ok(())
            };
        }
        let Some(operation) = self.operations.iter().find(|it| it.number == found.number) else {
            return Err("no recent operation on this key wrote this content".into());
        };
        if operation.action != (Action::Put { bytes: found.bytes }) {
            return Err("the content is not whole".into());
        }
        match operation.answer {
            Some(Answer::Superseded | Answer::Deleted) => Err("found a superseded write".into()),
            _ if self.overtaken(operation) => {
                Err("acknowledged write lost: found an earlier one".into())
            }
            Some(Answer::Applied { version }) if version != found.version => Err(format!(
                "found version {}, but version {version} was acknowledged",
                found.version
            )),
            Some(Answer::Applied { .. }) => Ok(()),
            None if found.version <= highest => {
                Err(format!("version {highest} was acknowledged before"))
            }
            None => Ok(()),
        }
    }

    fn overtaken(&self, earlier: &Operation) -> bool {
        self.operations
            .iter()
            .any(|later| later.took_effect() && later.overtakes(earlier))
    }

    /// Formats a violation with the history of the key.
    fn describe(&self, key: &str, why: &str) -> Violation {
        let operations: Vec<_> = self
            .operations
            .iter()
            .map(|operation| format!("  {operation:?}"))
            .collect();
        format!(
            "{key}: {why}\nlast found: {:?}, highest version: {}\n{}",
            self.last_found,
            self.highest(),
            operations.join("\n")
        )
    }
}

impl Operation {
    /// Returns `true` if the operation certainly took effect, at least for a moment.
    fn took_effect(&self) -> bool {
        matches!(self.answer, Some(Answer::Applied { .. } | Answer::Deleted))
    }

    /// Returns `true` for a put that was never answered.
    fn is_open_put(&self) -> bool {
        self.answer.is_none() && matches!(self.action, Action::Put { .. })
    }

    fn overtakes(&self, earlier: &Self) -> bool {
        let versions = (self.version(), earlier.version());
        earlier.ended.is_some_and(|ended| ended < self.begun)
            || matches!(versions, (Some(ours), Some(theirs)) if ours > theirs)
    }

    fn version(&self) -> Option<Version> {
        match self.answer {
            Some(Answer::Applied { version }) => Some(version),
            Some(Answer::Superseded | Answer::Deleted) | None => None,
        }
    }
}

#[cfg(test)]
mod tests;
