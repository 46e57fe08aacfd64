//! Peak memory of streaming, measured in a process of its own: this test runs itself again as a
//! child and reads what the kernel says of it (`VmHWM`). Linux only; elsewhere it says so.

use std::process::Command;

use bytes::Bytes;
use cenotaph::{Body, Config, Engine};
use futures::stream;

const MIB: u64 = 1024 * 1024;
const CHILD: &str = "CENOTAPH_MEMORY_CHILD";

/// What a child does, and how far above idle it may rise.
struct Load {
    objects: usize,
    object_mib: u64,
    in_flight_mib: usize,
    rise_max_mib: u64,
}

/// One 1 GiB object in and out.
const ONE: Load = Load {
    objects: 1,
    object_mib: 1024,
    in_flight_mib: 256,
    rise_max_mib: 64,
};
/// 32 at once: what is in flight is bounded by 64 MiB in and 64 MiB out. The rest is what the index
/// and the allocator take.
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
fn many_at_once_are_bounded_by_the_bytes_in_flight() {
    run(
        "many",
        &MANY,
        "memory::many_at_once_are_bounded_by_the_bytes_in_flight",
    );
}

/// As the child: streams, and prints how far it rose. As the parent: runs the child, and judges.
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
        eprintln!("SKIPPED: peak memory is read from /proc, which this system does not have");
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
        .expect("the child tells");
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
    let engine = Engine::builder(directory.path())
        .config(config)
        .open()
        .await
        .unwrap();
    let idle = kernel_says("VmHWM:");
    let puts = (0..load.objects).map(|number| {
        engine
            .put(format!("k{number}"), body(load.object_mib))
            .into_future()
    });
    futures::future::try_join_all(puts).await.unwrap();
    let gets = (0..load.objects).map(|number| drain(&engine, number, load.object_mib));
    futures::future::join_all(gets).await;
    let peak = kernel_says("VmHWM:");
    engine.close().await.unwrap();
    (idle, peak)
}

/// A payload in chunks of 64 KiB, all of them the same memory.
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

/// A figure of /proc/self/status, in KiB.
fn kernel_says(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(what))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
