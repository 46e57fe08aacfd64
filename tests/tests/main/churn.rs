//! I12: space in use is bounded by live data, while objects are overwritten and after all are
//! deleted, without a reopen.
//!
//! `CENOTAPH_CHURN_MIB` sets the live bytes; ten times as many are overwritten. 1,000 is the long
//! run, for a quiet machine: it also bounds the space while objects are overwritten.

use std::path::Path;
use std::time::Duration;

use cenotaph::{Config, Engine, Env};
use cenotaph_tests::store::payload;
use futures::{StreamExt, TryStreamExt};

const MIB: u64 = 1024 * 1024;
const PAYLOAD_BYTES: usize = 64 * 1024;
/// Overhead that does not depend on live data: the reserve, fjall's journals, dead bytes that cause
/// no collection, heads of the payload log.
const FIXED: u64 = 64 * MIB;

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

/// Waits until the directory takes at most `most` bytes, or for 60 s. Returns its bytes.
async fn settled(env: &Env, dir: &Path, most: u64) -> u64 {
    for _ in 0..600 {
        if taken(dir) <= most {
            break;
        }
        env.sleep(Duration::from_millis(100)).await;
    }
    taken(dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_follows_live_data_without_a_reopen() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::real().unwrap();
    let engine = Engine::builder(directory.path())
        .config(Config::default())
        .open()
        .await
        .unwrap();
    let objects = live_mib() * MIB / PAYLOAD_BYTES as u64;
    let put = async |number: u64, generation: u64| {
        let body = payload(number + generation * objects, PAYLOAD_BYTES);
        engine.put(format!("k{number}"), body).await.map(drop)
    };
    let mut peak = 0;
    for generation in 0..11_u64 {
        // Each round in a different order: 7919 is a prime, and no divisor of the count.
        let numbers = (0..objects).map(|at| (at * 7919 + generation * 13) % objects);
        futures::stream::iter(numbers.map(|number| put(number, generation)))
            .map(Ok::<_, cenotaph::Error>)
            .try_for_each_concurrent(16, |put| put)
            .await
            .unwrap();
        peak = peak.max(taken(directory.path()));
    }
    let live = objects * PAYLOAD_BYTES as u64;
    let quiet = settled(&env, directory.path(), live * 3 / 2 + FIXED).await;
    println!("live={live} peak={peak} quiet={quiet}");
    // On a busy machine writers may outrun the collection for a while.
    if std::env::var_os("CENOTAPH_CHURN_MIB").is_some() {
        assert!(peak <= live * 2 + FIXED, "live={live} peak={peak}");
    }
    assert!(quiet <= live * 3 / 2 + FIXED, "live={live} quiet={quiet}");
    for number in 0..objects {
        let object = engine.get(format!("k{number}")).await.unwrap().unwrap();
        let expected = payload(number + 10 * objects, PAYLOAD_BYTES);
        assert_eq!(object.bytes().await.unwrap(), expected);
    }
    engine.delete_prefix("k").await.unwrap();
    let empty = settled(&env, directory.path(), FIXED).await;
    println!("empty={empty}");
    assert!(empty <= FIXED, "empty={empty}");
    engine.close().await.unwrap();
}
