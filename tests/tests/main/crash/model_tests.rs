//! The judge, judged: stories with a wrong end are told from those with a right one.

use super::*;

const K: &str = "k";

/// A story of one key, told operation by operation.
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
            .hear(&Line::Begin {
                number: Number(number),
                key: K.into(),
                action,
            })
            .unwrap();
    }

    fn answer(mut self, number: u64, answer: Answer) -> Result<Self, Violation> {
        self.0
            .hear(&Line::Ack {
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

    /// A crash, and what is found then.
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

    fn goes_on(self, found: Option<(u64, u64)>) -> Self {
        self.finds(found)
            .map(|(story, _)| story)
            .unwrap_or_else(|why| panic!("{why}"))
    }

    fn refuses(self, found: Option<(u64, u64)>, why: &str) {
        let told = self
            .finds(found)
            .err()
            .unwrap_or_else(|| panic!("{found:?} was allowed, but {why}"));
        assert!(told.contains(why), "{told}");
    }
}

/// A story to which nothing has happened yet.
fn story() -> Story {
    Story::default()
}

#[test]
fn an_acknowledged_write_that_is_gone_is_told() {
    let applied = || story().put(1).applied(1, 1);
    applied().goes_on(Some((1, 1)));
    applied().refuses(None, "nothing is there");
    applied()
        .goes_on(Some((1, 1)))
        .refuses(None, "nothing is there");
    let overwritten = || applied().put(2).applied(2, 2);
    overwritten().goes_on(Some((2, 2)));
    overwritten().refuses(Some((1, 1)), "an earlier one stands");
    applied()
        .goes_on(Some((1, 1)))
        .put(2)
        .applied(2, 2)
        .refuses(Some((1, 1)), "the old one stands");
    applied()
        .goes_on(Some((1, 1)))
        .delete(2)
        .deleted(2)
        .refuses(Some((1, 1)), "the old one stands");
    applied()
        .delete(2)
        .deleted(2)
        .refuses(Some((1, 1)), "an earlier one stands");
}

#[test]
fn an_unanswered_write_may_be_there_or_not_but_only_as_the_newest() {
    let asked = || story().put(1).applied(1, 1).put(2);
    let verdicts = [Some((1, 1)), Some((2, 2))].map(|found| asked().finds(found).unwrap().1);
    assert_eq!(
        verdicts,
        [Verdict { kept: 0, lost: 1 }, Verdict { kept: 1, lost: 0 }]
    );
    asked().refuses(Some((2, 1)), "version 1 was acknowledged before");
    asked().refuses(None, "nothing is there");
    story().put(1).applied(1, 1).delete(2).goes_on(None);
    story().put(1).applied(1, 1).delete(2).goes_on(Some((1, 1)));
    // It ended with its process: a later one cannot have been overtaken by it.
    asked()
        .crash()
        .put(3)
        .applied(3, 2)
        .refuses(Some((2, 3)), "an earlier one stands");
    // Unheard it has taken version 2, and 3 is the newest.
    let verdict = asked().put(3).applied(3, 3).finds(Some((3, 3))).unwrap().1;
    assert_eq!(
        verdict,
        Verdict::default(),
        "whether it had committed is not known"
    );
}

#[test]
fn of_writes_at_once_any_may_be_the_last_unless_versions_say_otherwise() {
    let at_once = || story().put(1).put(2).applied(1, 2).applied(2, 1);
    at_once().goes_on(Some((1, 2)));
    at_once().refuses(Some((2, 1)), "an earlier one stands");
    let with_delete = || story().put(1).delete(2).applied(1, 1).deleted(2);
    with_delete().goes_on(None);
    with_delete().goes_on(Some((1, 1)));
    with_delete()
        .put(3)
        .applied(3, 2)
        .refuses(None, "nothing is there");
}

#[test]
fn a_superseded_write_is_never_there() {
    let lost = || story().put(1).put(2).applied(2, 1).superseded(1);
    lost().goes_on(Some((2, 1)));
    lost().refuses(Some((1, 2)), "a superseded write is there");
}

#[test]
fn versions_are_never_reused_lowered_or_left_out() {
    let deleted = || {
        story()
            .put(1)
            .applied(1, 1)
            .delete(2)
            .deleted(2)
            .goes_on(None)
    };
    let again = |version| {
        deleted().put(3).answer(
            3,
            Answer::Applied {
                version: Version::new(version),
            },
        )
    };
    assert!(again(1).is_err(), "version 1 was given before");
    again(2).unwrap().goes_on(Some((3, 2)));
    again(3).unwrap().refuses(
        Some((3, 3)),
        "1 versions are nobody's, and 0 puts can have taken them",
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
    story()
        .put(1)
        .applied(1, 1)
        .refuses(Some((1, 2)), "another one is there");
    // Version 2 may have been taken by the put that was never answered, and deleted again.
    let hidden = || story().put(1).applied(1, 1).put(2).delete(3).goes_on(None);
    hidden().put(4).applied(4, 3).goes_on(Some((4, 3)));
    hidden()
        .put(4)
        .applied(4, 4)
        .refuses(Some((4, 4)), "can have taken them");
}

#[test]
fn what_nobody_wrote_there_or_only_half_is_told() {
    story()
        .put(1)
        .applied(1, 1)
        .refuses(Some((9, 1)), "written neither here nor lately");
    story()
        .put(1)
        .applied(1, 1)
        .put(2)
        .applied(2, 2)
        .goes_on(Some((2, 2)))
        .refuses(Some((1, 1)), "neither here nor");
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
