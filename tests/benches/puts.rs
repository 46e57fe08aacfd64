//! Cost of a durable 4 KiB put with 1, 16 and 64 concurrent clients.
//!
//! Four contenders take turns in each of five rounds, so that a drift of the machine's speed
//! affects all of them; medians are printed. Compare the ratios, not the figures: `raw` is the
//! speed of the disk for a single appender, `fjall each` syncs every write, `committer` is the
//! smallest group commit over bare fjall, and `cenotaph` is the engine.

#![expect(clippy::disallowed_methods, reason = "a bench measures the real world")]
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cenotaph::Engine;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tokio::sync::oneshot;

const PAYLOAD_BYTES: usize = 4096;
const ROUNDS: usize = 5;
const CONTENDERS: [&str; 4] = ["raw", "fjall each", "committer", "cenotaph"];

/// Result of one run of a contender.
#[derive(Clone, Default)]
struct Run {
    puts_per_s: f64,
    syncs_per_s: f64,
    p50_us: f64,
    p99_us: f64,
}

fn main() {
    let seconds = std::env::var("CENOTAPH_BENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1.0);
    let length = Duration::from_secs_f64(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!(
        "durable puts of {PAYLOAD_BYTES} bytes, median of {ROUNDS} interleaved rounds of \
         {seconds} s"
    );
    for clients in [1, 16, 64] {
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); CONTENDERS.len()];
        for _ in 0..ROUNDS {
            let directories: Vec<_> = CONTENDERS
                .iter()
                .map(|_| tempfile::tempdir().unwrap())
                .collect();
            runs[0].push(raw(directories[0].path(), length));
            runs[1].push(fjall_each(directories[1].path(), clients, length));
            runs[2].push(runtime.block_on(committer(directories[2].path(), clients, length)));
            runs[3].push(runtime.block_on(cenotaph(directories[3].path(), clients, length)));
        }
        report(clients, &runs);
    }
}

fn report(clients: usize, runs: &[Vec<Run>]) {
    println!("\n{clients:>3} at once     puts/s    syncs/s     p50 us     p99 us");
    let medians: Vec<Run> = runs.iter().map(|runs| median_run(runs)).collect();
    for (name, run) in CONTENDERS.iter().zip(&medians) {
        println!(
            "{name:<12} {:>9.0} {:>10.0} {:>10.0} {:>10.0}",
            run.puts_per_s, run.syncs_per_s, run.p50_us, run.p99_us
        );
    }
    let ratio = |a: usize, b: usize, of: fn(&Run) -> f64| {
        let mut ratios: Vec<f64> = runs[a]
            .iter()
            .zip(&runs[b])
            .map(|(a, b)| of(a) / of(b))
            .collect();
        median(&mut ratios)
    };
    println!(
        "cenotaph / committer: {:.2} of the puts/s; cenotaph / fjall each: {:.2} of the puts/s, \
         {:.2} of the p50",
        ratio(3, 2, |run| run.puts_per_s),
        ratio(3, 1, |run| run.puts_per_s),
        ratio(3, 1, |run| run.p50_us),
    );
}

