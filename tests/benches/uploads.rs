//! What a completion costs, of 1, 100 and 10,000 parts; and what it costs, or gains, to cut a large put into several blobs on a
//! local disk.
//!
//! All contenders take turns in each of five rounds, so that a machine whose speed drifts is the same for all; medians are
//! printed. Read the ratios, not the figures.

#![expect(clippy::disallowed_methods, reason = "a bench measures the real world")]
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cenotaph::{Body, Config, Engine, Operator, SplitLimits};
use futures::{StreamExt, TryStreamExt, stream};

const ROUNDS: usize = 5;
const PARTS: [u32; 3] = [1, 100, 10_000];
const MIB: u64 = 1024 * 1024;
const PUT_BYTES: u64 = 512 * MIB;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        completions().await;
        puts().await;
    });
}

async fn completions() {
    println!(
        "completion of an upload, median of {ROUNDS} interleaved rounds; the blob tier is memory, which it never asks"
    );
    let directory = tempfile::tempdir().unwrap();
    let blobs = Operator::new(opendal::services::Memory::default()).unwrap();
    let engine = Engine::builder(directory.path()).blobs(blobs).open().await.unwrap();
    let mut times: [Vec<Duration>; PARTS.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (parts, times) in PARTS.into_iter().zip(&mut times) {
            times.push(completion(&engine, parts).await);
        }
    }
    let medians = times.map(|mut times| median(&mut times));
    for (parts, time) in PARTS.into_iter().zip(&medians) {
        let (ms, each) = (time.as_secs_f64() * 1e3, time.as_secs_f64() * 1e6 / f64::from(parts));
        println!("{parts:>6} parts {ms:>9.2} ms {each:>9.2} us a part");
    }
    engine.close().await.unwrap();
}

/// Uploads so many small parts, and takes the time of their completion.
async fn completion(engine: &Engine, parts: u32) -> Duration {
    let upload = engine.multipart("k").await.unwrap();
    let uploads = stream::iter(1..=parts).map(|number| {
        let part = upload.part(number, number.to_be_bytes().to_vec());
        async move { part.await }
    });
    let mut listed: Vec<_> =
        uploads.buffer_unordered(64).map_ok(|part| (u32::from(part.number), part.etag)).try_collect().await.unwrap();
    listed.sort_unstable();
    let begun = Instant::now();
    upload.complete().parts(listed).await.unwrap();
    let took = begun.elapsed();
    engine.delete("k").await.unwrap();
    while engine.settle().await.unwrap() > 0 {}
    took
}

async fn puts() {
    println!("\nput of {} MiB to a local disk, median of {ROUNDS} interleaved rounds", PUT_BYTES / MIB);
    let contenders = [("one blob", u64::MAX, 1), ("split, 1 at once", MIB, 1), ("split, 4 at once", MIB, 4)];
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for ((_, over_bytes, at_once), times) in contenders.into_iter().zip(&mut times) {
            let directory = tempfile::tempdir().unwrap();
            times.push(put(directory.path(), SplitLimits { over_bytes, at_once, ..SplitLimits::default() }).await);
        }
    }
    let ratios = [1, 2].map(|contender| ratio(&times[0], &times[contender]));
    for ((name, ..), times) in contenders.into_iter().zip(&mut times) {
        println!("{name:<18} {:>7.0} MiB/s", (PUT_BYTES / MIB) as f64 / median(times).as_secs_f64());
    }
    println!("split / one blob: {:.2} of the MiB/s with 1 at once, {:.2} with 4", ratios[0], ratios[1]);
}

/// The time that a put takes with these limits.
async fn put(directory: &Path, split: SplitLimits) -> Duration {
    let mut config = Config::default();
    config.limits.split = split;
    let engine = Engine::builder(directory).config(config).open().await.unwrap();
    let chunk = Bytes::from(vec![7u8; 256 * 1024]);
    let chunks = stream::iter((0..PUT_BYTES / (256 * 1024)).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let begun = Instant::now();
    engine.put("k", Body::stream(chunks).promise(PUT_BYTES)).await.unwrap();
    let took = begun.elapsed();
    engine.close().await.unwrap();
    took
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The median of the ratios of two contenders' times, round by round.
fn ratio(a: &[Duration], b: &[Duration]) -> f64 {
    let mut ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}
