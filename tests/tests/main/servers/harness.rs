//! The harness itself: a bucket that is not as it should be is noticed, and a server ends with
//! whoever started it.

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
use super::demanded;
use super::local::{Directory, Memory};
use super::remains::Differences;
use super::suite::{Server, Tiers};

const CHILD: &str = "CENOTAPH_SERVERS_CHILD";
const PATIENCE: Duration = Duration::from_secs(20);

/// Asserts that the last check sees what should not be in a bucket of this server, and what should
/// be and is not.
async fn assert_differences_are_told(server: &impl Server, strays: &[&str]) {
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
    let told = differences.to_string();
    assert!(
        strays.iter().chain([ours]).all(|path| told.contains(path)),
        "{told}"
    );
    tiers.engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stray_in_a_bucket_and_what_is_missing_is_told() {
    assert_differences_are_told(&Memory, &["not/ours"]).await;
    assert_differences_are_told(&Directory::new(), &["not/ours"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_in_a_container_is_told_and_so_are_blocks_that_are_never_committed() {
    let Some(program) = demanded("azurite", Azurite::is_here()) else {
        return;
    };
    let azurite = Azurite::start(program).await;
    assert_differences_are_told(&azurite, &["not/ours", "a directory/", "root/sub/"]).await;
    for blob in ["first", "second/third"] {
        azurite.leave_upload_open("bucket", blob).await;
    }
    assert_eq!(
        azurite.open_uploads("bucket").await,
        ["first", "second/third"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_in_an_s3_bucket_is_told_and_so_is_an_upload_that_is_left_open() {
    let Some(program) = demanded("moto", S3::moto_is_here()) else {
        return;
    };
    let moto = S3::moto(program, PART_BYTES_MIN).await;
    assert_differences_are_told(&moto, &["not/ours", "a directory/", "root/sub/"]).await;
    for key in ["first", "second/third"] {
        moto.begin_upload("bucket", key).await;
    }
    assert_eq!(moto.open_uploads("bucket").await, ["first", "second/third"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_parts_is_open_until_its_caller_leaves_and_not_after() {
    let Some(program) = demanded("moto", S3::moto_is_here()) else {
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
        Some(Either::Left((outcome, _))) => panic!("its stream has not ended: {outcome:?}"),
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
#[should_panic(expected = "has ended 3 times before it listened")]
async fn a_server_that_can_not_start_is_not_waited_for() {
    let start = Running::start("nothing", |command, _, _| {
        command.args(["sh", "-c", "echo can not start; exit 1"]);
    });
    start.await;
}

/// Something that is taken for a server: two processes, and a port on which this process listens in
/// its stead.
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

/// Whether a process runs; one that has ended and that nobody has asked after does not.
fn runs(pid: &u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Asserts that none of these processes runs. One that holds nothing any more may take a moment to
/// be gone.
async fn assert_gone(pids: &[u32]) {
    let env = Env::real().unwrap();
    let gone = env.deadline(PATIENCE, async {
        while pids.iter().any(runs) {
            env.sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(gone.await.is_some(), "{pids:?} run on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_dropped_is_gone_with_all_that_it_has_started_and_all_that_it_has_kept() {
    let (running, pids) = pretended().await;
    let directory = running.directory().to_owned();
    assert!(directory.join("pids").exists());
    assert!(!cfg!(target_os = "linux") || pids.iter().all(runs));
    drop(running);
    assert!(!directory.exists());
    assert_gone(&pids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_does_not_outlive_a_test_that_is_killed() {
    if std::env::var_os(CHILD).is_some() {
        let (_running, [leader, other]) = pretended().await;
        println!("pids {leader} {other}");
        std::future::pending::<()>().await;
    }
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: what runs is read from /proc, which this system does not have");
        return;
    }
    let test = "servers::harness::a_server_does_not_outlive_a_test_that_is_killed";
    // What the child can't tidy up goes with this.
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
