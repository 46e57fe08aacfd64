//! Cost of completing an upload of 1, 100 and 10,000 parts, compared with an S3 server (Ceph's
//! gateway, else moto; skipped with a message if neither is installed), and cost or gain of
//! splitting a large put into several blobs, on a local disk and on that server.
//!
//! All contenders take turns in each round, so that a drift of the machine's speed affects all of
//! them; medians are printed. Compare the ratios, not the figures. The server is called over HTTP,
//! keeps its data in memory and syncs nothing; Cenotaph is called in this process, and its
//! completion is durable on the disk of this machine.

#![expect(clippy::disallowed_methods, reason = "a bench measures the real world")]
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cenotaph::{Body, Config, Engine, Operator, SplitLimits};
use cenotaph_tests::servers::s3::S3;
use futures::{StreamExt, TryStreamExt, stream};

const ROUNDS: usize = 5;
/// Rounds with a server whose uploads take longer than [`SLOW`].
const ROUNDS_SLOW: usize = 3;
/// Limit over which finding the largest accepted upload makes a server slow.
const SLOW: Duration = Duration::from_secs(20);
const PARTS_MAX: u32 = 10_000;
const PARTS: [u32; 2] = [1, 100];
/// Concurrent requests to a server.
const AT_ONCE: usize = 8;
const MIB: u64 = 1024 * 1024;
const LOCAL_PUT_BYTES: u64 = 512 * MIB;
const REMOTE_PUT_BYTES: u64 = 64 * MIB;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let rival = Rival::start().await;
        let rival = rival
            .inspect_err(|error| println!("SKIPPED: no S3 server is installed: {error}"))
            .ok();
        completions(rival.as_ref()).await;
        if let Some(rival) = &rival {
            remote_puts(rival).await;
        }
        drop(rival);
        local_puts().await;
    });
}

/// An S3 server to compare with.
struct Rival {
    name: &'static str,
    server: S3,
    bucket: Operator,
}

const BUCKET: &str = "bucket";

impl Rival {
    /// Starts Ceph if it is installed, else moto. A part may be as small as a byte.
    async fn start() -> io::Result<Self> {
        let (name, server) = match S3::find_ceph() {
            Ok(()) => ("Ceph RGW", S3::ceph(1).await),
            Err(_) => ("moto", S3::moto(S3::find_moto()?, 1).await),
        };
        let bucket = server.bucket(BUCKET).await;
        Ok(Self {
            name,
            server,
            bucket,
        })
    }

    /// Uploads `parts` small parts and returns the time of their completion, or `None` if the
    /// server refuses it.
    async fn completion(&self, parts: u32) -> Option<Duration> {
        let server = &self.server;
        let key = "k";
        let upload = server.begin_upload(BUCKET, key).await;
        let uploads = stream::iter(1..=parts).map(|number| {
            let part =
                server.upload_part(BUCKET, key, &upload, number, number.to_be_bytes().to_vec());
            async move { (number, part.await) }
        });
        let mut listed: Vec<_> = uploads.buffer_unordered(AT_ONCE).collect().await;
        listed.sort_unstable();
        let begun = Instant::now();
        let answer = server.complete_upload(BUCKET, key, &upload, &listed).await;
        let took = begun.elapsed();
        // The answers of the servers differ; only a successful one has the etag of the object.
        let is_complete = answer.is_success() && answer.body.contains("<ETag>");
        if !is_complete {
            println!("{} refuses {parts} parts: {answer:?}", self.name);
            return None;
        }
        assert_eq!(
            self.bucket.stat(key).await.unwrap().content_length(),
            4 * u64::from(parts),
            "size of the completed object"
        );
        self.bucket.delete(key).await.unwrap();
        Some(took)
    }

    /// Returns the largest number of parts that the server accepts, found by halving (0 if it
    /// accepts none), and the time that this took.
    async fn most(&self) -> (u32, Duration) {
        let begun = Instant::now();
        let mut parts = PARTS_MAX;
        while parts > 0 && self.completion(parts).await.is_none() {
            parts /= 2;
        }
        (parts, begun.elapsed())
    }
}

/// Times of both for a number of parts. `theirs` is empty if the server does not accept as many.
struct Row {
    parts: u32,
    ours: Vec<Duration>,
    theirs: Vec<Duration>,
}

async fn completions(rival: Option<&Rival>) {
    let directory = tempfile::tempdir().unwrap();
    let blobs = Operator::new(opendal::services::Memory::default()).unwrap();
    let engine = Engine::builder(directory.path())
        .blobs(blobs)
        .open()
        .await
        .unwrap();
    let (most, looked) = match rival {
        Some(rival) => rival.most().await,
        None => (0, Duration::ZERO),
    };
    let rounds = if looked > SLOW { ROUNDS_SLOW } else { ROUNDS };
    let mut counts: Vec<u32> = PARTS
        .into_iter()
        .chain([most, PARTS_MAX])
        .filter(|&parts| parts > 0)
        .collect();
    counts.sort_unstable();
    counts.dedup();
    let row = |parts| Row {
        parts,
        ours: Vec::new(),
        theirs: Vec::new(),
    };
    let mut rows: Vec<Row> = counts.into_iter().map(row).collect();
    for _ in 0..rounds {
        for row in &mut rows {
            row.ours.push(completion(&engine, row.parts).await);
            if let Some(rival) = rival.filter(|_| row.parts <= most) {
                row.theirs.push(
                    rival
                        .completion(row.parts)
                        .await
                        .expect("the server has accepted more parts"),
                );
            }
        }
    }
    report(rival, rounds, &mut rows);
    engine.close().await.unwrap();
}

