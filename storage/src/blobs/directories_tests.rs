//! Claims about durable directory entries. The world of these tests does blocking work only when
//! told to, so that who waits for whom is decided by the test.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tempfile::TempDir;

use super::directories::Directories;
use crate::env::{Env, World};
use crate::error::ErrorKind;
use crate::word::Timestamp;

/// A world whose blocking work waits until it is let go.
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

    /// Does the work that waits, and all that comes later at once.
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
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(0)
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
        let (gate, root) = (Gate::default(), TempDir::new().unwrap());
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

    /// Syncs done by `work`.
    async fn syncs<T>(&self, work: impl Future<Output = T>) -> (T, u64) {
        let before = self.directories.syncs();
        let value = work.await;
        (value, self.directories.syncs() - before)
    }
}

#[tokio::test]
async fn parents_are_synced_once_and_the_directory_of_the_file_each_time() {
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
async fn callers_that_come_while_a_sync_runs_share_the_next_one() {
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
    assert_eq!(scene.gate.waiting(), 1, "one leads, the others wait");
    scene.gate.open();
    callers
        .await
        .into_iter()
        .for_each(|outcome| outcome.unwrap());
    assert_eq!(
        scene.directories.syncs() - before,
        1,
        "the tickets of all were taken before the sync began"
    );
}

#[tokio::test]
async fn a_finished_sync_does_not_cover_a_later_caller() {
    let scene = Scene::new();
    scene
        .directories
        .sync_file_entry(&scene.file("aa/0"))
        .await
        .unwrap();
    let (first, second) = (scene.file("aa/1"), scene.file("aa/2"));
    scene.directories.sync_file_entry(&first).await.unwrap();
    let (outcome, done) = scene
        .syncs(scene.directories.sync_file_entry(&second))
        .await;
    outcome.unwrap();
    assert_eq!(done, 1);
}

#[tokio::test]
async fn a_sync_whose_caller_is_gone_still_counts_and_still_holds_the_turn() {
    let scene = Scene::new();
    scene
        .directories
        .sync_file_entry(&scene.file("aa/0"))
        .await
        .unwrap();
    let (gone, waiter) = (scene.file("aa/1"), scene.file("aa/2"));

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
        "no second sync beside the one under way"
    );
    scene.gate.open();
    waiting.await.unwrap();
    assert_eq!(scene.directories.syncs() - before, 1);
}

#[tokio::test]
async fn a_caller_dropped_while_waiting_harms_nobody() {
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
async fn an_entry_whose_directory_is_gone_is_not_durable_and_its_removal_is() {
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
    // A directory that could not be opened has not failed to sync: it is believed again.
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
async fn idle_directories_are_forgotten_before_they_are_too_many() {
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
async fn a_directory_that_failed_to_sync_is_never_believed_again() {
    let scene = Scene::new();
    // It can be opened, and refuses to sync.
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
