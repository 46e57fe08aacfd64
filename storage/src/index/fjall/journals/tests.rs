//! The verdict on described journals, without files.

use super::super::journal::{BatchRun, Defect};
use super::*;

fn run(start: u64, first_seqno: u64, last_seqno: u64) -> BatchRun {
    BatchRun {
        start,
        end: start + 100,
        batches: 2,
        first_seqno,
        last_seqno,
    }
}

fn gap(start: u64) -> JournalGap {
    JournalGap {
        start,
        end: start + 10,
        defect: Defect::Checksum,
    }
}

fn scanned(id: u64, runs: &[BatchRun], gaps: &[JournalGap]) -> Scanned {
    Scanned {
        id,
        journal: Journal {
            bytes: 1000,
            runs: runs.to_vec(),
            gaps: gaps.to_vec(),
            ..Journal::default()
        },
    }
}

/// Returns the verdict, with the witness that a scan would find for this mark.
fn judged(journals: &[Scanned], mark: &Mark) -> JournalVerdict {
    let mut journals = journals.to_vec();
    for scanned in &mut journals {
        let runs = &scanned.journal.runs;
        let seqnos = runs
            .iter()
            .flat_map(|run| [run.first_seqno, run.last_seqno]);
        scanned.journal.witness = seqnos.filter(|&seqno| seqno >= mark.low).min();
    }
    judge(&journals, Some(mark))
}

fn two() -> [Scanned; 2] {
    [
        scanned(3, &[run(0, 10, 19)], &[]),
        scanned(4, &[run(0, 20, 29)], &[]),
    ]
}

fn closed() -> Mark {
    Mark {
        generation: 1,
        closed: true,
        low: 29,
        high: 31,
        oldest: 3,
        journals: vec![(3, 10), (4, 20)],
    }
}

#[test]
fn intact_journals_are_sound() {
    assert_eq!(judge(&two(), None), JournalVerdict::Sound);
    assert_eq!(judged(&two(), &closed()), JournalVerdict::Sound);
    assert_eq!(judged(&two(), &Mark::default()), JournalVerdict::Sound);
    // Further batches were committed after the mark.
    assert_eq!(
        judged(
            &two(),
            &Mark {
                low: 20,
                high: 22,
                ..closed()
            }
        ),
        JournalVerdict::Sound
    );
    let later = [scanned(5, &[], &[])];
    assert_eq!(judge(&later, None), JournalVerdict::Sound);
    let flushed = Mark {
        closed: false,
        ..closed()
    };
    assert_eq!(judged(&later, &flushed), JournalVerdict::Sound);
    assert_eq!(
        judged(&[scanned(5, &[run(0, 31, 40)], &[])], &closed()),
        JournalVerdict::Sound
    );
}

#[test]
fn damage_behind_the_last_batch_is_a_tail() {
    let torn = [two()[0].clone(), scanned(4, &[run(0, 20, 29)], &[gap(100)])];
    assert_eq!(
        judge(&torn, None),
        JournalVerdict::Tail {
            id: 4,
            gap: gap(100)
        }
    );
    assert_eq!(
        judged(&torn, &closed()),
        JournalVerdict::Tail {
            id: 4,
            gap: gap(100)
        }
    );
    // The disk was full: the journal was sealed behind a torn batch, and the next journal is empty.
    let sealed = [
        scanned(3, &[run(0, 10, 19)], &[gap(100)]),
        scanned(4, &[], &[]),
    ];
    assert_eq!(
        judge(&sealed, None),
        JournalVerdict::Tail {
            id: 3,
            gap: gap(100)
        }
    );
}