fn median_run(runs: &[Run]) -> Run {
    let of = |field: fn(&Run) -> f64| median(&mut runs.iter().map(field).collect::<Vec<_>>());
    Run {
        puts_per_s: of(|r| r.puts_per_s),
        syncs_per_s: of(|r| r.syncs_per_s),
        p50_us: of(|r| r.p50_us),
        p99_us: of(|r| r.p99_us),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn summarize(mut latencies: Vec<Duration>, syncs: u64, elapsed: Duration) -> Run {
    latencies.sort_unstable();
    let at =
        |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let seconds = elapsed.as_secs_f64();
    Run {
        puts_per_s: latencies.len() as f64 / seconds,
        syncs_per_s: syncs as f64 / seconds,
        p50_us: at(0.5),
        p99_us: at(0.99),
    }
}

fn raw(directory: &Path, length: Duration) -> Run {
    let mut file = std::fs::File::create(directory.join("log")).unwrap();
    let payload = [7u8; PAYLOAD_BYTES];
    let begun = Instant::now();
    let mut latencies = Vec::new();
    while begun.elapsed() < length {
        let put = Instant::now();
        file.write_all(&payload).unwrap();
        file.sync_data().unwrap();
        latencies.push(put.elapsed());
    }
    let syncs = latencies.len() as u64;
    summarize(latencies, syncs, begun.elapsed())
}

/// Returns a database that has been closed and opened again, as a service has it after its first
/// start. fjall preallocates its first journal and truncates it at the next open. Later syncs are
/// slower after that, and a fresh database would hide this cost.
fn database(directory: &Path) -> (Database, Keyspace) {
    let open = || {
        let database = Database::builder(directory.join("fjall"))
            .worker_threads(2)
            .open()
            .unwrap();
        let keyspace = database
            .keyspace("rows", KeyspaceCreateOptions::default)
            .unwrap();
        (database, keyspace)
    };
    drop(open());
    open()
}

fn fjall_each(directory: &Path, clients: usize, length: Duration) -> Run {
    let (database, keyspace) = database(directory);
    let begun = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let database = database.clone();
            let keyspace = keyspace.clone();
            std::thread::spawn(move || {
                let payload = [7u8; PAYLOAD_BYTES];
                let mut latencies = Vec::new();
                while begun.elapsed() < length {
                    let put = Instant::now();
                    let mut batch = database.batch().durability(Some(PersistMode::SyncData));
                    batch.insert(&keyspace, format!("{client}/{}", latencies.len()), payload);
                    batch.commit().unwrap();
                    latencies.push(put.elapsed());
                }
                latencies
            })
        })
        .collect();
    let latencies: Vec<_> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    let syncs = latencies.len() as u64;
    summarize(latencies, syncs, begun.elapsed())
}

type Waiting = (String, bytes::Bytes, oneshot::Sender<()>);

async fn committer(directory: &Path, clients: usize, length: Duration) -> Run {
    let (database, keyspace) = database(directory);
    let (sender, receiver) = mpsc::channel::<Waiting>();
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&syncs);
    let thread = std::thread::spawn(move || {
        while let Ok(first) = receiver.recv() {
            let mut batch = database.batch().durability(Some(PersistMode::SyncData));
            let mut waiting = Vec::new();
            for (key, payload, done) in std::iter::once(first).chain(receiver.try_iter()) {
                batch.insert(&keyspace, key, payload);
                waiting.push(done);
            }
            batch.commit().unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            for done in waiting {
                let _ = done.send(());
            }
        }
    });
    let run = drive(clients, length, move |key, payload| {
        let sender = sender.clone();
        async move {
            let (done, durable) = oneshot::channel();
            sender.send((key, payload, done)).unwrap();
            durable.await.unwrap();
        }
    })
    .await;
    thread.join().unwrap();
    summarize(run.0, syncs.load(Ordering::Relaxed), run.1)
}

async fn cenotaph(directory: &Path, clients: usize, length: Duration) -> Run {
    let engine = Engine::builder(directory).open().await.unwrap();
    let before = engine.stats().await.unwrap().index.syncs;
    let putter = engine.clone();
    let run = drive(clients, length, move |key, payload| {
        let put = putter.put(key, payload);
        async move {
            put.await.unwrap();
        }
    })
    .await;
    let syncs = engine.stats().await.unwrap().index.syncs - before;
    engine.close().await.unwrap();
    summarize(run.0, syncs, run.1)
}

/// Runs `clients` tasks that each put a payload after another until `length` has passed.
async fn drive<F>(
    clients: usize,
    length: Duration,
    put: impl Fn(String, bytes::Bytes) -> F + Clone + Send + 'static,
) -> (Vec<Duration>, Duration)
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    let payload = bytes::Bytes::from_static(&[7u8; PAYLOAD_BYTES]);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let put = put.clone();
            let payload = payload.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while begun.elapsed() < length {
                    let started = Instant::now();
                    put(format!("{client}/{}", latencies.len()), payload.clone()).await;
                    latencies.push(started.elapsed());
                }
                latencies
            })
        })
        .collect();
    drop(put);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    (latencies, begun.elapsed())
}
