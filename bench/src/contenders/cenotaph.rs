//! Cenotaph, with the default configuration. All sizes of the benchmark are inline.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cenotaph::{Config, Engine};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Store;

pub(crate) struct CenotaphStore(pub(crate) Engine);

impl CenotaphStore {
    pub(crate) async fn create(dir: &Path) -> Self {
        let builder = Engine::builder(dir).config(inline_config());
        Self(builder.open().await.expect("the disk works"))
    }
}

impl Store for CenotaphStore {
    fn put(&self, key: String, payload: Bytes) -> BoxFuture<'static, ()> {
        let put = self.0.put(key, payload).into_future();
        async {
            put.await.expect("no put fails");
        }
        .boxed()
    }

    fn close(self: Arc<Self>) -> BoxFuture<'static, ()> {
        async move { self.0.close().await.expect("the disk works") }.boxed()
    }
}

/// Returns the default configuration, with the inline limit named.
fn inline_config() -> Config {
    Config {
        inline_bytes_max: 1 << 20,
        ..Config::default()
    }
}
