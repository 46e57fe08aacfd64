//! Group commit for contenders that have none: one thread that commits all waiting writes at once.

use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// A write that waits for its commit.
pub(crate) struct Write {
    pub(crate) key: String,
    pub(crate) payload: Bytes,
    done: oneshot::Sender<()>,
}

/// The thread, and the queue of waiting writes.
pub(crate) struct GroupCommit {
    sender: mpsc::Sender<Write>,
    thread: JoinHandle<()>,
}

impl GroupCommit {
    /// Starts the thread. `commit` returns when all writes of the group are durable.
    pub(crate) fn start(mut commit: impl FnMut(&[Write]) + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel::<Write>();
        let thread = std::thread::spawn(move || {
            while let Ok(first) = receiver.recv() {
                let group: Vec<_> = std::iter::once(first).chain(receiver.try_iter()).collect();
                commit(&group);
                for write in group {
                    // The receiver waits until the write is durable.
                    let _ = write.done.send(());
                }
            }
        });
        Self { sender, thread }
    }

    pub(crate) fn put(&self, key: String, payload: Bytes) -> BoxFuture<'static, ()> {
        let (done, durable) = oneshot::channel();
        let write = Write { key, payload, done };
        self.sender.send(write).expect("the thread runs");
        async { durable.await.expect("no commit fails") }.boxed()
    }

    /// Ends the thread, and drops what it commits to.
    pub(crate) fn close(self) {
        drop(self.sender);
        self.thread.join().expect("no commit fails");
    }
}
