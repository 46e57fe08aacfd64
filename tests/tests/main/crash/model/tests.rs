//! Tests of the crash model: it accepts valid histories and rejects invalid ones.

use super::*;

const K: &str = "k";

/// A history of one key, built operation by operation.
#[derive(Default)]
struct Story(Model);

impl Story {
    fn put(mut self, number: u64) -> Self {
        self.begin(number, Action::Put { bytes: 100 });
        self
    }

    fn delete(mut self, number: u64) -> Self {
        self.begin(number, Action::Delete);
        self
    }

    fn begin(&mut self, number: u64, action: Action) {
        self.0
            .apply(&Line::Begin {
                number: Number(number),
                key: K.into(),
                action,
            })
            .unwrap();
    }

    fn answer(mut self, number: u64, answer: Answer) -> Result<Self, Violation> {
        self.0
            .apply(&Line::Ack {
                number: Number(number),
                answer,
            })
            .map(|()| self)
    }

    fn applied(self, number: u64, version: u64) -> Self {
        self.answer(
            number,
            Answer::Applied {
                version: Version::new(version),
            },
        )
        .unwrap()
    }

    fn superseded(self, number: u64) -> Self {
        self.answer(number, Answer::Superseded).unwrap()
    }

    fn deleted(self, number: u64) -> Self {
        self.answer(number, Answer::Deleted).unwrap()
    }

    fn crash(mut self) -> Self {
        self.0.crash();
        self
    }

    /// Crashes and checks the object found.
    fn finds(self, found: Option<(u64, u64)>) -> Result<(Self, Verdict), Violation> {
        let mut story = self.crash();
        let found = found.map(|(number, version)| Found {
            number: Number(number),
            bytes: 100,
            version: Version::new(version),
        });
        let verdict = story.0.judge(K, found)?;
        Ok((story, verdict))
    }

    fn accepts(self, found: Option<(u64, u64)>) -> Self {
        self.finds(found)
            .map(|(story, _)| story)
            .unwrap_or_else(|why| panic!("{why}"))
    }

    fn rejects(self, found: Option<(u64, u64)>, why: &str) {
        let violation = self
            .finds(found)
            .err()
            .unwrap_or_else(|| panic!("{found:?} was accepted, expected: {why}"));
        assert!(violation.contains(why), "{violation}");
    }
}

/// Returns an empty history.
fn story() -> Story {
    Story::default()
}

#[test]
fn lost_acknowledged_write_is_a_violation() {
    let applied = || story().put(1).applied(1, 1);
    applied().accepts(Some((1, 1)));
    applied().rejects(None, "the object is absent");
    applied()
        .accepts(Some((1, 1)))
        .rejects(None, "the object is absent");
    let overwritten = || applied().put(2).applied(2, 2);
    overwritten().accepts(Some((2, 2)));
    overwritten().rejects(Some((1, 1)), "found an earlier one");
    applied()
        .accepts(Some((1, 1)))
        .put(2)
        .applied(2, 2)
        .rejects(Some((1, 1)), "found the object of the last check");
    applied()
        .accepts(Some((1, 1)))
        .delete(2)
        .deleted(2)
        .rejects(Some((1, 1)), "found the object of the last check");
    applied()
        .delete(2)
        .deleted(2)
        .rejects(Some((1, 1)), "found an earlier one");
}

#[test]
fn unanswered_write_is_the_newest_or_absent() {
    let asked = || story().put(1).applied(1, 1).put(2);
    let verdicts = [Some((1, 1)), Some((2, 2))].map(|found| asked().finds(found).unwrap().1);
    assert_eq!(
        verdicts,
        [Verdict { kept: 0, lost: 1 }, Verdict { kept: 1, lost: 0 }]
    );
    asked().rejects(Some((2, 1)), "version 1 was acknowledged before");
    asked().rejects(None, "the object is absent");
    story().put(1).applied(1, 1).delete(2).accepts(None);
    story().put(1).applied(1, 1).delete(2).accepts(Some((1, 1)));
    // Operation 2 ended with its process, so it cannot overtake operation 3.
    asked()
        .crash()
        .put(3)
        .applied(3, 2)
        .rejects(Some((2, 3)), "found an earlier one");
    // The unanswered put has taken version 2, and 3 is the newest.
    let verdict = asked().put(3).applied(3, 3).finds(Some((3, 3))).unwrap().1;
    assert_eq!(
        verdict,
        Verdict::default(),
        "it is unknown if the unanswered put committed"
    );
}

#[test]
fn any_concurrent_write_may_be_last_unless_versions_decide() {
    let at_once = || story().put(1).put(2).applied(1, 2).applied(2, 1);
    at_once().accepts(Some((1, 2)));
    at_once().rejects(Some((2, 1)), "found an earlier one");
    let with_delete = || story().put(1).delete(2).applied(1, 1).deleted(2);
    with_delete().accepts(None);
    with_delete().accepts(Some((1, 1)));
    with_delete()
        .put(3)
        .applied(3, 2)
        .rejects(None, "the object is absent");
}

#[test]
fn visible_superseded_write_is_a_violation() {
    let lost = || story().put(1).put(2).applied(2, 1).superseded(1);
    lost().accepts(Some((2, 1)));
    lost().rejects(Some((1, 2)), "found a superseded write");
}

#[test]
fn reused_lower_or_skipped_version_is_a_violation() {
    let deleted = || {
        story()
            .put(1)
            .applied(1, 1)
            .delete(2)
            .deleted(2)
            .accepts(None)
    };
    let again = |version| {
        deleted().put(3).answer(
            3,
            Answer::Applied {
                version: Version::new(version),
            },
        )
    };
    assert!(again(1).is_err(), "version 1 was used before");
    again(2).unwrap().accepts(Some((3, 2)));
    again(3).unwrap().rejects(
        Some((3, 3)),
        "1 versions have no owner, but only 0 puts can have taken them",
    );
    assert!(
        story()
            .put(1)
            .put(2)
            .applied(1, 1)
            .answer(
                2,
                Answer::Applied {
                    version: Version::new(1)
                }
            )
            .is_err()
    );
    story().put(1).applied(1, 1).rejects(
        Some((1, 2)),
        "found version 2, but version 1 was acknowledged",
    );
    // The unanswered put may have taken version 2 before the object was deleted again.
    let hidden = || story().put(1).applied(1, 1).put(2).delete(3).accepts(None);
    hidden().put(4).applied(4, 3).accepts(Some((4, 3)));
    hidden()
        .put(4)
        .applied(4, 4)
        .rejects(Some((4, 4)), "can have taken them");
}

#[test]
fn foreign_or_partial_content_is_a_violation() {
    story()
        .put(1)
        .applied(1, 1)
        .rejects(Some((9, 1)), "no recent operation");
    story()
        .put(1)
        .applied(1, 1)
        .put(2)
        .applied(2, 2)
        .accepts(Some((2, 2)))
        .rejects(Some((1, 1)), "no recent operation");
    let mut half = story().put(1).applied(1, 1).crash();
    let found = Found {
        number: Number(1),
        bytes: 50,
        version: Version::new(1),
    };
    assert!(
        half.0
            .judge(K, Some(found))
            .unwrap_err()
            .contains("not whole")
    );
}
