//! Runs operations by several tasks or threads for a while, and summarizes them as a [`Sample`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Figures of one run of a contender.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Processor time of the whole process per operation.
    pub(crate) cpu_us: f64,
    /// Bytes written to the disk per byte of payload, until the store is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) written: Option<f64>,
    /// Attempts per swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attempts: Option<f64>,
    /// Operations of the run.
    pub(crate) ops: u64,
}

/// End of a run: after a duration, or a number of operations.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) length: Duration,
    pub(crate) ops_max: u64,
}

/// A run in progress. Clones share it.
#[derive(Clone)]
struct Run {
    limit: Limit,
    begun: Instant,
    cpu_begun: Duration,
    started: Arc<AtomicU64>,
}

impl Run {
    fn begin(limit: Limit) -> Self {
        Self {
            limit,
            begun: Instant::now(),
            cpu_begun: cpu(),
            started: Arc::default(),
        }
    }

    /// Returns the number of the next operation, or `None` at the end of the run.
    fn next(&self) -> Option<u64> {
        if self.begun.elapsed() >= self.limit.length {
            return None;
        }
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        (number < self.limit.ops_max).then_some(number)
    }

    fn end(self, mut latencies: Vec<Duration>) -> Sample {
        let elapsed = self.begun.elapsed();
        let used = cpu() - self.cpu_begun;
        latencies.sort_unstable();
        let ops = latencies.len() as f64;
        let at = |share: f64| {
            let latency = latencies[((ops - 1.0) * share) as usize];
            latency.as_secs_f64() * 1e6
        };
        Sample {
            ops_per_s: ops / elapsed.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            cpu_us: used.as_secs_f64() * 1e6 / ops,
            written: None,
            attempts: None,
            ops: latencies.len() as u64,
        }
    }
}

/// Runs an operation after another in each of `tasks` tasks. The operation receives its number.
pub(crate) async fn by_tasks<F>(
    tasks: usize,
    limit: Limit,
    operation: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Sample
where
    F: Future<Output = ()> + Send + 'static,
{
    let run = Run::begin(limit);
    let started: Vec<_> = (0..tasks)
        .map(|_| {
            let run = run.clone();
            let operation = operation.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while let Some(number) = run.next() {
                    let begun = Instant::now();
                    operation(number).await;
                    latencies.push(begun.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in started {
        latencies.extend(task.await.expect("no operation fails"));
    }
    run.end(latencies)
}

/// Runs an operation after another in each of `threads` threads.
pub(crate) fn by_threads(threads: usize, limit: Limit, operation: impl Fn() + Sync) -> Sample {
    let run = Run::begin(limit);
    let latencies = std::thread::scope(|scope| {
        let work = || {
            let mut latencies = Vec::new();
            while run.next().is_some() {
                let begun = Instant::now();
                operation();
                latencies.push(begun.elapsed());
            }
            latencies
        };
        let started: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = started.into_iter().map(|thread| thread.join());
        joined
            .flat_map(|latencies| latencies.expect("no operation fails"))
            .collect()
    });
    run.end(latencies)
}

/// Returns the processor time that this process has used.
fn cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}
