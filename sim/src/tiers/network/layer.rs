//! The OpenDAL layer that sends every request through the [`Link`] of an incarnation.
//!
//! Writes and deletes are performed by the link, reads and listings by the service below. This is
//! the only file of the crate that uses the raw API of OpenDAL, which changes at each minor
//! version.

use std::sync::Arc;

use opendal::raw::*;
use opendal::{
    Buffer, BytesRange, Capability, Metadata, MetadataBuilder, OperationContext, Result,
};

use super::{Link, joined};

/// Layer that sends all requests through a link.
#[derive(Clone, Debug)]
pub(super) struct Breakable(pub(super) Link);

impl Layer for Breakable {
    fn apply_service(&self, inner: Servicer) -> Servicer {
        Arc::new(BreakableService {
            inner,
            link: self.0.clone(),
        })
    }
}

#[derive(Debug)]
struct BreakableService {
    inner: Servicer,
    link: Link,
}

/// Write of a blob. The service has no byte of it before the close, except for a partial blob.
pub(super) struct BlobWrite {
    link: Link,
    path: String,
    parts: Vec<Buffer>,
}

/// Read of a blob.
pub(super) struct Download {
    link: Link,
    path: String,
    inner: oio::Reader,
}

/// Stream of the bytes of a blob.
struct Stream {
    link: Link,
    path: String,
    inner: Box<dyn oio::ReadStreamDyn>,
}

/// Deletion of blobs, one request for each.
pub(super) struct BlobDelete {
    link: Link,
}

impl Service for BreakableService {
    type Reader = Download;
    type Writer = BlobWrite;
    type Lister = oio::Lister;
    type Deleter = BlobDelete;
    type Copier = oio::Copier;
    type Composer = oio::Composer;

    fn info(&self) -> ServiceInfo {
        // The name of the memory service is its address, which differs between runs of a seed.
        let inner = self.inner.info();
        let name = format!("tier-{}", self.link.1);
        ServiceInfo::new(inner.scheme(), inner.root(), name)
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
        Ok(Download {
            link: self.link.clone(),
            path: path.to_owned(),
            inner,
        })
    }

    fn write(&self, _: &OperationContext, path: &str, _: OpWrite) -> Result<Self::Writer> {
        Ok(BlobWrite {
            link: self.link.clone(),
            path: path.to_owned(),
            parts: Vec::new(),
        })
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
        self.link.look("blob stat", path).await?;
        self.inner.stat(ctx, path, args).await
    }

    fn delete(&self, _: &OperationContext) -> Result<Self::Deleter> {
        Ok(BlobDelete {
            link: self.link.clone(),
        })
    }

    fn list(&self, ctx: &OperationContext, path: &str, args: OpList) -> Result<Self::Lister> {
        // This function is not async, so that a listing is no step of its own.
        if self.link.is_away(path) {
            return Err(Link::away(opendal::ErrorKind::NotFound));
        }
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

impl oio::Write for BlobWrite {
    async fn write(&mut self, bytes: Buffer) -> Result<()> {
        self.parts.push(bytes);
        self.link.write(&self.path, &self.parts).await
    }

    async fn close(&mut self) -> Result<Metadata> {
        let content = joined(&std::mem::take(&mut self.parts));
        let metadata = MetadataBuilder::file(content.len() as u64).build();
        self.link.close(&self.path, content).await?;
        Ok(metadata)
    }

    async fn abort(&mut self) -> Result<()> {
        self.link.request("blob abort", &self.path).await?;
        self.link.may_hang(&self.path).await;
        // A partial blob stays, as on a local file system.
        Ok(())
    }
}

impl oio::Delete for BlobDelete {
    async fn delete(&mut self, path: &str, _: OpDelete) -> Result<()> {
        self.link.delete(path).await
    }

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

impl oio::Read for Download {
    async fn open(&self, range: BytesRange) -> Result<(RpRead, Box<dyn oio::ReadStreamDyn>)> {
        self.link.look("blob open", &self.path).await?;
        let (reply, inner) = self.inner.open(range).await?;
        Ok((
            reply,
            Box::new(Stream {
                link: self.link.clone(),
                path: self.path.clone(),
                inner,
            }),
        ))
    }

    async fn read(&self, range: BytesRange) -> Result<(RpRead, Buffer)> {
        self.link.look("blob read", &self.path).await?;
        let (reply, buffer) = self.inner.read(range).await?;
        Ok((reply, self.link.arrived(&self.path, buffer)))
    }
}

impl oio::ReadStream for Stream {
    async fn read(&mut self) -> Result<Buffer> {
        self.link
            .0
            .pass("blob read next", || self.path.clone())
            .await;
        let buffer = self.inner.read_dyn().await?;
        Ok(self.link.arrived(&self.path, buffer))
    }
}
