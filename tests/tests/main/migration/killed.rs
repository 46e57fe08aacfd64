//! A tree of files is served through the fallback while writers and a migration run, and the
//! process is killed with SIGKILL ten times. The last process seals, and the source is removed.
//!
//! ```text
//! key % 5    0 to 3: its writer puts, updates and deletes it    4: only read, always as in the tree
//! lines      begin KEY STATE .. done KEY STATE                  STATE: a text, or `-` if deleted
//! ```
//!
//! A writer has one operation at a time, so that a kill leaves at most one per writer unknown.
//! `CENOTAPH_MIGRATION_FILES` sets the number of files, `CENOTAPH_MIGRATION_SEED` the seed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use cenotaph::{Engine, Env, Error, ErrorKind, Update};
use serde::{Deserialize, Serialize};

use super::files;
use crate::crash::chance::Chance;
use crate::crash::env_number;

const ORDERS: &str = "CENOTAPH_MIGRATION_ORDERS";
const TEST: &str = "migration::killed::killed_migrations_lose_nothing_and_return_nothing";
const KILLS: u64 = 10;
const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);
const DELETED: &str = "-";

#[derive(Clone, Serialize, Deserialize)]
struct Orders {
    directory: std::path::PathBuf,
    files: usize,
    seed: u64,
    /// Rate of the migration, in bytes per second. Without it the migration runs to the seal.
    rate: Option<u64>,
}

fn key(number: usize) -> String {
    format!("d{:02}/{number:06}", number % 40)
}

fn original(number: usize) -> String {
    // Some files are large enough for the payload log.
    let bytes = if number % 50 == 3 { 6000 } else { 200 };
    format!("{number:>bytes$}")
}

#[test]
fn killed_migrations_lose_nothing_and_return_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Ok(orders) = std::env::var(ORDERS) {
        return runtime.block_on(serve(serde_json::from_str(&orders).unwrap()));
    }
    let number = |name| env_number(name);
    let files =
        number("CENOTAPH_MIGRATION_FILES").map_or(2500, |files| usize::try_from(files).unwrap());
    let seed = number("CENOTAPH_MIGRATION_SEED")
        .unwrap_or_else(|| runtime.block_on(async { Env::real().unwrap().random_u64() }));
    println!("CENOTAPH_MIGRATION_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    let mut chance = Chance::new(seed);
    let mut model = Model::new(files, &directory.path().join("old"));
    // The files that no writer takes from the migration.
    let unwritten = (0..files).filter(|number| number % 5 == WRITERS);
    let bytes: usize = unwritten.map(|number| original(number).len()).sum();
    for kill in 0..=KILLS {
        let is_last = kill == KILLS;
        let orders = Orders {
            directory: directory.path().to_owned(),
            files,
            seed: chance.number(),
            // The killed processes run for 7.5 s at most in all. They cannot move all of these bytes
            // in that time, so that none of them seals, however fast the disk is.
            rate: (!is_last).then_some(bytes as u64 / 20),
        };
        let delay = Duration::from_millis(50 + chance.below(700));
        run(&orders, (!is_last).then_some(delay), &mut model);
    }
    assert!(model.is_sealed);
    assert!(model.operations > 200, "operations={}", model.operations);
    std::fs::remove_dir_all(directory.path().join("old")).unwrap();
    runtime.block_on(model.judge(directory.path()));
    println!(
        "{} files, {KILLS} kills, {} operations",
        files, model.operations
    );
}

/// States that each key may have.
struct Model {
    states: BTreeMap<String, Vec<String>>,
    operations: usize,
    is_sealed: bool,
}

impl Model {
    fn new(files: usize, root: &Path) -> Self {
        let mut states = BTreeMap::new();
        for number in 0..files {
            let path = root.join(key(number));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, original(number)).unwrap();
            states.insert(key(number), vec![original(number)]);
        }
        Self {
            states,
            operations: 0,
            is_sealed: false,
        }
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // An operation without an answer may have committed.
            ["begin", key, state] => self.states.get_mut(key).unwrap().push(state.to_owned()),
            ["done", key, state] => {
                self.operations += 1;
                self.states.insert(key.to_owned(), vec![state.to_owned()]);
            }
            ["sealed"] => self.is_sealed = true,
            // A line of the test harness, or one that says that the store is open.
            _ => {}
        }
    }

    async fn judge(&self, directory: &Path) {
        let engine = Engine::builder(directory.join("new")).open().await.unwrap();
        for (key, states) in &self.states {
            let found = read(&engine, key).await;
            assert!(
                states.contains(&found),
                "key={key} found={found:?} expected={states:?}"
            );
        }
        let report = engine.scrub().await.unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        engine.close().await.unwrap();
    }
}

async fn read(engine: &Engine, key: &str) -> String {
    match engine.get(key).await.unwrap() {
        Some(object) => String::from_utf8(object.bytes().await.unwrap().to_vec()).unwrap(),
        None => DELETED.to_owned(),
    }
}

