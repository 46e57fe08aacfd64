//! What may be found after a crash, judged from what victims have said (I9).
//!
//! ```text
//! operation X is overtaken by Y   Y took effect, and either began after X had ended,
//!                                 or both were puts and Y's version is higher
//!   X ended                       when it was acknowledged; at the kill if it was not
//!   Y took effect                 it was acknowledged, as applied or as deleted
//!
//! found                allowed if
//! -------------------- --------------------------------------------------------------------------------------
//! nothing              a delete, acknowledged or not, is not overtaken;
//!                      or nothing was there before, and that is not overtaken
//! what X put, whole    X is not overtaken, and
//!   X was applied      .. it has the version that was acknowledged
//!   X has no answer    .. it has a version that nobody has heard of, higher than all that were
//!   X was superseded   never
//! what was there       not overtaken, and of the same version
//! ```
//!
//! Besides: no version twice, none lower than one acknowledged before its operation began, and none
//! left out that no unanswered put can have taken. Pure: whether bytes are whole is seen elsewhere
//! (`load.rs`), and so is what the tiers hold (`remains.rs`).

use std::collections::{BTreeMap, BTreeSet};

use cenotaph::Version;

use super::log::{Action, Answer, Line, Number};

/// What is wrong.
pub(super) type Violation = String;

/// An object as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Whose content it has, all of it.
    pub(super) number: Number,
    pub(super) bytes: usize,
    pub(super) version: Version,
}

/// What became of the puts that were never answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Surely committed.
    pub(super) kept: u64,
    /// Surely not.
    pub(super) lost: u64,
}

/// All that is known about a directory.
#[derive(Default)]
pub(super) struct Model {
    /// Lines so far.
    clock: u64,
    histories: BTreeMap<String, History>,
    /// The keys of operations that are under way.
    under_way: BTreeMap<Number, String>,
}

/// What is known about one key.
#[derive(Debug, Default)]
struct History {
    /// What was found when it was last looked at.
    stood: Option<Found>,
    /// What was done since.
    operations: Vec<Operation>,
    /// Who has which version, as far as that is known.
    versions: BTreeMap<Version, Number>,
    /// Versions below the highest that were nobody's when it was last looked at.
    missing: u64,
    /// Puts that may have taken versions above the highest without anybody having heard: possible
    /// only while nothing is there.
    hidden: u64,
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    number: Number,
    action: Action,
    begun: u64,
    /// None while it is under way.
    ended: Option<u64>,
    answer: Option<Answer>,
    /// The highest version known when it began.
    floor: Version,
}

impl Model {
    /// Takes in what a victim said.
    pub(super) fn hear(&mut self, line: &Line) -> Result<(), Violation> {
        self.clock += 1;
        match line {
            Line::Opening | Line::Open { .. } => Ok(()),
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
                let history = self.histories.get_mut(&key).expect("it has begun");
                history
                    .end(*number, *answer, self.clock)
                    .map_err(|why| history.tell(&key, &why))
            }
        }
    }

    /// The victim is dead: what is under way ends, unanswered. How much that was.
    pub(super) fn crash(&mut self) -> usize {
        self.clock += 1;
        let under_way = std::mem::take(&mut self.under_way);
        for (number, key) in &under_way {
            let history = self.histories.get_mut(key).expect("it has begun");
            history.operation(*number).ended = Some(self.clock);
        }
        under_way.len()
    }

    /// Every key that was ever written to.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        self.histories.keys().cloned().collect()
    }

    /// What must still stand there, if nothing has been done there since it was last looked at.
    pub(super) fn untouched(&self, key: &str) -> Option<Option<Found>> {
        self.histories
            .get(key)
            .filter(|history| history.operations.is_empty())
            .map(|history| history.stood)
    }

    /// Judges what was found, and goes on from there.
    pub(super) fn judge(&mut self, key: &str, found: Option<Found>) -> Result<Verdict, Violation> {
        let history = self
            .histories
            .get_mut(key)
            .ok_or(format!("{key} was never written to: {found:?}"))?;
        history.judge(found).map_err(|why| history.tell(key, &why))
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
        (operation.ended, operation.answer) = (Some(clock), Some(answer));
        let operation = *operation;
        match (operation.action, answer) {
            (Action::Put { .. }, Answer::Applied { version }) if version <= operation.floor => Err(
                format!("{number} was given version {version}, which is not above an earlier one"),
            ),
            (Action::Put { .. }, Answer::Applied { version }) => self.assign(version, number),
            (Action::Put { .. }, Answer::Superseded) | (Action::Delete, Answer::Deleted) => Ok(()),
            (action, answer) => Err(format!("{number}, {action:?}, was answered as {answer:?}")),
        }
    }

    fn assign(&mut self, version: Version, number: Number) -> Result<(), Violation> {
        match self.versions.insert(version, number) {
            Some(other) if other != number => {
                Err(format!("version {version} is {other}'s and {number}'s"))
            }
            _ => Ok(()),
        }
    }

    fn operation(&mut self, number: Number) -> &mut Operation {
        self.operations
            .iter_mut()
            .find(|operation| operation.number == number)
            .expect("it has begun")
    }

    /// The highest version that is known.
    fn highest(&self) -> Version {
        self.versions
            .last_key_value()
            .map_or(Version::NONE, |(version, _)| *version)
    }

    /// Versions that nobody is known to have.
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
                "{taken} versions are nobody's, and {takers} puts can have taken them"
            ));
        }
        self.missing = self.gaps();
        // What is found has the highest version there is: whoever took one unheard is counted by
        // now.
        self.hidden = if found.is_some() { 0 } else { takers - taken };
        (self.stood, self.operations) = (found, Vec::new());
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
        if deleted || (self.stood.is_none() && !self.operations.iter().any(Operation::took_effect))
        {
            return Ok(());
        }
        Err("an acknowledged write is lost: nothing is there".into())
    }

    fn judge_present(&self, found: &Found) -> Result<(), Violation> {
        let highest = self.highest();
        if let Some(stood) = self.stood.filter(|stood| stood.number == found.number) {
            let changed = stood != *found || self.operations.iter().any(Operation::took_effect);
            return if changed {
                Err("an acknowledged write is lost: the old one stands".into())
            } else {
                Ok(())
            };
        }
        let Some(operation) = self.operations.iter().find(|it| it.number == found.number) else {
            return Err("what is there was written neither here nor lately".into());
        };
        if operation.action != (Action::Put { bytes: found.bytes }) {
            return Err("what is there is not whole".into());
        }
        match operation.answer {
            Some(Answer::Superseded | Answer::Deleted) => Err("a superseded write is there".into()),
            _ if self.overtaken(operation) => {
                Err("an acknowledged write is lost: an earlier one stands".into())
            }
            Some(Answer::Applied { version }) if version != found.version => Err(format!(
                "version {version} was acknowledged, another one is there"
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

    /// The whole story, for whoever must find out.
    fn tell(&self, key: &str, why: &str) -> Violation {
        let operations: Vec<_> = self
            .operations
            .iter()
            .map(|operation| format!("  {operation:?}"))
            .collect();
        format!(
            "{key}: {why}\nstood: {:?}, highest {}\n{}",
            self.stood,
            self.highest(),
            operations.join("\n")
        )
    }
}

impl Operation {
    /// Whether it surely made the object what it says, for a moment at least.
    fn took_effect(&self) -> bool {
        matches!(self.answer, Some(Answer::Applied { .. } | Answer::Deleted))
    }

    /// A put that was never answered.
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
#[path = "model_tests.rs"]
mod tests;
