//! Permits: limits, the queue, and the share of bulk work.

use super::*;
use crate::limits::QueueLimits;

fn admission(limits: &Limits) -> Admission {
    Admission::new(limits, 0, Env::real().unwrap())
}

fn kind<T>(refused: Result<T>) -> ErrorKind {
    refused.err().expect("the request is refused").kind()
}

#[tokio::test]
async fn write_over_the_limit_is_overloaded_until_another_ends() {
    let admission = admission(&Limits {
        writes_at_once: 2,
        ..Limits::default()
    });
    let first = admission
        .write()
        .await
        .unwrap()
        .and(admission.payload(10, false).await.unwrap());
    let clone = first.clone();
    let _second = admission.write().await.unwrap();
    drop(first);
    assert_eq!(
        kind(admission.write().await),
        ErrorKind::Overloaded,
        "a clone still holds it"
    );
    drop(clone);
    assert!(admission.write().await.is_ok());
}

#[tokio::test]
async fn oversized_group_of_writes_runs_alone() {
    let admission = admission(&Limits {
        writes_at_once: 2,
        ..Limits::default()
    });
    let together = admission.writes(5).await.unwrap();
    assert_eq!(kind(admission.write().await), ErrorKind::Overloaded);
    drop(together);
    let one = admission.write().await.unwrap();
    assert_eq!(
        kind(admission.writes(2).await),
        ErrorKind::Overloaded,
        "all or none of them"
    );
    drop(one);
    assert!(admission.writes(2).await.is_ok());
}

#[tokio::test]
async fn oversized_payload_runs_alone() {
    let admission = admission(&Limits {
        write_bytes_in_flight: 10 * UNIT_BYTES,
        ..Limits::default()
    });
    let large = admission.payload(20 * UNIT_BYTES, false).await.unwrap();
    assert_eq!(
        kind(admission.payload(1, false).await),
        ErrorKind::Overloaded
    );
    drop(large);
    assert!(admission.payload(1, false).await.is_ok());
}

#[tokio::test]
async fn queued_request_waits_and_one_more_is_overloaded() {
    let queue = QueueLimits {
        places: 1,
        wait: Duration::from_secs(60),
    };
    let admission = admission(&Limits {
        uploads_at_once: 1,
        queue,
        ..Limits::default()
    });
    let first = admission.upload(false).await.unwrap();
    let mut waits = Box::pin(admission.upload(false));
    assert!(futures::poll!(&mut waits).is_pending());
    assert_eq!(admission.waits(), 1);
    assert_eq!(kind(admission.upload(false).await), ErrorKind::Overloaded);
    drop(first);
    let second = waits.await.unwrap();
    assert_eq!(admission.waits(), 0);
    let mut waits = Box::pin(admission.upload(false));
    assert!(futures::poll!(&mut waits).is_pending());
    drop((waits, second));
    assert!(
        admission.upload(false).await.is_ok(),
        "a dropped wait holds no place"
    );
}

#[tokio::test]
async fn wait_in_the_queue_ends_as_overloaded() {
    let queue = QueueLimits {
        places: 1,
        wait: Duration::from_millis(20),
    };
    let admission = admission(&Limits {
        writes_at_once: 1,
        queue,
        ..Limits::default()
    });
    let _first = admission.write().await.unwrap();
    assert_eq!(kind(admission.write().await), ErrorKind::Overloaded);
}

#[tokio::test]
async fn bulk_work_leaves_budget_for_single_requests() {
    let limits = Limits {
        uploads_at_once: 4,
        writes_at_once: 4,
        budget_wait: Duration::from_millis(20),
        ..Limits::default()
    };
    let admission = admission(&limits);
    let bulk = [
        admission.upload(true).await.unwrap(),
        admission.upload(true).await.unwrap(),
    ];
    assert_eq!(
        kind(admission.upload(true).await),
        ErrorKind::Overloaded,
        "half of the limit is for bulk work"
    );
    let single = [
        admission.upload(false).await.unwrap(),
        admission.upload(false).await.unwrap(),
    ];
    assert_eq!(kind(admission.upload(false).await), ErrorKind::Overloaded);
    drop(bulk);
    assert!(admission.upload(true).await.is_ok());
    let held = admission.payload(128 << 20, true).await.unwrap();
    assert_eq!(
        kind(admission.payload(1, true).await),
        ErrorKind::Overloaded
    );
    assert!(admission.payload(100 << 20, false).await.is_ok());
    drop(held);
    let turns = [
        admission.bulk().await.unwrap(),
        admission.bulk().await.unwrap(),
    ];
    assert_eq!(kind(admission.bulk().await), ErrorKind::Overloaded);
    drop((turns, single));
}

