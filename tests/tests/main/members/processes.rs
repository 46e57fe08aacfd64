//! Members in processes of their own: killed at random moments, or stopped for longer than their lease.
//!
//! `CENOTAPH_MEMBER_ROUNDS` sets the number of kills, `CENOTAPH_MEMBER_SEED` determines the operations and
//! the moments of the kills.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use cenotaph::{Engine, Env};

use super::SharedStore;
use super::process::{
    self, Action, COUNTER, HOT_KEYS, Line, Orders, PAIR, PLACES, Work, number_of,
};
use crate::crash::chance::Chance;
use crate::crash::env_number;

/// Environment variable with the parameters of a member.
const ORDERS: &str = "CENOTAPH_MEMBER_ORDERS";
/// Processes at a time.
const PROCESSES: usize = 3;
/// Number of kills without the variable.
const ROUNDS: u64 = 8;
/// Time limit without a line from a member.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member in a process, which is killed when this value is dropped.
struct Process {
    child: Child,
    lines: mpsc::Receiver<Line>,
    seen: Vec<Line>,
}

impl Process {
    fn start(env: &Env, test: &str, orders: &Orders) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ORDERS, serde_json::to_string(orders).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        let read = move || {
            for line in BufReader::new(stdout).lines() {
                if let Some(line) = Line::parse(&line.unwrap())
                    && sender.send(line).is_err()
                {
                    return;
                }
            }
        };
        // It ends with the pipe.
        drop(env.thread("lines", read).unwrap());
        let mut process = Self {
            child,
            lines,
            seen: Vec::new(),
        };
        process.wait_for(|line| *line == Line::Open);
        process
    }

    /// Waits for a line, and returns it.
    fn wait_for(&mut self, is_it: impl Fn(&Line) -> bool) -> Line {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{error} after {:?}", self.seen.last()));
            self.seen.push(line.clone());
            if is_it(&line) {
                return line;
            }
        }
    }

    /// Waits for this number of further acknowledgements.
    fn wait_for_acks(&mut self, acks: usize) {
        for _ in 0..acks {
            self.wait_for(|line| matches!(line, Line::Ack { .. }));
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success(), "{signal}");
    }

    /// Kills the process, and returns all lines that it has printed.
    fn kill(mut self) -> Vec<Line> {
        assert_eq!(
            self.child.try_wait().unwrap(),
            None,
            "it runs until it is killed"
        );
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut seen = std::mem::take(&mut self.seen);
        // The reader ends with the pipe.
        seen.extend(self.lines.iter());
        seen
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs this process as a member if a test has started it as one.
fn is_member() -> Option<()> {
    let orders = std::env::var(ORDERS).ok()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(process::run(serde_json::from_str(&orders).unwrap()));
    Some(())
}

#[test]
fn killed_members_lose_no_acknowledged_write() {
    if is_member().is_some() {
        return;
    }
    let runtime = runtime();
    let Some(store) = runtime.block_on(SharedStore::start()) else {
        return;
    };
    let first = runtime.block_on(store.member());
    runtime.block_on(async {
        first.put(PLACES[0], "the only one").await.unwrap();
        first.close().await.unwrap();
    });
    let rounds = env_number("CENOTAPH_MEMBER_ROUNDS").unwrap_or(ROUNDS);
    let seed = env_number("CENOTAPH_MEMBER_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("CENOTAPH_MEMBER_SEED={seed}");
    let env = runtime.block_on(async { Env::real().unwrap() });
    let mut chance = Chance::new(seed);
    let mut started = 0;
    let mut start = |chance: &mut Chance| {
        started += 1;
        let orders = Orders {
            url: store.url(),
            data: store.directory.path().to_owned(),
            process: started,
            seed: chance.number(),
            work: Work::Load,
        };
        let test = "members::processes::killed_members_lose_no_acknowledged_write";
        Process::start(&env, test, &orders)
    };
    let mut processes: Vec<Process> = (0..PROCESSES).map(|_| start(&mut chance)).collect();
    let mut lines = Vec::new();
    for _ in 0..rounds {
        let victim = chance.between(0, PROCESSES - 1);
        // The others go on meanwhile, too.
        for process in &mut processes {
            process.wait_for_acks(chance.between(1, 60));
        }
        let killed = std::mem::replace(&mut processes[victim], start(&mut chance));
        lines.extend(killed.kill());
    }
    lines.extend(processes.into_iter().flat_map(Process::kill));
    runtime.block_on(async {
        let last = store.member().await;
        wait_until_alone(&last).await;
        History::of(lines).judge(&last).await;
        store.end(vec![last]).await;
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Waits until all other members have been declared dead.
async fn wait_until_alone(engine: &Engine) {
    let env = Env::real().unwrap();
    let waiting = env.deadline(PATIENCE, async {
        while engine.members().await.unwrap().0.len() > 1 {
            env.sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waiting.await.is_some(), "{:?}", engine.members().await);
}

/// Everything that all members have reported.
#[derive(Default)]
struct History {
    begun: BTreeMap<u64, (String, Action)>,
    acknowledged: BTreeMap<u64, Option<u64>>,
    refused: BTreeSet<u64>,
}

impl History {
    fn of(lines: Vec<Line>) -> Self {
        let mut history = Self::default();
        for line in lines {
            match line {
                Line::Begin {
                    number,
                    key,
                    action,
                } => drop(history.begun.insert(number, (key, action))),
                Line::Ack { number, value } => drop(history.acknowledged.insert(number, value)),
                Line::Refused { number } => drop(history.refused.insert(number)),
                Line::Fault { what } => panic!("{what}"),
                Line::Open | Line::Half | Line::Ended { .. } | Line::Reopened => {}
            }
        }
        history
    }

    /// Returns the operations of a kind on a key.
    fn of_kind(&self, key: &str, action: Action) -> impl Iterator<Item = u64> {
        let of_kind = self
            .begun
            .iter()
            .filter(move |(_, begun)| begun.0 == key && begun.1 == action);
        of_kind.map(|(number, _)| *number)
    }

    /// Returns the versions or counts that acknowledged operations have reported, with their numbers.
    fn values(&self, key: &str, action: Action) -> BTreeMap<u64, u64> {
        let mut values = BTreeMap::new();
        for number in self.of_kind(key, action) {
            if let Some(value) = self.acknowledged.get(&number).copied().flatten() {
                let other = values.insert(value, number);
                assert_eq!(
                    other, None,
                    "{key}: {value} was acknowledged twice, to {number}"
                );
            }
        }
        values
    }

    async fn judge(&self, engine: &Engine) {
        println!(
            "operations: begun={} acknowledged={} refused={}",
            self.begun.len(),
            self.acknowledged.len(),
            self.refused.len()
        );
        for hot in 0..HOT_KEYS {
            self.judge_object(engine, &format!("hot/{hot}"), Action::Put)
                .await;
        }
        let first = self.judge_object(engine, PAIR[0], Action::Pair).await;
        assert_eq!(number(engine, PAIR[1]).await, first, "a batch is whole");
        self.judge_counter(engine).await;
        let places = engine.list("place/").await.unwrap().entries;
        assert_eq!(places.len(), 1, "{places:?}");
    }

    /// Checks the last state of an object, and returns the operation that has written it.
    async fn judge_object(&self, engine: &Engine, key: &str, action: Action) -> Option<u64> {
        let versions = self.values(key, action);
        let Some(head) = engine.head(key).await.unwrap() else {
            let is_deleted = self.of_kind(key, Action::Delete).next().is_some();
            assert!(is_deleted || versions.is_empty(), "{key} is lost");
            return None;
        };
        let version = head.version.unwrap().get();
        let last = number(engine, key).await.expect("nobody else writes");
        match versions.last_key_value() {
            Some((newest, by)) if *newest == version => assert_eq!(last, *by, "{key}"),
            // A killed member has written it, or a later delete and put.
            Some((newest, _)) => assert!(*newest < version, "{key}: version {newest} is lost"),
            None => {}
        }
        assert!(
            self.of_kind(key, action).any(|number| number == last),
            "{key}"
        );
        assert!(!self.refused.contains(&last), "{key}: {last} was refused");
        Some(last)
    }

    async fn judge_counter(&self, engine: &Engine) {
        let counts = self.values(COUNTER, Action::Count);
        let last = number(engine, COUNTER).await.expect("it was counted");
        let newest = counts.last_key_value().map_or(0, |(count, _)| *count);
        assert!(newest <= last, "count {newest} of {last} is lost");
        let unknown = self.of_kind(COUNTER, Action::Count).filter(|number| {
            !self.acknowledged.contains_key(number) && !self.refused.contains(number)
        });
        let unknown = unknown.count() as u64;
        let acknowledged = counts.len() as u64;
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&last),
            "counted {last} times, acknowledged {acknowledged}, unknown {unknown}"
        );
    }
}

/// Returns the operation that has written an object.
async fn number(engine: &Engine, key: &str) -> Option<u64> {
    let object = engine.get(key).await.unwrap()?;
    let bytes = object.bytes().await.unwrap();
    Some(number_of(&bytes).unwrap_or_else(|| panic!("wrong bytes of {key}")))
}

#[test]
fn stopped_member_writes_nothing_after_it_was_declared_dead() {
    if is_member().is_some() {
        return;
    }
    let runtime = runtime();
    let Some(store) = runtime.block_on(SharedStore::start()) else {
        return;
    };
    let orders = Orders {
        url: store.url(),
        data: store.directory.path().to_owned(),
        process: 1,
        seed: 0,
        work: Work::SlowPut,
    };
    let test = "members::processes::stopped_member_writes_nothing_after_it_was_declared_dead";
    let env = runtime.block_on(async { Env::real().unwrap() });
    let mut stopped = Process::start(&env, test, &orders);
    stopped.wait_for(|line| *line == Line::Half);
    stopped.signal("-STOP");
    let witness = runtime.block_on(store.member());
    runtime.block_on(async {
        wait_until_alone(&witness).await;
        // Its change is fenced and its blob swept while it is stopped.
        store.assert_settled(&witness).await;
    });
    stopped.signal("-CONT");
    stopped
        .child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"\n")
        .unwrap();
    let ended = stopped.wait_for(|line| matches!(line, Line::Ended { .. }));
    let Line::Ended { error, health } = ended else {
        unreachable!("it was waited for");
    };
    let [error, health] = [error, health].map(|text| text.expect("it has failed"));
    assert!(error.contains("nothing was committed"), "{error}");
    assert!(health.contains("declared this one dead"), "{health}");
    stopped.wait_for(|line| *line == Line::Reopened);
    assert!(stopped.child.wait().unwrap().success());
    runtime.block_on(async {
        assert!(witness.get("slow").await.unwrap().is_none());
        assert!(witness.get("reopened").await.unwrap().is_some());
        // The blob that it has finished after its death is gone, too.
        store.end(vec![witness]).await;
    });
}