/// Process that is killed when this value is dropped.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a process, and kills it this long after its store is open. Without a delay it ends itself.
fn run(orders: &Orders, delay: Option<Duration>, model: &mut Model) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(ORDERS, serde_json::to_string(orders).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut victim = Victim(child);
    let stdout = victim.0.stdout.take().unwrap();
    std::thread::scope(|scope| {
        let (sender, lines) = mpsc::channel();
        scope.spawn(move || {
            let lines = BufReader::new(stdout).lines();
            lines
                .map_while(Result::ok)
                .all(|line| sender.send(line).is_ok())
        });
        while let Ok(line) = lines.recv_timeout(PATIENCE) {
            model.line(&line);
            if line == "open"
                && let Some(delay) = delay
            {
                pause(delay);
                assert_eq!(victim.0.try_wait().unwrap(), None, "it ended by itself");
                victim.0.kill().unwrap();
            }
        }
        let status = victim.0.wait().unwrap();
        assert_eq!(status.success(), delay.is_none(), "{status}");
        assert_eq!(model.is_sealed, delay.is_none());
    });
}

#[expect(
    clippy::disallowed_methods,
    reason = "the moment of the kill is random; nothing is waited for"
)]
fn pause(delay: Duration) {
    std::thread::sleep(delay);
}

/// Prints a line as a single write, which arrives whole or not at all.
fn say(line: &str) {
    let line = format!("\n{line}\n");
    std::io::stdout()
        .lock()
        .write_all(line.as_bytes())
        .expect("the test reads the pipe");
}

/// The process: writers, a reader and a migration on one engine.
async fn serve(orders: Orders) {
    let fallback = files(&orders.directory.join("old"));
    let builder = Engine::builder(orders.directory.join("new")).fallback(fallback);
    let engine = builder.open().await.unwrap();
    say("open");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        tasks.spawn(write(
            engine.clone(),
            orders.clone(),
            writer,
            stopped.clone(),
        ));
    }
    tasks.spawn(observe(engine.clone(), orders.clone(), stopped));
    let mut migration = engine.migrate().objects_at_once(4);
    if let Some(rate) = orders.rate {
        migration = migration.bytes_per_second(rate);
    }
    let report = migration.await.unwrap();
    assert!(report.is_sealed, "{report:?}");
    say("sealed");
    stop.send(true).unwrap();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    engine.close().await.unwrap();
}

async fn write(
    engine: Engine,
    orders: Orders,
    writer: usize,
    stopped: tokio::sync::watch::Receiver<bool>,
) {
    let mut chance = Chance::new(orders.seed ^ (writer as u64 + 1));
    let mut count = 0;
    while !*stopped.borrow() {
        // Often the same keys, so that their changes follow each other.
        let range = if chance.below(2) == 0 {
            50
        } else {
            orders.files as u64 / 5
        };
        let number = usize::try_from(chance.below(range)).unwrap() * 5 + writer;
        if number >= orders.files {
            continue;
        }
        let key = key(number);
        count += 1;
        let state = format!("{:x}.{writer}.{count}", orders.seed);
        match chance.below(3) {
            0 => {
                say(&format!("begin {key} {DELETED}"));
                engine.delete(&*key).await.unwrap();
                say(&format!("done {key} {DELETED}"));
            }
            1 => {
                say(&format!("begin {key} {state}"));
                engine.put(&*key, state.clone()).await.unwrap();
                say(&format!("done {key} {state}"));
            }
            _ => {
                say(&format!("begin {key} {state}"));
                // No other writer changes the key, but the migration may move it in between.
                while let Err(error) = update(&engine, &key, &state).await {
                    assert!(
                        matches!(error.kind(), ErrorKind::Conflict { .. }),
                        "{error}"
                    );
                }
                say(&format!("done {key} {state}"));
            }
        }
        assert!(
            [state.as_str(), DELETED].contains(&read(&engine, &key).await.as_str()),
            "{key}"
        );
    }
}

async fn update(engine: &Engine, key: &str, state: &str) -> Result<(), Error> {
    let updated = engine.update(key, |object| async move {
        if let Some(object) = object {
            object.bytes().await?;
        }
        Ok::<_, Error>(Update::put(state.to_owned()))
    });
    updated.await.map(drop)
}

/// Reads objects that nobody writes: each is always there.
async fn observe(engine: Engine, orders: Orders, stopped: tokio::sync::watch::Receiver<bool>) {
    let mut chance = Chance::new(orders.seed ^ 77);
    while !*stopped.borrow() {
        let number = usize::try_from(chance.below(orders.files as u64 / 5)).unwrap() * 5 + 4;
        if number < orders.files {
            assert_eq!(read(&engine, &key(number)).await, original(number));
        }
    }
}
