//! An OpenDAL layer whose faults a test switches on and off while the engine runs.
//!
//! An operation can fail before its effect, fail *after* its effect (a lost response), wait until
//! the test releases it, return "not found", or flip a bit. Faults are never random: each test
//! sets the operation and the moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cenotaph::MARKER_PATH;
use opendal::raw::*;
use opendal::{
    Buffer, BytesRange, Capability, Error, ErrorKind, Metadata, OperationContext, Result,
};
use tokio::sync::watch;

/// Operation of the blob tier that a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Writing a chunk of a blob.
    Write,
    /// Closing a blob.
    Close,
    /// Deleting a blob.
    Delete,
    /// Reading some bytes.
    Read,
    /// Aborting a blob that is not closed.
    Abort,
}

/// Kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails without any effect.
    Before,
    /// The operation takes effect and then fails: the response is lost.
    After,
    /// The operation fails with "not found".
    NotFound,
}

/// Fault switches. Clones share them.
#[derive(Clone, Default)]
pub struct Faults(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Planned faults and their remaining repetitions; `u64::MAX` means no limit.
    planned: Mutex<BTreeMap<Op, (Fault, u64)>>,
    holds: Mutex<BTreeMap<Op, watch::Receiver<bool>>>,
    counts: [AtomicU64; 5],
    waiting: [AtomicU64; 5],
    flip: AtomicBool,
}

