//! Tests of durable directory entries. The world of these tests runs blocking work on request, so
//! that each test controls the order of syncs and waiting callers.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tempfile::TempDir;

use super::Directories;
use crate::env::{Env, World};
use crate::types::{ErrorKind, WallTime};

/// World that queues blocking work while the gate is closed.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    closed: bool,
    tasks: Vec<Box<dyn FnOnce() + Send>>,
}

impl Gate {
    fn close(&self) {
        self.0.lock().unwrap().closed = true;
    }

    /// Runs the queued work. Later work runs immediately.
    fn open(&self) {
        let tasks = {
            let mut waiting = self.0.lock().unwrap();
            waiting.closed = false;
            std::mem::take(&mut waiting.tasks)
        };
        tasks.into_iter().for_each(|task| task());
    }

    fn waiting(&self) -> usize {
        self.0.lock().unwrap().tasks.len()
    }
}

impl World for Gate {
    fn wall_time(&self) -> WallTime {
        WallTime::from_millis(0)
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn random_u64(&self) -> u64 {
        4
    }
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
    fn spawn(&self, _: BoxFuture<'static, ()>) {
        unreachable!("directories spawn nothing")
    }
    fn offload(&self, _: BoxFuture<'static, ()>) {
        unreachable!("directories offload no task")
    }
    fn blocking(&self, task: Box<dyn FnOnce() + Send>) {
        let mut waiting = self.0.lock().unwrap();
        if waiting.closed {
            waiting.tasks.push(task);
        } else {
            drop(waiting);
            task();
        }
    }
    fn thread(
        &self,
        _: &str,
        _: Box<dyn FnOnce() + Send>,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        unreachable!("directories start no thread")
    }
}

struct Scene {
    gate: Gate,
    directories: Directories,
    root: TempDir,
}

impl Scene {
    fn new() -> Self {
        let gate = Gate::default();
        let root = TempDir::new().unwrap();
        let directories =
            Directories::new(root.path().canonicalize().unwrap(), Env::new(gate.clone()));
        Self {
            gate,
            directories,
            root,
        }
    }

    fn file(&self, path: &str) -> String {
        let absolute = self.root.path().join(path);
        std::fs::create_dir_all(absolute.parent().unwrap()).unwrap();
        std::fs::write(absolute, "x").unwrap();
        path.to_owned()
    }

