//! Tests of the harness: wrong contents of a bucket are detected, and a server ends with the test
//! that started it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cenotaph::{Body, Env};
use cenotaph_tests::servers::launch::Running;
use cenotaph_tests::servers::s3::{PART_BYTES_MIN, S3};
use cenotaph_tests::store::payload;
use futures::future::{Either, select};
use futures::{StreamExt, stream};
use tempfile::TempDir;

use super::azurite::Azurite;
use super::cases::LARGE;
use super::local::{Directory, Memory};
use super::remains::Differences;
use super::required;
use super::suite::{Server, Tiers};

const CHILD: &str = "CENOTAPH_SERVERS_CHILD";
const PATIENCE: Duration = Duration::from_secs(20);

/// Asserts that the check of a bucket on this server detects stray and missing blobs.
async fn assert_differences_are_detected(server: &impl Server, strays: &[&str]) {
    let operator = server.bucket("bucket").await;
    let tiers = Tiers::open(Arc::new(TempDir::new().unwrap()), operator.clone()).await;
    tiers.engine.put("k", payload(1, 20_000)).await.unwrap();
    let (differences, held) = tiers.settled().await;
    assert!(
        differences == Differences::default() && held.paths.len() == 1,
        "{differences}"
    );

    let ours = held.paths.first().unwrap();
    let another = ours.replace('@', "2@");
    let strays: BTreeSet<String> = strays
        .iter()
        .copied()
        .chain([another.as_str()])
        .map(str::to_owned)
        .collect();
    for path in &strays {
        match path.ends_with('/') {
            true => operator.create_dir(path).await.unwrap(),
            false => drop(operator.write(path, "x").await.unwrap()),
        }
    }
    operator.delete(ours).await.unwrap();
    let differences = tiers.settled().await.0;
    assert_eq!(
        differences,
        Differences {
            stray: strays.clone(),
            missing: BTreeSet::from([ours.clone()])
        }
    );
    let shown = differences.to_string();
    assert!(
        strays.iter().chain([ours]).all(|path| shown.contains(path)),
        "{shown}"
    );
    tiers.engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stray_and_missing_blobs_are_detected() {
    assert_differences_are_detected(&Memory, &["not/ours"]).await;
    assert_differences_are_detected(&Directory::new(), &["not/ours"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strays_and_open_uploads_on_azurite_are_detected() {
    let Some(program) = required("azurite", Azurite::find()) else {
        return;
    };
    let azurite = Azurite::start(program).await;
    assert_differences_are_detected(&azurite, &["not/ours", "a directory/", "root/sub/"]).await;
    for blob in ["first", "second/third"] {
        azurite.leave_upload_open("bucket", blob).await;
    }
    assert_eq!(
        azurite.open_uploads("bucket").await,
        ["first", "second/third"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strays_and_open_uploads_on_s3_are_detected() {
    let Some(program) = required("moto", S3::find_moto()) else {
        return;
    };
    let moto = S3::moto(program, PART_BYTES_MIN).await;
    assert_differences_are_detected(&moto, &["not/ours", "a directory/", "root/sub/"]).await;
    for key in ["first", "second/third"] {
        moto.begin_upload("bucket", key).await;
    }
    assert_eq!(moto.open_uploads("bucket").await, ["first", "second/third"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_put_leaves_no_open_upload() {
    let Some(program) = required("moto", S3::find_moto()) else {
        return;
    };
    let env = Env::real().unwrap();
    let moto = S3::moto(program, PART_BYTES_MIN).await;
    let tiers = Tiers::open(
        Arc::new(TempDir::new().unwrap()),
        moto.bucket("bucket").await,
    )
    .await;
    let endless =
        stream::iter([Ok::<_, std::io::Error>(payload(1, LARGE))]).chain(stream::pending());
    let put = tiers.engine.put("k", Body::stream(endless)).into_future();
    let opened = pin!(async {
        while moto.open_uploads("bucket").await.is_empty() {
            env.sleep(Duration::from_millis(5)).await;
        }
    });
    match env.deadline(PATIENCE, select(put, opened)).await {
        Some(Either::Right(((), put))) => drop(put),
        Some(Either::Left((outcome, _))) => panic!("the stream never ends: {outcome:?}"),
        None => panic!("no upload is open after {PATIENCE:?}"),
    }
    let (differences, held) = tiers.settled().await;
    assert!(
        differences == Differences::default() && held.paths.is_empty(),
        "{differences}"
    );
    assert_eq!(moto.open_uploads("bucket").await, Vec::<String>::new());
    tiers.engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "ended 3 times before it listened")]
async fn server_that_cannot_start_is_not_waited_for() {
    let start = Running::start("nothing", |command, _, _| {
        command.args(["sh", "-c", "echo can not start; exit 1"]);
    });
    start.await;
}

/// Starts a substitute for a server: two processes, and a port on which this process listens.
async fn pretended() -> (Running, [u32; 2]) {
    let env = Env::real().unwrap();
    let listener = RefCell::new(None);
    let start = Running::start("pretended", |command, port, _| {
        *listener.borrow_mut() = Some(TcpListener::bind(("127.0.0.1", port)).unwrap());
        command.args([
            "sh",
            "-c",
            "sleep 1000 & echo $$ $! > pids.new; mv pids.new pids; wait",
        ]);
    });
    let running = start.await;
    let file = running.directory().join("pids");
    while !file.exists() {
        env.sleep(Duration::from_millis(1)).await;
    }
    let pids: Vec<u32> = fs::read_to_string(file)
        .unwrap()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    (running, pids.try_into().unwrap())
}

/// Returns `true` if a process runs; zombies do not.
fn runs(pid: &u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Asserts that none of these processes runs. A killed process may take a moment to disappear.
async fn assert_gone(pids: &[u32]) {
    let env = Env::real().unwrap();
    let gone = env.deadline(PATIENCE, async {
        while pids.iter().any(runs) {
            env.sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(gone.await.is_some(), "still running: {pids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_server_leaves_no_process_and_no_file() {
    let (running, pids) = pretended().await;
    let directory = running.directory().to_owned();
    assert!(directory.join("pids").exists());
    assert!(!cfg!(target_os = "linux") || pids.iter().all(runs));
    drop(running);
    assert!(!directory.exists());
    assert_gone(&pids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_does_not_outlive_a_killed_test() {
    if std::env::var_os(CHILD).is_some() {
        let (_running, [leader, other]) = pretended().await;
        println!("pids {leader} {other}");
        std::future::pending::<()>().await;
    }
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: running processes are read from /proc, which this system lacks");
        return;
    }
    let test = "servers::harness::server_does_not_outlive_a_killed_test";
    // Files that the killed child cannot remove are removed with this directory.
    let directory = TempDir::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("TMPDIR", directory.path());
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let pids = lines
        .filter_map(|line| line.split_once("pids ").map(|(_, pids)| pids.to_owned()))
        .next()
        .unwrap();
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 2 && pids.iter().all(runs));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_gone(&pids).await;
}
