//! Openings of a store with a fallback, also after a kill.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use cenotaph::{Engine, ErrorKind, Operator, OperatorFallback, Reason};
use cenotaph_tests::store::quick;
use tempfile::TempDir;

use super::source::{Source, open, read};

/// Names the directory in which a child of the test runs.
const VICTIM: &str = "CENOTAPH_FALLBACK_VICTIM";

#[tokio::test]
async fn store_opens_only_with_its_fallback_until_that_is_declared_lost() {
    let directory = TempDir::new().unwrap();
    let source = Source::with(&["a", "b"]).await;
    let engine = open(directory.path(), &source).await;
    engine.delete("a").await.unwrap();
    engine.put("ours", "x").await.unwrap();
    engine.close().await.unwrap();
    let builder = || Engine::builder(directory.path()).config(quick());

    let refused = builder().open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("the source"), "{refused}");
    let other = OperatorFallback::new(source.operator.clone()).named("another");
    let refused = builder().fallback(other.clone()).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let refused = builder().read_only().open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let refused = builder()
        .fallback(other.clone())
        .fallback_lost()
        .open()
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    let engine = open(directory.path(), &source).await;
    assert_eq!(read(&engine, "b").await.unwrap(), b"b");
    engine.close().await.unwrap();

    let engine = builder().fallback_lost().open().await.unwrap();
    assert_eq!(read(&engine, "b").await, None);
    assert_eq!(read(&engine, "ours").await.unwrap(), b"x");
    engine.close().await.unwrap();
    // Final: a fallback that is found again is not read.
    for builder in [builder(), builder().fallback(other)] {
        let engine = builder.open().await.unwrap();
        assert_eq!(read(&engine, "b").await, None);
        engine.close().await.unwrap();
    }
}

#[tokio::test]
async fn read_only_engine_serves_the_fallback_and_writes_nothing() {
    let directory = TempDir::new().unwrap();
    let source = Source::with(&["a", "b"]).await;
    let engine = open(directory.path(), &source).await;
    engine.delete("a").await.unwrap();
    engine.close().await.unwrap();
    let fallback = OperatorFallback::new(source.operator.clone()).named("the source");
    let builder = Engine::builder(directory.path()).config(quick());
    let engine = builder.fallback(fallback).read_only().open().await.unwrap();
    assert_eq!(read(&engine, "a").await, None);
    assert_eq!(read(&engine, "b").await.unwrap(), b"b");
    let refused = engine.delete("b").await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::ReadOnly));
    let refused = engine.amend("b").filename("x").await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::ReadOnly));
    engine.close().await.unwrap();
}

fn files(directory: &std::path::Path) -> OperatorFallback {
    let root = directory.join("files");
    let root = opendal::services::Fs::default().root(root.to_str().unwrap());
    OperatorFallback::new(Operator::new(root).unwrap())
}

async fn open_files(directory: &std::path::Path) -> Engine {
    let builder = Engine::builder(directory.join("store")).config(quick());
    builder.fallback(files(directory)).open().await.unwrap()
}

#[test]
fn mask_and_move_survive_a_kill() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    if let Some(directory) = std::env::var_os(VICTIM) {
        return runtime.block_on(run_victim(directory.as_ref()));
    }
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("files")).unwrap();
    for key in ["deleted", "moved", "updated", "left"] {
        std::fs::write(directory.path().join("files").join(key), key).unwrap();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "fallback::opening::mask_and_move_survive_a_kill",
            "--exact",
            "--nocapture",
        ])
        .env(VICTIM, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_ready = lines.any(|line| line.unwrap().contains("acknowledged"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_ready, "the victim acknowledges its writes");

    runtime.block_on(async {
        let engine = open_files(directory.path()).await;
        for key in ["deleted", "moved", "updated"] {
            let path = directory.path().join("files").join(key);
            std::fs::write(path, "outside").unwrap();
        }
        assert_eq!(read(&engine, "deleted").await, None);
        assert!(
            engine
                .put("deleted", "x")
                .if_absent()
                .await
                .unwrap()
                .created
        );
        assert_eq!(read(&engine, "moved").await.unwrap(), b"moved");
        assert_eq!(read(&engine, "updated").await.unwrap(), b"new");
        assert_eq!(read(&engine, "left").await.unwrap(), b"left");
        engine.close().await.unwrap();
    });
}

#[expect(clippy::print_stdout, reason = "the parent waits for it")]
async fn run_victim(directory: &std::path::Path) {
    let engine = open_files(directory).await;
    assert!(engine.delete("deleted").await.unwrap().existed);
    engine.amend("moved").filename("f").await.unwrap().unwrap();
    let updated = engine.update("updated", async |_| {
        Ok::<_, cenotaph::Error>(cenotaph::Update::put("new"))
    });
    updated.await.unwrap();
    println!("acknowledged");
    std::future::pending().await
}