    /// Runs `work` and returns its result and the number of syncs.
    async fn syncs<T>(&self, work: impl Future<Output = T>) -> (T, u64) {
        let before = self.directories.syncs();
        let value = work.await;
        (value, self.directories.syncs() - before)
    }
}

#[tokio::test]
async fn parents_are_synced_once_and_the_directory_every_time() {
    let scene = Scene::new();
    let above_root = scene.directories.root().ancestors().skip(1).count() as u64;
    for (path, syncs) in [
        ("aa/b/c/1", 4 + above_root),
        ("aa/b/c/2", 1),
        ("aa/b/3", 1),
        ("aa/d/4", 2),
        ("bb/5", 2),
    ] {
        let path = scene.file(path);
        let (outcome, done) = scene.syncs(scene.directories.sync_file_entry(&path)).await;
        outcome.unwrap();
        assert_eq!(done, syncs, "{path}");
    }
}

#[tokio::test]
async fn callers_during_a_sync_share_the_next_sync() {
    let scene = Scene::new();
    scene
        .directories
        .sync_file_entry(&scene.file("aa/0"))
        .await
        .unwrap();
    let paths: Vec<String> = (1..=20)
        .map(|number| scene.file(&format!("aa/{number}")))
        .collect();

    scene.gate.close();
    let before = scene.directories.syncs();
    let mut callers = Box::pin(join_all(
        paths
            .iter()
            .map(|path| scene.directories.sync_file_entry(path)),
    ));
    assert!(futures::poll!(&mut callers).is_pending());
    assert_eq!(
        scene.gate.waiting(),
        1,
        "the first caller syncs, the others wait"
    );
    scene.gate.open();
    callers
        .await
        .into_iter()
        .for_each(|outcome| outcome.unwrap());
    assert_eq!(
        scene.directories.syncs() - before,
        1,
        "all tickets were taken before the sync began"
    );
}

#[tokio::test]
async fn finished_sync_does_not_cover_a_later_caller() {
    let scene = Scene::new();
    scene
        .directories
        .sync_file_entry(&scene.file("aa/0"))
        .await
        .unwrap();
    let first = scene.file("aa/1");
    let second = scene.file("aa/2");
    scene.directories.sync_file_entry(&first).await.unwrap();
    let (outcome, done) = scene
        .syncs(scene.directories.sync_file_entry(&second))
        .await;
    outcome.unwrap();
    assert_eq!(done, 1);
}

#[tokio::test]
async fn sync_of_a_dropped_caller_counts_and_holds_the_turn() {
    let scene = Scene::new();
    scene
        .directories
        .sync_file_entry(&scene.file("aa/0"))
        .await
        .unwrap();
    let gone = scene.file("aa/1");
    let waiter = scene.file("aa/2");

    scene.gate.close();
    let before = scene.directories.syncs();
    let mut leading = Box::pin(scene.directories.sync_file_entry(&gone));
    assert!(futures::poll!(&mut leading).is_pending());
    let mut waiting = Box::pin(scene.directories.sync_file_entry(&waiter));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(leading);
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(
        scene.gate.waiting(),
        1,
        "no second sync runs at the same time"
    );
    scene.gate.open();
    waiting.await.unwrap();
    assert_eq!(scene.directories.syncs() - before, 1);
}

#[tokio::test]
async fn dropped_waiting_caller_does_not_affect_others() {
    let scene = Scene::new();
    scene
        .directories
        .sync_file_entry(&scene.file("aa/0"))
        .await
        .unwrap();
    let paths: Vec<String> = (1..=3)
        .map(|number| scene.file(&format!("aa/{number}")))
        .collect();

    scene.gate.close();
    let mut callers: Vec<_> = paths
        .iter()
        .map(|path| Box::pin(scene.directories.sync_file_entry(path)))
        .collect();
    for caller in &mut callers {
        assert!(futures::poll!(caller).is_pending());
    }
    drop(callers.remove(1));
    scene.gate.open();
    join_all(callers)
        .await
        .into_iter()
        .for_each(|outcome| outcome.unwrap());
}

#[tokio::test]
async fn removal_in_a_missing_directory_is_durable_an_entry_is_not() {
    let scene = Scene::new();
    let error = scene
        .directories
        .sync_file_entry("aa/never")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    scene
        .directories
        .sync_removed(["aa/never", "bb/never"])
        .await
        .unwrap();
    // Failing to open a directory is not a failed sync, so later syncs count.
    scene
        .directories
        .sync_file_entry(&scene.file("aa/now"))
        .await
        .unwrap();
}

#[tokio::test]
async fn removals_sync_each_directory_once() {
    let scene = Scene::new();
    let paths = ["aa/1", "aa/2", "bb/3", "bb/c/4"].map(|path| scene.file(path));
    for path in &paths {
        std::fs::remove_file(scene.root.path().join(path)).unwrap();
    }
    let (outcome, done) = scene.syncs(scene.directories.sync_removed(&paths)).await;
    outcome.unwrap();
    assert_eq!(done, 3);
}

#[tokio::test]
async fn idle_directories_are_forgotten_at_the_limit() {
    let scene = Scene::new();
    for number in 0..1500 {
        let path = scene.file(&format!("aa/{number}/x"));
        scene.directories.sync_removed([&path]).await.unwrap();
        assert!(scene.directories.remembered() <= 1024);
    }
    let path = scene.file("aa/0/x");
    assert!(Path::new(&path).is_relative());
    scene.directories.sync_file_entry(&path).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn directory_that_failed_to_sync_fails_forever() {
    let scene = Scene::new();
    // The device can be opened but not synced.
    let place = scene.root.path().join("aa");
    std::os::unix::fs::symlink("/dev/null", &place).unwrap();
    let failed = scene.directories.sync_removed(["aa/1"]).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable);
    std::fs::remove_file(&place).unwrap();

    let (outcome, done) = scene
        .syncs(scene.directories.sync_file_entry(&scene.file("aa/2")))
        .await;
    assert_eq!(
        (outcome.unwrap_err().to_string(), done),
        (failed.to_string(), 0)
    );
    scene
        .directories
        .sync_file_entry(&scene.file("bb/3"))
        .await
        .unwrap();
}
