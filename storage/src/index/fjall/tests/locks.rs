//! Tests of locks beside child processes.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::modes::Modes;

/// A forked child process has copies of all locks until it runs its program.
#[cfg(unix)]
#[tokio::test]
async fn examination_leaves_no_lock_in_a_forked_child() {
    let on_disk = OnDisk::new();
    on_disk.open().unwrap().close().await.unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut child = std::process::Command::new("true");
                assert!(child.status().unwrap().success());
            }
        });
        let refused = (0..500).find_map(|_| {
            drop(doctor::examine(&on_disk.path(), &|_, _| None).unwrap());
            creation::lock(&on_disk.path(), Modes::default()).err()
        });
        done.store(true, Ordering::Relaxed);
        assert!(refused.is_none(), "{refused:?}");
    });
}
