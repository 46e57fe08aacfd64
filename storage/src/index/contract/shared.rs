//! Claims about an index that several handles share: conditions, fencing and lost replies.
//!
//! [`all`] runs every function. Guards the storage half of I3 (no two commits rest on the same
//! state), of I6 (a dead member commits nothing) and of I10 (a lost reply is not guessed) for shared
//! indexes.

use std::collections::BTreeSet;

use super::*;
use crate::index::RangeCondition;

/// Number of rounds of a race.
const ROUNDS: usize = 60;
/// Tasks of each handle that count.
const TASKS: usize = 4;
/// Increments of each task.
const INCREMENTS: usize = 25;

/// Store of which several handles may be open at once.
pub trait SharedSubject: Subject {
    /// Declares the member of this handle dead, through any other connection to the store.
    fn declare_dead<'a>(&'a self, index: &'a dyn Index) -> BoxFuture<'a, ()>;

    /// Breaks connections while commits are under way, until the result is dropped: some before the
    /// commit reaches the store, some after it.
    fn disturb(&self) -> Box<dyn Send>;
}

/// Tests every claim in sequence.
pub async fn all(subject: &dyn SharedSubject) {
    unmet_conditions_refuse_their_batch_alone(subject).await;
    conditions_see_earlier_batches(subject).await;
    creation_races_have_one_winner(subject).await;
    ranges_include_the_keys_of_other_handles(subject).await;
    other_handles_read_everything_acknowledged(subject).await;
    decisions_on_each_others_keys_exclude_each_other(subject).await;
    counters_lose_no_increment(subject).await;
    batches_of_several_handles_stay_whole(subject).await;
    dead_members_commit_nothing(subject).await;
    lost_replies_are_not_guessed(subject).await;
}

/// Checks that a batch with an unmet condition has no effect, and that the batches before and after
/// it commit.
pub async fn unmet_conditions_refuse_their_batch_alone(subject: &dyn SharedSubject) {
    let index = open(subject).await;
    assert!(index.is_shared());
    commit(&index, put("unmet/a", "1")).await.expect("durable");
    let before = submit(&index, put("unmet/before", "1"));
    let refused = [
        (Table::Rows, "unmet/a", Some("2")),
        (Table::Rows, "unmet/a", None),
        (Table::Rows, "unmet/absent", Some("1")),
        // The same key of another table.
        (Table::Meta, "unmet/a", Some("1")),
    ];
    let refused = refused.map(|(table, key, value)| {
        let mut batch = put("unmet/refused", "1");
        batch.put(Table::Orphans, "unmet/refused", "1");
        batch.require(Table::Rows, "unmet/a", Some(Bytes::from("1")));
        batch.require(table, key, value.map(Bytes::from));
        submit(&index, batch)
    });
    let after = submit(&index, put("unmet/after", "1"));
    before.await.expect("completed").expect("durable");
    for refused in refused {
        let outcome = refused.await.expect("completed");
        assert!(matches!(outcome, Err(CommitError::Changed)), "{outcome:?}");
    }
    after.await.expect("completed").expect("durable");
    assert_eq!(index.poisoned().map(|error| error.kind()), None);
    for table in [Table::Rows, Table::Orphans] {
        assert_eq!(get(&index, table, "unmet/refused").await, None);
    }
    assert!(get(&index, Table::Rows, "unmet/before").await.is_some());
    assert!(get(&index, Table::Rows, "unmet/after").await.is_some());
    // The absence of a key that no batch writes leaves nothing behind.
    let mut batch = put("unmet/b", "1");
    batch.require(Table::Rows, "unmet/absent", None);
    commit(&index, batch).await.expect("durable");
    assert_eq!(get(&index, Table::Rows, "unmet/absent").await, None);
    remove(
        &index,
        &["a", "before", "after", "b"].map(|key| format!("unmet/{key}")),
    )
    .await;
    close(index).await;
}

/// Checks that a condition refers to the state after all batches submitted before, durable or not.
pub async fn conditions_see_earlier_batches(subject: &dyn SharedSubject) {
    let index = open(subject).await;
    let mut outcomes = Vec::new();
    let mut before = None;
    for number in 0..MANY {
        let value = Bytes::from(number.to_string());
        let mut batch = Batch::new();
        batch.require(Table::Rows, "chain", before.replace(value.clone()));
        batch.put(Table::Rows, "chain", value);
        outcomes.push(submit(&index, batch));
    }
    for outcome in outcomes {
        outcome.await.expect("completed").expect("durable");
    }
    assert_eq!(get(&index, Table::Rows, "chain").await, before);
    remove(&index, &["chain".to_owned()]).await;
    close(index).await;
}