#[test]
fn damage_before_a_batch_is_refused() {
    let middle = [scanned(4, &[run(0, 20, 22), run(110, 27, 29)], &[gap(100)])];
    assert_eq!(
        judge(&middle, None),
        JournalVerdict::Damaged {
            id: 4,
            gap: gap(100)
        }
    );
    let sealed = [scanned(3, &[run(0, 10, 19)], &[gap(100)]), two()[1].clone()];
    assert_eq!(
        judge(&sealed, None),
        JournalVerdict::Damaged {
            id: 3,
            gap: gap(100)
        }
    );
    let both = [
        scanned(3, &[run(0, 10, 19)], &[gap(100)]),
        scanned(4, &[], &[gap(0)]),
    ];
    assert_eq!(
        judge(&both, None),
        JournalVerdict::Damaged {
            id: 3,
            gap: gap(100)
        }
    );
    let mut undecided = scanned(4, &[run(0, 20, 29)], &[gap(100)]);
    undecided.journal.undecided = true;
    assert_eq!(
        judge(&[undecided], None),
        JournalVerdict::Damaged {
            id: 4,
            gap: gap(100)
        }
    );
}

#[test]
fn damaged_batch_that_the_mark_claims_is_not_a_tail() {
    let torn = [two()[0].clone(), scanned(4, &[run(0, 20, 28)], &[gap(100)])];
    assert_eq!(
        judge(&torn, None),
        JournalVerdict::Tail {
            id: 4,
            gap: gap(100)
        }
    );
    assert_eq!(
        judged(&torn, &closed()),
        JournalVerdict::Damaged {
            id: 4,
            gap: gap(100)
        }
    );
    let all = [two()[0].clone(), scanned(4, &[], &[gap(0)])];
    assert_eq!(
        judged(&all, &closed()),
        JournalVerdict::Damaged { id: 4, gap: gap(0) }
    );
}

#[test]
fn missing_journal_is_refused() {
    let [three, four] = two();
    let five = scanned(5, &[run(0, 30, 39)], &[]);
    assert_eq!(
        judge(&[three.clone(), five.clone()], None),
        JournalVerdict::Missing { id: 4 }
    );
    assert_eq!(
        judged(std::slice::from_ref(&three), &closed()),
        JournalVerdict::Missing { id: 4 }
    );
    assert_eq!(
        judged(std::slice::from_ref(&four), &closed()),
        JournalVerdict::Missing { id: 3 }
    );
    assert_eq!(judged(&[], &closed()), JournalVerdict::Missing { id: 4 });
    // After a crash the journal may be absent: fjall removes the oldest journal.
    assert_eq!(
        judged(
            std::slice::from_ref(&four),
            &Mark {
                closed: false,
                ..closed()
            }
        ),
        JournalVerdict::Sound
    );
    // An older build without marks has committed batches since: the journal may be absent.
    let older = scanned(4, &[run(0, 20, 29), run(100, 33, 35)], &[]);
    assert_eq!(judged(&[older, five], &closed()), JournalVerdict::Sound);
}

#[test]
fn short_or_renumbered_journal_is_refused() {
    let [three, four] = two();
    let short = scanned(4, &[run(0, 20, 25)], &[]);
    let verdict = JournalVerdict::Short {
        id: 4,
        found: Some(25),
        claimed: 29,
    };
    assert_eq!(judged(&[three.clone(), short.clone()], &closed()), verdict);
    let next = scanned(5, &[run(0, 30, 39)], &[]);
    let verdict = JournalVerdict::Short {
        id: 4,
        found: Some(39),
        claimed: 29,
    };
    assert_eq!(judged(&[three.clone(), short, next], &closed()), verdict);
    let empty = scanned(3, &[], &[]);
    assert_eq!(
        judged(&[empty, four], &closed()),
        JournalVerdict::Short {
            id: 3,
            found: None,
            claimed: 10
        }
    );
    let first = scanned(3, &[run(0, 8, 19)], &[]);
    let verdict = JournalVerdict::Renumbered {
        id: 3,
        found: 8,
        low: 10,
        high: 11,
    };
    assert_eq!(judged(&[first, two()[1].clone()], &closed()), verdict);
    let last = scanned(4, &[run(0, 20, 4096)], &[]);
    let verdict = JournalVerdict::Renumbered {
        id: 4,
        found: 4096,
        low: 29,
        high: 31,
    };
    assert_eq!(judged(&[three, last], &closed()), verdict);
}
