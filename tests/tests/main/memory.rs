//! Peak memory of streaming, measured in a child process: the test runs itself again and reads the
//! peak from the kernel (`VmHWM`). Skipped with a message on systems other than Linux.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use cenotaph::{Body, Config, Engine};
use futures::stream;

const MIB: u64 = 1024 * 1024;
const CHILD: &str = "CENOTAPH_MEMORY_CHILD";
/// Time for which a stream waits for its share of memory.
const PATIENCE: Duration = Duration::from_secs(600);

/// Transfers of a child, and the limit on its memory above idle.
struct Load {
    objects: usize,
    object_mib: u64,
    in_flight_mib: usize,
    rise_max_mib: u64,
}

/// A single object of 1 GiB, written and read.
const ONE: Load = Load {
    objects: 1,
    object_mib: 1024,
    in_flight_mib: 256,
    rise_max_mib: 64,
};
/// 32 concurrent objects. The bytes in flight are bounded by 64 MiB each way; the rest of the limit
/// covers the index and the allocator.
const MANY: Load = Load {
    objects: 32,
    object_mib: 64,
    in_flight_mib: 64,
    rise_max_mib: 64 + 64,
};

#[test]
fn one_gibibyte_in_and_out_stays_under_64_mib_above_idle() {
    run(
        "one",
        &ONE,
        "memory::one_gibibyte_in_and_out_stays_under_64_mib_above_idle",
    );
}

#[test]
fn concurrent_streams_are_bounded_by_the_bytes_in_flight() {
    run(
        "many",
        &MANY,
        "memory::concurrent_streams_are_bounded_by_the_bytes_in_flight",
    );
}

/// In the child: streams and prints the memory. In the parent: runs the child and checks its peak.
fn run(name: &str, load: &Load, test: &str) {
    if std::env::var(CHILD).as_deref() == Ok(name) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (idle_kib, peak_kib) = runtime.block_on(stream_in_and_out(load));
        println!("memory-kib {idle_kib} {peak_kib}");
        return;
    }
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: peak memory is read from /proc, which this system lacks");
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, name)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(
        child.status.success(),
        "{output}\n{}",
        String::from_utf8_lossy(&child.stderr)
    );
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("memory-kib "))
        .expect("the child prints its memory");
    let (idle, peak) = line
        .split_once(' ')
        .map(|(a, b)| (a.parse::<u64>().unwrap(), b.parse::<u64>().unwrap()))
        .unwrap();
    let rise_mib = (peak - idle) / 1024;
    println!(
        "{name}: idle {} MiB, peak {} MiB, {rise_mib} MiB above",
        idle / 1024,
        peak / 1024
    );
    assert!(
        rise_mib <= load.rise_max_mib,
        "{rise_mib} MiB above idle, {} allowed",
        load.rise_max_mib
    );
}

async fn stream_in_and_out(load: &Load) -> (u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.limits.upload_bytes_in_flight = load.in_flight_mib * MIB as usize;
    config.reads.bytes_in_flight = load.in_flight_mib as u64 * MIB;
    // The test is about memory: on a slow disk the last streams wait longer than the default.
    config.limits.budget_wait = PATIENCE;
    config.reads.budget_wait = PATIENCE;
    let engine = Engine::builder(directory.path())
        .config(config)
        .open()
        .await
        .unwrap();
    let idle = status_kib("VmHWM:");
    let puts = (0..load.objects).map(|number| {
        engine
            .put(format!("k{number}"), body(load.object_mib))
            .into_future()
    });
    futures::future::try_join_all(puts).await.unwrap();
    let gets = (0..load.objects).map(|number| drain(&engine, number, load.object_mib));
    futures::future::join_all(gets).await;
    let peak = status_kib("VmHWM:");
    engine.close().await.unwrap();
    (idle, peak)
}

/// Returns a payload in chunks of 64 KiB that share their memory.
fn body(mebibytes: u64) -> Body {
    let chunk = Bytes::from(vec![7u8; 64 * 1024]);
    Body::stream(stream::iter(
        (0..mebibytes * 16).map(move |_| Ok::<_, std::io::Error>(chunk.clone())),
    ))
}

async fn drain(engine: &Engine, number: usize, mebibytes: u64) {
    let mut object = engine.get(format!("k{number}")).await.unwrap().unwrap();
    let mut bytes = 0;
    while let Some(chunk) = object.chunk().await.unwrap() {
        bytes += chunk.len() as u64;
    }
    assert_eq!(bytes, mebibytes * MIB);
}

/// Returns a field of /proc/self/status, in KiB.
fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