/// Checks that of two handles that create the same key, one does.
pub async fn creation_races_have_one_winner(subject: &dyn SharedSubject) {
    let handles = [open(subject).await, open(subject).await];
    for round in 0..ROUNDS {
        let key = format!("race/{round}");
        let racing = handles.iter().enumerate().map(|(number, index)| {
            let mut batch = put(&key, &number.to_string());
            batch.require(Table::Rows, key.clone(), None);
            submit(index, batch)
        });
        let outcomes = join_all(racing.collect::<Vec<_>>()).await;
        let outcomes: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| outcome.expect("completed"))
            .collect();
        let winner = outcomes
            .iter()
            .position(|outcome| outcome.is_ok())
            .expect("a winner");
        assert!(
            matches!(outcomes[1 - winner], Err(CommitError::Changed)),
            "{outcomes:?}"
        );
        let stored = get(&handles[0], Table::Rows, &key).await;
        assert_eq!(stored, Some(Bytes::from(winner.to_string())));
    }
    let keys: Vec<_> = (0..ROUNDS).map(|round| format!("race/{round}")).collect();
    remove(&handles[0], &keys).await;
    close_all(handles).await;
}

/// Checks that each handle reads a write as soon as another handle has acknowledged it.
pub async fn other_handles_read_everything_acknowledged(subject: &dyn SharedSubject) {
    let handles = [open(subject).await, open(subject).await];
    for round in 0..ROUNDS {
        let (writer, reader) = (&handles[round % 2], &handles[1 - round % 2]);
        let value = round.to_string();
        commit(writer, put("others", &value))
            .await
            .expect("durable");
        assert_eq!(
            get(reader, Table::Rows, "others").await,
            Some(Bytes::from(value))
        );
    }
    remove(&handles[0], &["others".to_owned()]).await;
    close_all(handles).await;
}

/// Checks write skew: each handle reads the key that the other writes, so that at most one of them
/// commits. With keys that exist, and with keys that do not.
pub async fn decisions_on_each_others_keys_exclude_each_other(subject: &dyn SharedSubject) {
    let handles = [open(subject).await, open(subject).await];
    for round in 0..ROUNDS {
        let keys = [format!("skew/{round}/a"), format!("skew/{round}/b")];
        let before = (round % 2 == 0).then(|| Bytes::from("0"));
        if before.is_some() {
            let mut batch = put(&keys[0], "0");
            batch.append(put(&keys[1], "0"));
            commit(&handles[0], batch).await.expect("durable");
        }
        let racing = handles.iter().enumerate().map(|(number, index)| {
            let mut batch = put(&keys[number], "1");
            batch.require(Table::Rows, keys[1 - number].clone(), before.clone());
            submit(index, batch)
        });
        let outcomes = join_all(racing.collect::<Vec<_>>()).await;
        let committed = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Ok(Ok(()))))
            .count();
        assert_eq!(committed, 1, "round={round} {outcomes:?}");
        remove(&handles[0], &keys).await;
    }
    close_all(handles).await;
}

/// Checks that tasks of several handles that count in one key lose no increment.
pub async fn counters_lose_no_increment(subject: &dyn SharedSubject) {
    let handles = [open(subject).await, open(subject).await];
    let tasks = (0..2 * TASKS).map(|task| {
        let index = &handles[task % 2];
        async move {
            for _ in 0..INCREMENTS {
                increment(index, "counter").await;
            }
        }
    });
    join_all(tasks).await;
    let total = (2 * TASKS * INCREMENTS).to_string();
    assert_eq!(
        get(&handles[0], Table::Rows, "counter").await,
        Some(Bytes::from(total))
    );
    remove(&handles[0], &["counter".to_owned()]).await;
    close_all(handles).await;
}

/// Checks that a snapshot of any handle contains each batch of any handle completely or not at all.
pub async fn batches_of_several_handles_stay_whole(subject: &dyn SharedSubject) {
    let handles = [
        open(subject).await,
        open(subject).await,
        open(subject).await,
    ];
    let write = |number: usize| {
        let mut batch = Batch::new();
        for table in Table::ALL {
            batch.put(table, "several", number.to_string());
        }
        batch
    };
    commit(&handles[0], write(0)).await.expect("durable");
    for round in 0..ROUNDS {
        let writers = handles.iter().take(2).enumerate();
        let outcomes: Vec<_> = writers
            .map(|(number, index)| submit(index, write(2 * round + number)))
            .collect();
        let snapshot = handles[2].snapshot().expect("the index is open");
        let mut values = Vec::new();
        for table in Table::ALL {
            values.push(
                snapshot
                    .get(table, b"several")
                    .await
                    .expect("the read succeeds"),
            );
        }
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
        for outcome in outcomes {
            outcome.await.expect("completed").expect("durable");
        }
    }
    let mut batch = Batch::new();
    Table::ALL
        .iter()
        .for_each(|&table| batch.remove(table, "several"));
    commit(&handles[0], batch).await.expect("durable");
    close_all(handles).await;
}

