//! Durable puts of new objects.

use std::time::Duration;

use tokio::runtime::Runtime;

use crate::contenders::Contender;
use crate::disk::{Scratch, written_bytes};
use crate::drive::{self, Limit, Sample};
use crate::options::{Options, Workload};
use crate::payloads::Payloads;
use crate::results::Report;
use crate::rotated;

/// Measures one size by each number of tasks. Every run has a store of its own.
pub(crate) fn measure(
    options: &Options,
    runtime: &Runtime,
    scratch: &Scratch,
    bytes: usize,
    round: usize,
    report: &mut Report,
) {
    let payloads = Payloads::new();
    let limit = Limit {
        length: Duration::from_secs_f64(options.seconds),
        ops_max: options.run_mib_max * (1 << 20) / bytes as u64,
    };
    for (turn, &tasks) in options.put_tasks.iter().enumerate() {
        for contender in rotated(&options.contenders(), round + turn) {
            let dir = scratch.dir(contender.name());
            let run = run(contender, &dir, bytes, tasks, limit, payloads.clone());
            let sample = runtime.block_on(run);
            report.add(Workload::Puts, bytes, tasks, contender.name(), sample);
        }
        // Between the rounds of a cell, so that no contender pays for the removal of another.
        scratch.clear();
    }
}

async fn run(
    contender: Contender,
    dir: &std::path::Path,
    bytes: usize,
    tasks: usize,
    limit: Limit,
    payloads: Payloads,
) -> Sample {
    let store = contender.create(dir).await;
    let before = written_bytes();
    let putting = store.clone();
    let put = move |number| putting.put(format!("{number:012}"), payloads.of(number, bytes));
    let mut sample = drive::by_tasks(tasks, limit, put).await;
    store.close().await;
    sample.written = before.zip(written_bytes()).map(|(before, after)| {
        let payload = sample.ops * bytes as u64;
        (after - before) as f64 / payload as f64
    });
    sample
}