#[tokio::test]
async fn beginnings_leave_space_for_the_largest_share() {
    for (budget_mib, share_mib, expected) in [
        (64, 9, 16),
        (64, 49, 7),
        (10, 9, 0),
        (4, 9, 0),
        (256, 9, 64),
    ] {
        let limits = Limits {
            upload_bytes_in_flight: budget_mib * MIB,
            ..Limits::default()
        };
        let admission = Admission::new(&limits, share_mib * MIB, Env::real().unwrap());
        let beginnings: Vec<Beginning> = std::iter::from_fn(|| admission.beginning()).collect();
        assert_eq!(
            beginnings.len(),
            expected,
            "budget={budget_mib} share={share_mib}"
        );
        assert!(
            admission.upload_bytes.has_room(share_mib * MIB),
            "budget={budget_mib} share={share_mib}"
        );
    }
}

const MIB: usize = 1024 * 1024;

/// Four writes, three uploads, ten units of payload, and 6 MiB of uploads.
fn small_limits() -> Limits {
    Limits {
        writes_at_once: 4,
        uploads_at_once: 3,
        write_bytes_in_flight: 10 * UNIT_BYTES,
        upload_bytes_in_flight: 6 * MIB,
        ..Limits::default()
    }
}

#[tokio::test]
async fn live_writes_are_those_that_hold_a_permit() {
    let admission = admission(&small_limits());
    assert_eq!(admission.writes_live(), 0);
    let first = admission.write().await.unwrap();
    assert_eq!(admission.writes_live(), 1);
    let two = admission.writes(2).await.unwrap();
    assert_eq!(admission.writes_live(), 3);
    assert_eq!(admission.uploads_live(), 0, "writes are not uploads");
    drop(first);
    assert_eq!(admission.writes_live(), 2);
    drop(two);
    assert_eq!(admission.writes_live(), 0);
}

#[tokio::test]
async fn live_uploads_are_those_that_hold_a_permit() {
    let admission = admission(&small_limits());
    assert_eq!(admission.uploads_live(), 0);
    let first = admission.upload(false).await.unwrap();
    assert_eq!(admission.uploads_live(), 1);
    let second = admission.upload(false).await.unwrap();
    assert_eq!(admission.uploads_live(), 2);
    assert_eq!(admission.writes_live(), 0, "uploads are not writes");
    drop(first);
    assert_eq!(admission.uploads_live(), 1);
    drop(second);
    assert_eq!(admission.uploads_live(), 0);
}

#[tokio::test]
async fn immediate_write_is_granted_up_to_the_limit_without_a_queue() {
    let queue = QueueLimits {
        places: 1,
        wait: Duration::from_secs(60),
    };
    let admission = admission(&Limits {
        queue,
        ..small_limits()
    });
    let mut held: Vec<Permit> = std::iter::from_fn(|| admission.try_write()).collect();
    assert_eq!((held.len(), admission.writes_live()), (4, 4));
    assert_eq!(admission.waits(), 0);
    held.pop();
    assert_eq!(admission.writes_live(), 3);
    let _again = admission.try_write().unwrap();
    assert!(admission.try_write().is_none());
}

#[tokio::test]
async fn budget_use_is_rounded_up_to_units_and_returns_to_zero() {
    let admission = admission(&small_limits());
    let used = |bytes| BudgetUse {
        bytes,
        bytes_max: 10 * 1024,
    };
    assert_eq!(admission.write_bytes().usage(), used(0));
    let small = admission.payload(1, false).await.unwrap();
    assert_eq!(admission.write_bytes().usage(), used(1024));
    let large = admission.payload(3 * 1024 + 1, false).await.unwrap();
    assert_eq!(admission.write_bytes().usage(), used(5 * 1024));
    drop(small);
    assert_eq!(admission.write_bytes().usage(), used(4 * 1024));
    drop(large);
    assert_eq!(admission.write_bytes().usage(), used(0));
    assert_eq!(admission.upload_bytes().usage().bytes_max, 6 * MIB);
}

#[tokio::test]
async fn budget_has_room_for_exactly_the_free_bytes() {
    let budget = Budget::new(10 * UNIT_BYTES);
    assert!(budget.has_room(0) && budget.has_room(10 * UNIT_BYTES));
    assert!(
        budget.has_room(11 * UNIT_BYTES),
        "an oversized request takes the whole budget"
    );
    let held = budget.acquire(4 * UNIT_BYTES).await;
    assert!(budget.has_room(6 * UNIT_BYTES));
    assert!(!budget.has_room(6 * UNIT_BYTES + 1));
    assert!(!budget.has_room(11 * UNIT_BYTES));
    drop(held);
    assert!(budget.has_room(10 * UNIT_BYTES));
}