fn report(rival: Option<&Rival>, rounds: usize, rows: &mut [Row]) {
    println!(
        "completion of an upload, median of {rounds} interleaved rounds; the blob tier is memory \
         and is not used"
    );
    let theirs = rival.map_or("no server", |rival| rival.name);
    println!(
        "{:>6} parts {:>19} {:>30} {:>21}",
        "", "Cenotaph", theirs, "server / Cenotaph"
    );
    for Row {
        parts,
        ours,
        theirs,
    } in rows
    {
        let ratio = (!theirs.is_empty()).then(|| ratio(theirs, ours));
        let shown = |times: &mut [Duration]| {
            let time = median(times).as_secs_f64();
            format!(
                "{:>9.2} ms {:>9.2} us a part",
                time * 1e3,
                time * 1e6 / f64::from(*parts)
            )
        };
        match ratio {
            Some(ratio) => println!(
                "{parts:>6} parts {} {} {ratio:>12.2}",
                shown(ours),
                shown(theirs)
            ),
            None => println!("{parts:>6} parts {}", shown(ours)),
        }
    }
}

/// Uploads `parts` small parts and returns the time of their completion.
async fn completion(engine: &Engine, parts: u32) -> Duration {
    let upload = engine.multipart("k").await.unwrap();
    let uploads = stream::iter(1..=parts).map(|number| {
        let part = upload.part(number, number.to_be_bytes().to_vec());
        async move { part.await }
    });
    let mut listed: Vec<_> = uploads
        .buffer_unordered(64)
        .map_ok(|part| (u32::from(part.number), part.etag))
        .try_collect()
        .await
        .unwrap();
    listed.sort_unstable();
    let begun = Instant::now();
    upload.complete().parts(listed).await.unwrap();
    let took = begun.elapsed();
    engine.delete("k").await.unwrap();
    while engine.settle().await.unwrap() > 0 {}
    took
}

async fn local_puts() {
    println!(
        "\nput of {} MiB to a local disk, median of {ROUNDS} interleaved rounds",
        LOCAL_PUT_BYTES / MIB
    );
    let contenders = [
        ("one blob", u64::MAX, 1),
        ("split, 1 at once", MIB, 1),
        ("split, 4 at once", MIB, 4),
    ];
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for ((_, over_bytes, at_once), times) in contenders.into_iter().zip(&mut times) {
            let split = SplitLimits {
                over_bytes,
                at_once,
                ..SplitLimits::default()
            };
            times.push(put(None, split, LOCAL_PUT_BYTES).await);
        }
    }
    let ratios = [1, 2].map(|contender| ratio(&times[0], &times[contender]));
    for ((name, ..), times) in contenders.into_iter().zip(&mut times) {
        println!(
            "{name:<18} {:>7.0} MiB/s",
            mib_per_s(LOCAL_PUT_BYTES, times)
        );
    }
    println!(
        "split / one blob: {:.2} of the MiB/s with 1 at once, {:.2} with 4",
        ratios[0], ratios[1]
    );
}

async fn remote_puts(rival: &Rival) {
    let mib = REMOTE_PUT_BYTES / MIB;
    let name = rival.name;
    println!(
        "\nput of {mib} MiB to {name}, median of {ROUNDS_SLOW} interleaved rounds; a blob has 4 \
         requests at once"
    );
    let contenders = [("one blob", u64::MAX, 1), ("split, 4 at once", MIB, 4)];
    let mut times: [Vec<Duration>; 2] = Default::default();
    for round in 0..=ROUNDS_SLOW {
        for ((_, over_bytes, at_once), times) in contenders.into_iter().zip(&mut times) {
            let split = SplitLimits {
                over_bytes,
                at_once,
                part_bytes: REMOTE_PUT_BYTES / 4,
            };
            let took = put(Some(rival.bucket.clone()), split, REMOTE_PUT_BYTES).await;
            // Round 0 warms the server up and is not counted.
            times.extend((round > 0).then_some(took));
        }
    }
    let ratio = ratio(&times[0], &times[1]);
    for ((name, ..), times) in contenders.into_iter().zip(&mut times) {
        println!(
            "{name:<18} {:>7.0} MiB/s",
            mib_per_s(REMOTE_PUT_BYTES, times)
        );
    }
    println!("split / one blob: {ratio:.2} of the MiB/s");
}

/// Returns the time of a put with these limits to this blob tier, or to a local disk if `None`.
async fn put(blobs: Option<Operator>, split: SplitLimits, bytes: u64) -> Duration {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.limits.split = split;
    let builder = Engine::builder(directory.path()).config(config);
    let builder = match blobs {
        Some(blobs) => builder.blobs(blobs),
        None => builder,
    };
    let engine = builder.open().await.unwrap();
    let chunk = Bytes::from(vec![7u8; 256 * 1024]);
    let chunks =
        stream::iter((0..bytes / (256 * 1024)).map(move |_| Ok::<_, io::Error>(chunk.clone())));
    let begun = Instant::now();
    engine
        .put("k", Body::stream(chunks).promise(bytes))
        .await
        .unwrap();
    let took = begun.elapsed();
    engine.delete("k").await.unwrap();
    while engine.settle().await.unwrap() > 0 {}
    engine.close().await.unwrap();
    took
}

fn mib_per_s(bytes: u64, times: &mut [Duration]) -> f64 {
    (bytes / MIB) as f64 / median(times).as_secs_f64()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Returns the median of the ratios of two contenders, round by round.
fn ratio(a: &[Duration], b: &[Duration]) -> f64 {
    let mut ratios: Vec<f64> = a
        .iter()
        .zip(b)
        .map(|(a, b)| a.as_secs_f64() / b.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}