/// Checks that a batch which requires the whole of a range is refused if another handle has added or
/// removed a key of it, however close both commits are.
pub async fn ranges_include_the_keys_of_other_handles(subject: &dyn SharedSubject) {
    let [first, second] = [open(subject).await, open(subject).await];
    commit(&first, put("range", "open")).await.expect("durable");
    for round in 0..ROUNDS {
        let added = format!("range/{round}");
        let mut add = put(&added, "1");
        add.require(Table::Rows, "range", Some(Bytes::from("open")));
        add.require(Table::Rows, added.clone(), None);
        let whole = |end: bool| {
            let mut batch = put("range", if end { "ended" } else { "open" });
            batch.require(Table::Rows, "range", Some(Bytes::from("open")));
            batch.require_only(RangeCondition {
                table: Table::Rows,
                prefix: Bytes::from("range/"),
                keys: BTreeSet::new(),
            });
            batch
        };
        let (adding, ending) = (submit(&second, add), submit(&first, whole(true)));
        let added_first = adding.await.expect("completed").is_ok();
        let ended = ending.await.expect("completed").is_ok();
        assert_ne!(added_first, ended, "{round}: exactly one of both commits");
        remove(&first, &[added]).await;
        commit(&first, put("range", "open")).await.expect("durable");
        commit(&second, whole(false))
            .await
            .expect("the range is empty again");
    }
    remove(&first, &["range".to_owned()]).await;
    close_all([first, second]).await;
}

/// Checks that nothing of a member commits after it was declared dead, that it is poisoned, and that
/// other members go on.
pub async fn dead_members_commit_nothing(subject: &dyn SharedSubject) {
    let [dead, alive] = [open(subject).await, open(subject).await];
    commit(&dead, put("dead/before", "1"))
        .await
        .expect("durable");
    subject.declare_dead(&*dead).await;
    for number in 0..3 {
        let outcome = commit(&dead, put("dead/after", "1")).await;
        assert!(
            matches!(outcome, Err(CommitError::NotStarted(_))),
            "{number}: {outcome:?}"
        );
    }
    assert!(dead.poisoned().is_some());
    assert_eq!(get(&dead, Table::Rows, "dead/after").await, None);
    commit(&alive, put("dead/alive", "1"))
        .await
        .expect("durable");
    // A close reports the batches that did not commit.
    drop(dead.close().await);
    let again = open(subject).await;
    commit(&again, put("dead/again", "1"))
        .await
        .expect("durable");
    remove(
        &alive,
        &["before", "alive", "again"].map(|key| format!("dead/{key}")),
    )
    .await;
    close_all([alive, again]).await;
}

/// Checks that commits whose connections break have their true outcome: every acknowledged increment
/// of a counter is there, and every refused one is not.
pub async fn lost_replies_are_not_guessed(subject: &dyn SharedSubject) {
    let index = open(subject).await;
    let disturbance = subject.disturb();
    let tasks = (0..TASKS).map(|task| {
        let index = &index;
        async move {
            for number in 0..INCREMENTS {
                // A key of its own, too: a commit that happened twice would find it.
                let key = format!("lost/{task}/{number}");
                let mut batch = put(&key, "1");
                batch.require(Table::Rows, key, None);
                commit(index, batch).await.expect("durable");
                increment(index, "lost").await;
            }
        }
    });
    join_all(tasks).await;
    drop(disturbance);
    let total = (TASKS * INCREMENTS).to_string();
    assert_eq!(
        get(&index, Table::Rows, "lost").await,
        Some(Bytes::from(total))
    );
    let keys = (0..TASKS)
        .flat_map(|task| (0..INCREMENTS).map(move |number| format!("lost/{task}/{number}")));
    let keys: Vec<_> = keys.chain(["lost".to_owned()]).collect();
    for key in &keys {
        assert!(get(&index, Table::Rows, key).await.is_some(), "{key}");
    }
    remove(&index, &keys).await;
    close(index).await;
}

/// Increments the number under a key, and repeats that until no other commit has come between.
async fn increment(index: &Arc<dyn Index>, key: &str) {
    loop {
        // A read may fail while connections break. The condition then fails, too, and the loop
        // reads again.
        let value = index
            .get(Table::Rows, key.as_bytes())
            .await
            .unwrap_or_default();
        let number: usize = value.as_ref().map_or(0, |value| {
            let text = std::str::from_utf8(value).expect("a number is text");
            text.parse().expect("a number")
        });
        let mut batch = put(key, &(number + 1).to_string());
        batch.require(Table::Rows, key.to_owned(), value);
        match commit(index, batch).await {
            Ok(()) => return,
            Err(CommitError::Changed) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn remove(index: &Arc<dyn Index>, keys: &[String]) {
    let mut batch = Batch::new();
    keys.iter()
        .for_each(|key| batch.remove(Table::Rows, key.clone()));
    commit(index, batch).await.expect("the removal is durable");
}

async fn close_all<const N: usize>(handles: [Arc<dyn Index>; N]) {
    for index in handles {
        close(index).await;
    }
}
