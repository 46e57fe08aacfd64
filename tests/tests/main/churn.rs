//! I12: space in use is bounded by live data, while objects are overwritten and after all are
//! deleted, without a reopen.
//!
//! `CENOTAPH_CHURN_MIB` sets the live bytes; ten times as many are overwritten, each time in another
//! random order. 1,000 is the long run, for a quiet machine and without other tests in the process:
//! it also bounds the space at any time while objects are overwritten, and the written bytes.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use cenotaph::{Config, Engine, Env};
use cenotaph_tests::store::payload;
use futures::future::{Either, select};
use futures::{StreamExt, TryStreamExt};

use crate::crash::chance::Chance;

const MIB: u64 = 1024 * 1024;
const PAYLOAD_BYTES: usize = 64 * 1024;
/// Overhead that does not depend on live data: the reserve, fjall's journals, dead bytes that cause
/// no collection, heads of the payload log.
const FIXED: u64 = 64 * MIB;
/// Writes of each object.
const GENERATIONS: u64 = 11;
/// Written bytes per byte of payload.
const AMPLIFICATION_MAX: f64 = 1.3;
/// Interval between two measurements of the space.
const INTERVAL: Duration = Duration::from_millis(100);

fn live_mib() -> u64 {
    std::env::var("CENOTAPH_CHURN_MIB").map_or(24, |mib| {
        mib.parse().expect("CENOTAPH_CHURN_MIB is a number of MiB")
    })
}

/// Returns the allocated bytes of all files below a directory.
fn taken(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let allocated = |entry: std::io::Result<std::fs::DirEntry>| {
        // A file may be deleted between the listing and the call.
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() {
            taken(&entry.path())
        } else {
            metadata.blocks() * 512
        })
    };
    entries.filter_map(allocated).sum()
}

/// Returns the bytes that this process has caused to be written to disks, or 0 if the system does not
/// count them. A disk in memory does not count.
fn written() -> u64 {
    let counters = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = |line: &str| line.strip_prefix("write_bytes: ")?.trim().parse().ok();
    counters.lines().find_map(line).unwrap_or(0)
}

/// Returns the numbers below `count` in a random order.
fn shuffled(count: u64, chance: &mut Chance) -> Vec<u64> {
    let mut numbers: Vec<_> = (0..count).collect();
    for at in (1..numbers.len()).rev() {
        numbers.swap(at, chance.between(0, at));
    }
    numbers
}

/// Runs a load to its end. Returns the most bytes that the directory has taken meanwhile.
async fn peak_during(env: &Env, dir: &Path, load: impl Future<Output = ()>) -> u64 {
    let mut load = pin!(load);
    let mut peak = 0;
    loop {
        let pause = pin!(env.sleep(INTERVAL));
        let has_ended = matches!(select(&mut load, pause).await, Either::Left(_));
        peak = peak.max(taken(dir));
        if has_ended {
            return peak;
        }
    }
}

/// Waits until the directory takes at most `most` bytes, or for 60 s. Returns its bytes.
async fn settled(env: &Env, dir: &Path, most: u64) -> u64 {
    for _ in 0..600 {
        if taken(dir) <= most {
            break;
        }
        env.sleep(INTERVAL).await;
    }
    taken(dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_follows_live_data_without_a_reopen() {
    let objects = live_mib() * MIB / PAYLOAD_BYTES as u64;
    let measured = churn(objects, PAYLOAD_BYTES, GENERATIONS).await;
    // On a busy machine writers may outrun the collection for a while, and tests beside this one
    // write, too.
    if std::env::var_os("CENOTAPH_CHURN_MIB").is_some() {
        let most = objects * PAYLOAD_BYTES as u64 * 2 + FIXED;
        assert!(measured.peak <= most, "{measured:?} most={most}");
        assert!(measured.amplification <= AMPLIFICATION_MAX, "{measured:?}");
    }
}

/// Objects inside their rows, too few for a compaction by their number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_of_small_objects_follows_live_data_without_a_reopen() {
    churn(8_000, 4_000, 5).await;
}

/// What a churn has cost.
#[derive(Debug)]
struct Measured {
    /// Most bytes that the directory has taken during the writes.
    peak: u64,
    /// Written bytes per byte of payload, collections and compactions after the writes included.
    amplification: f64,
}

/// Overwrites and deletes objects. Asserts the bounds of the space at rest.
async fn churn(objects: u64, bytes: usize, generations: u64) -> Measured {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::real().unwrap();
    let engine = Engine::builder(directory.path())
        .config(Config::default())
        .open()
        .await
        .unwrap();
    let put = async |number: u64, generation: u64| {
        let body = payload(number + generation * objects, bytes);
        engine.put(format!("k{number}"), body).await.map(drop)
    };
    let mut chance = Chance::new(env.random_u64());
    let before = written();
    let mut peak = 0;
    for generation in 0..generations {
        let puts = shuffled(objects, &mut chance)
            .into_iter()
            .map(|number| put(number, generation));
        let load = async {
            futures::stream::iter(puts)
                .map(Ok::<_, cenotaph::Error>)
                .try_for_each_concurrent(16, |put| put)
                .await
                .unwrap();
        };
        peak = peak.max(peak_during(&env, directory.path(), load).await);
    }
    let live = objects * bytes as u64;
    let quiet = settled(&env, directory.path(), live * 3 / 2 + FIXED).await;
    let amplification = (written() - before) as f64 / (live * generations) as f64;
    let log = engine.stats().await.unwrap().payload_log.unwrap();
    let copied = log.copied_bytes;
    println!(
        "live={live} peak={peak} quiet={quiet} write_amplification={amplification:.3} copied={copied}"
    );
    assert!(quiet <= live * 3 / 2 + FIXED, "live={live} quiet={quiet}");
    for number in 0..objects {
        let object = engine.get(format!("k{number}")).await.unwrap().unwrap();
        let expected = payload(number + (generations - 1) * objects, bytes);
        assert_eq!(object.bytes().await.unwrap(), expected);
    }
    engine.delete_prefix("k").await.unwrap();
    let deleted = env.monotonic();
    let empty = settled(&env, directory.path(), FIXED).await;
    println!("empty={empty} after {:?}", env.monotonic() - deleted);
    assert!(empty <= FIXED, "empty={empty}");
    engine.close().await.unwrap();
    Measured {
        peak,
        amplification,
    }
}
