//! The end of objects: deletes, prefix deletions, expiry.

use std::time::Duration;

use cenotaph::{Engine, Env};
use cenotaph_tests::store::payload;

use super::{LARGE, MEDIUM, SMALL, assert_holds, bytes, put};

const HOUR: Duration = Duration::from_secs(3600);
const INSTANT: Duration = Duration::from_millis(1);
/// Time limit for the expirer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn versions_continue_after_a_delete(engine: &Engine) {
    for length in [SMALL, MEDIUM, LARGE] {
        let key = format!("k{length}");
        put(engine, &key, 1, length).await;
        assert!(engine.delete(&key).await.unwrap().existed);
        assert!(!engine.delete(&key).await.unwrap().existed);
        assert_eq!(bytes(engine, &key).await, None);
        engine.settle().await.unwrap();
        let again = put(engine, &key, 2, length).await;
        assert_eq!(
            (again.version.unwrap().get(), again.created),
            (2, true),
            "a version is never reused"
        );
        assert_holds(engine, &key, 2, length).await;
    }
}

pub(super) async fn prefix_deletion_spares_neighbours(engine: &Engine) {
    let sizes = [SMALL, MEDIUM, LARGE];
    for (number, length) in (0..30u64).zip(sizes.into_iter().cycle().take(27).chain([SMALL; 3])) {
        let length = if number > 6 {
            length.min(MEDIUM)
        } else {
            length
        };
        put(engine, &format!("tmp/{number}"), number, length).await;
    }
    let beside = ["tmp", "tmp.", "tmp0", "tmo/1"];
    for key in beside {
        put(engine, key, 100, MEDIUM).await;
    }
    assert_eq!(engine.delete_prefix("tmp/").await.unwrap().deleted, 30);
    assert_eq!(engine.delete_prefix("tmp/").await.unwrap().deleted, 0);
    assert!(engine.list("tmp/").await.unwrap().entries.is_empty());
    for key in beside {
        assert_holds(engine, key, 100, MEDIUM).await;
    }
}

pub(super) async fn expired_objects_are_removed(engine: &Engine) {
    let sizes = [SMALL, MEDIUM, LARGE];
    for length in sizes {
        engine
            .put(format!("mortal/{length}"), payload(1, length))
            .time_to_live(INSTANT)
            .await
            .unwrap();
        engine
            .put(format!("later/{length}"), payload(2, length))
            .time_to_live(HOUR)
            .await
            .unwrap();
        engine
            .put(format!("saved/{length}"), payload(3, length))
            .time_to_live(HOUR)
            .await
            .unwrap();
        put(engine, &format!("saved/{length}"), 4, length).await;
    }
    let env = Env::real().unwrap();
    let removed = env.deadline(PATIENCE, async {
        while engine.stats().await.unwrap().actors.expired < sizes.len() as u64 {
            env.sleep(INSTANT).await;
        }
    });
    assert!(removed.await.is_some(), "{:?}", engine.stats().await);
    assert_eq!(
        engine.usage().await.unwrap().expired,
        0,
        "expired objects are removed, not just hidden"
    );
    for length in sizes {
        assert_eq!(bytes(engine, &format!("mortal/{length}")).await, None);
        assert_holds(engine, &format!("later/{length}"), 2, length).await;
        assert_holds(engine, &format!("saved/{length}"), 4, length).await;
    }
}