/// Guard that holds operations until it is dropped.
pub struct Hold(#[expect(dead_code, reason = "only its drop is used")] watch::Sender<bool>);

impl Faults {
    /// Lets the next `times` operations of this kind fail.
    pub fn fail(&self, op: Op, fault: Fault, times: u64) {
        self.0.planned.lock().unwrap().insert(op, (fault, times));
    }

    /// Lets all operations of this kind fail until [`heal`](Self::heal).
    pub fn fail_always(&self, op: Op, fault: Fault) {
        self.fail(op, fault, u64::MAX);
    }

    /// Removes all planned faults.
    pub fn heal(&self) {
        self.0.planned.lock().unwrap().clear();
        self.flip(false);
    }

    /// Lets operations of this kind wait until the returned guard is dropped.
    pub fn hold(&self, op: Op) -> Hold {
        let (sender, receiver) = watch::channel(false);
        self.0.holds.lock().unwrap().insert(op, receiver);
        Hold(sender)
    }

    /// Switches on or off that reads flip the lowest bit of their first byte.
    pub fn flip(&self, flip: bool) {
        self.0.flip.store(flip, Ordering::SeqCst);
    }

    /// Returns the number of operations of this kind so far.
    pub fn count(&self, op: Op) -> u64 {
        self.0.counts[op as usize].load(Ordering::SeqCst)
    }

    /// Returns the number of operations of this kind that are held now.
    pub fn held(&self, op: Op) -> u64 {
        self.0.waiting[op as usize].load(Ordering::SeqCst)
    }

    /// Runs an operation under the holds and faults planned for it.
    async fn run<T>(&self, op: Op, work: impl Future<Output = Result<T>>) -> Result<T> {
        // Counted before the hold, so that a test can wait for the attempt.
        self.0.counts[op as usize].fetch_add(1, Ordering::SeqCst);
        let hold = self.0.holds.lock().unwrap().get(&op).cloned();
        if let Some(mut hold) = hold {
            self.0.waiting[op as usize].fetch_add(1, Ordering::SeqCst);
            // An error means that the guard was dropped, which is the release.
            let _ = hold.changed().await;
            self.0.waiting[op as usize].fetch_sub(1, Ordering::SeqCst);
        }
        // Decided after the hold: a test may plan the fault while the operation is held.
        match self.take(op) {
            None => work.await,
            Some(Fault::Before) => Err(Error::new(ErrorKind::Unexpected, "planned fault")),
            Some(Fault::NotFound) => Err(Error::new(ErrorKind::NotFound, "planned absence")),
            Some(Fault::After) => {
                // A real error of the operation is more useful than the planned one.
                work.await?;
                Err(Error::new(
                    ErrorKind::Unexpected,
                    "planned loss of the response",
                ))
            }
        }
    }

    fn take(&self, op: Op) -> Option<Fault> {
        let mut planned = self.0.planned.lock().unwrap();
        let (fault, times) = planned.get_mut(&op).filter(|(_, times)| *times > 0)?;
        // `u64::MAX` is never used up.
        if *times != u64::MAX {
            *times -= 1;
        }
        Some(*fault)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}

/// OpenDAL layer that injects the planned faults.
#[derive(Clone, Debug)]
pub struct Faulty(Faults);

/// Creates a layer that is controlled by these switches.
pub fn layer(faults: &Faults) -> Faulty {
    Faulty(faults.clone())
}

impl Layer for Faulty {
    fn apply_service(&self, inner: Servicer) -> Servicer {
        Arc::new(FaultyService {
            inner,
            faults: self.0.clone(),
        })
    }
}

#[doc(hidden)]
#[derive(Debug)]
pub struct FaultyService {
    inner: Servicer,
    faults: Faults,
}

#[doc(hidden)]
pub struct Broken<T> {
    inner: T,
    faults: Faults,
}

impl FaultyService {
    fn wrap<T>(&self, inner: T) -> Broken<T> {
        Broken {
            inner,
            faults: self.faults.clone(),
        }
    }
}

impl Service for FaultyService {
    type Reader = Broken<oio::Reader>;
    type Writer = Broken<oio::Writer>;
    type Lister = oio::Lister;
    type Deleter = Broken<oio::Deleter>;
    type Copier = oio::Copier;
    type Composer = oio::Composer;

    fn info(&self) -> ServiceInfo {
        self.inner.info()
    }

    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn create_dir(
        &self,
        ctx: &OperationContext,
        path: &str,
        args: OpCreateDir,
    ) -> Result<RpCreateDir> {
        self.inner.create_dir(ctx, path, args).await
    }

    fn read(&self, ctx: &OperationContext, path: &str, args: OpRead) -> Result<Self::Reader> {
        let inner = self.inner.read(ctx, path, args)?;
        // Faults apply to blobs only: without its marker file the tier would refuse to open.
        let faults = if path == MARKER_PATH {
            Faults::default()
        } else {
            self.faults.clone()
        };
        Ok(Broken { inner, faults })
    }

    fn write(&self, ctx: &OperationContext, path: &str, args: OpWrite) -> Result<Self::Writer> {
        Ok(self.wrap(self.inner.write(ctx, path, args)?))
    }

    fn copy(
        &self,
        ctx: &OperationContext,
        from: &str,
        to: &str,
        args: OpCopy,
    ) -> Result<Self::Copier> {
        self.inner.copy(ctx, from, to, args)
    }

    fn compose(&self, ctx: &OperationContext, to: &str, args: OpCompose) -> Result<Self::Composer> {
        self.inner.compose(ctx, to, args)
    }

    async fn rename(
        &self,
        ctx: &OperationContext,
        from: &str,
        to: &str,
        args: OpRename,
    ) -> Result<RpRename> {
        self.inner.rename(ctx, from, to, args).await
    }

    async fn restore(
        &self,
        ctx: &OperationContext,
        path: &str,
        args: OpRestore,
    ) -> Result<RpRestore> {
        self.inner.restore(ctx, path, args).await
    }

    async fn stat(&self, ctx: &OperationContext, path: &str, args: OpStat) -> Result<RpStat> {
        self.inner.stat(ctx, path, args).await
    }

    fn delete(&self, ctx: &OperationContext) -> Result<Self::Deleter> {
        Ok(self.wrap(self.inner.delete(ctx)?))
    }

    fn list(&self, ctx: &OperationContext, path: &str, args: OpList) -> Result<Self::Lister> {
        self.inner.list(ctx, path, args)
    }

    async fn presign(
        &self,
        ctx: &OperationContext,
        path: &str,
        args: OpPresign,
    ) -> Result<RpPresign> {
        self.inner.presign(ctx, path, args).await
    }
}

impl oio::Write for Broken<oio::Writer> {
    async fn write(&mut self, bytes: Buffer) -> Result<()> {
        self.faults
            .clone()
            .run(Op::Write, self.inner.write(bytes))
            .await
    }

    async fn close(&mut self) -> Result<Metadata> {
        self.faults.clone().run(Op::Close, self.inner.close()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.faults.clone().run(Op::Abort, self.inner.abort()).await
    }
}

impl oio::Delete for Broken<oio::Deleter> {
    async fn delete(&mut self, path: &str, args: OpDelete) -> Result<()> {
        self.faults
            .clone()
            .run(Op::Delete, self.inner.delete(path, args))
            .await
    }

    async fn close(&mut self) -> Result<()> {
        self.inner.close().await
    }
}

impl oio::Read for Broken<oio::Reader> {
    async fn open(&self, range: BytesRange) -> Result<(RpRead, Box<dyn oio::ReadStreamDyn>)> {
        let (reply, inner) = self.faults.run(Op::Read, self.inner.open(range)).await?;
        let flip = self.faults.0.flip.load(Ordering::SeqCst);
        Ok((
            reply,
            if flip {
                Box::new(Flipped { inner })
            } else {
                inner
            },
        ))
    }

    async fn read(&self, range: BytesRange) -> Result<(RpRead, Buffer)> {
        let (reply, buffer) = self.faults.run(Op::Read, self.inner.read(range)).await?;
        Ok((
            reply,
            if self.faults.0.flip.load(Ordering::SeqCst) {
                flipped(&buffer)
            } else {
                buffer
            },
        ))
    }
}

struct Flipped {
    inner: Box<dyn oio::ReadStreamDyn>,
}

impl oio::ReadStream for Flipped {
    async fn read(&mut self) -> Result<Buffer> {
        Ok(flipped(&self.inner.read_dyn().await?))
    }
}

fn flipped(buffer: &Buffer) -> Buffer {
    let mut bytes = buffer.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
    bytes.into()
}
