//! Cost of durable 4 KiB puts on a shared index, by members and tasks, beside one SQL transaction for
//! each put; of a contended object; and of a page of a listing.
//!
//! All contenders use the same PostgreSQL server, which syncs its commits, and take turns in each of
//! three rounds; medians are printed. Members are engines of this process, and all compete with the
//! server for the processors of one machine: compare the ratios, not the figures.

#![expect(clippy::disallowed_methods, reason = "a bench measures the real world")]
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cenotaph::{Engine, PostgresOptions};
use cenotaph_tests::servers::postgres::{PostgresData, url};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

const PAYLOAD_BYTES: usize = 4096;
const ROUNDS: usize = 3;
const TASKS: [usize; 4] = [1, 16, 64, 256];
const SETTINGS: &[&str] = &["max_connections=200"];

/// Result of one run of a contender.
#[derive(Clone, Default)]
struct Run {
    per_s: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Contenders, with the number of members; 0 for plain SQL.
const CONTENDERS: [(&str, usize); 4] = [
    ("one SQL transaction per put", 0),
    ("1 member", 1),
    ("2 members", 2),
    ("3 members", 3),
];

fn main() {
    let seconds = std::env::var("CENOTAPH_BENCH_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2.0);
    let length = Duration::from_secs_f64(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let data = PostgresData::new().expect("PostgreSQL is installed");
        let server = data.start(SETTINGS).await;
        let url = url(server.port());
        println!("puts of {PAYLOAD_BYTES} bytes, median of {ROUNDS} rounds of {seconds} s");
        println!("| tasks | contender | puts/s | p50 us | p99 us |\n|---|---|---|---|---|");
        for tasks in TASKS {
            measure(tasks, async |members| match members {
                0 => sql(&url, tasks, length).await,
                _ => puts(&url, members, tasks, length, false).await,
            })
            .await;
        }
        println!("\nputs of one object, 16 tasks");
        println!("| tasks | contender | puts/s | p50 us | p99 us |\n|---|---|---|---|---|");
        measure(16, async |members| match members {
            0 => Run::default(),
            _ => puts(&url, members, 16, length, true).await,
        })
        .await;
        list(&url).await;
    });
}

async fn measure(tasks: usize, run: impl AsyncFn(usize) -> Run) {
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); CONTENDERS.len()];
    for _ in 0..ROUNDS {
        for (contender, (_, members)) in runs.iter_mut().zip(CONTENDERS) {
            contender.push(run(members).await);
        }
    }
    for (runs, (name, _)) in runs.into_iter().zip(CONTENDERS) {
        let median = |of: fn(&Run) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (per_s, p50, p99) = (
            median(|run| run.per_s),
            median(|run| run.p50_us),
            median(|run| run.p99_us),
        );
        if per_s > 0.0 {
            println!("| {tasks} | {name} | {per_s:.0} | {p50:.0} | {p99:.0} |");
        }
    }
}

/// Opens members of a new store.
async fn open(url: &str, members: usize) -> (TempDir, Vec<Engine>) {
    static STORES: AtomicU64 = AtomicU64::new(0);
    let directory = tempfile::tempdir().unwrap();
    let options = PostgresOptions {
        schema: format!("bench{}", STORES.fetch_add(1, Ordering::Relaxed)),
        ..PostgresOptions::default()
    };
    let mut engines = Vec::new();
    for _ in 0..members {
        let builder = Engine::builder(directory.path()).shared_with(url, options.clone());
        engines.push(builder.open().await.unwrap());
    }
    (directory, engines)
}

async fn puts(url: &str, members: usize, tasks: usize, length: Duration, is_hot: bool) -> Run {
    let (_directory, engines) = open(url, members).await;
    let payload = vec![7; PAYLOAD_BYTES];
    let put = Arc::new(move |task: usize, number: u64| {
        let engine = engines[task % engines.len()].clone();
        let key = if is_hot {
            "hot".to_owned()
        } else {
            format!("{task}/{number}")
        };
        let payload = payload.clone();
        async move {
            engine.put(key, payload).await.unwrap();
        }
    });
    timed(tasks, length, put).await
}

async fn sql(url: &str, tasks: usize, length: Duration) -> Run {
    // As many connections as a pool would have.
    let mut clients = Vec::new();
    for _ in 0..tasks.min(64) {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        clients.push(Arc::new(client));
    }
    let table = "CREATE TABLE IF NOT EXISTS plain (key TEXT PRIMARY KEY, value BYTEA NOT NULL); TRUNCATE plain";
    clients[0].batch_execute(table).await.unwrap();
    let insert = "INSERT INTO plain VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2";
    let payload = vec![7_u8; PAYLOAD_BYTES];
    let put = Arc::new(move |task: usize, number: u64| {
        let client = Arc::clone(&clients[task % clients.len()]);
        let payload = payload.clone();
        async move {
            let statement = client.prepare(insert).await.unwrap();
            let key = format!("{task}/{number}");
            client.execute(&statement, &[&key, &payload]).await.unwrap();
        }
    });
    timed(tasks, length, put).await
}

/// Runs puts by this many tasks.
async fn timed<F>(
    tasks: usize,
    length: Duration,
    put: Arc<impl Fn(usize, u64) -> F + Send + Sync + 'static>,
) -> Run
where
    F: Future<Output = ()> + Send,
{
    let began = Instant::now();
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let put = Arc::clone(&put);
        running.spawn(async move {
            let mut times = Vec::new();
            while began.elapsed() < length {
                let before = Instant::now();
                put(task, times.len() as u64).await;
                times.push(before.elapsed());
            }
            times
        });
    }
    let mut times: Vec<Duration> = running.join_all().await.into_iter().flatten().collect();
    let took = began.elapsed();
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    Run {
        per_s: times.len() as f64 / took.as_secs_f64(),
        p50_us: at(50),
        p99_us: at(99),
    }
}

/// Measures pages of a listing of 10,000 objects.
async fn list(url: &str) {
    let (_directory, engines) = open(url, 1).await;
    let engine = &engines[0];
    let mut running = JoinSet::new();
    for number in 0..10_000 {
        let engine = engine.clone();
        running.spawn(async move { drop(engine.put(format!("{number:05}"), "small").await) });
    }
    running.join_all().await;
    let mut times = Vec::new();
    for _ in 0..50 {
        let before = Instant::now();
        let page = engine.list("").limit(1000).await.unwrap();
        assert_eq!(page.entries.len(), 1000);
        times.push(before.elapsed());
    }
    times.sort();
    println!(
        "\npage of 1,000 of 10,000 objects: p50 {:.1} ms",
        times[25].as_secs_f64() * 1e3
    );
}
