//! A cache on disk: entries expire some time after they were written, or after they were last read,
//! and survive restarts until then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cenotaph::bytes::Bytes;
use cenotaph::{Engine, Env, Error, Expiration};

/// A slow service whose answers are worth keeping.
#[derive(Default)]
struct Origin {
    requests: AtomicU64,
}

impl Origin {
    fn fetch(&self, name: &str) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{name}, answer {number}")
    }
}

struct Cache {
    engine: Engine,
    origin: Origin,
}

impl Cache {
    /// Returns the cached answer, or fetches it and keeps it.
    async fn get(&self, name: &str, expiration: Expiration) -> Result<Bytes, Error> {
        let key = format!("cache/{name}");
        if let Some(cached) = self.engine.get(&key).await? {
            return cached.bytes().await;
        }
        let answer = Bytes::from(self.origin.fetch(name));
        let put = self.engine.put(&key, answer.clone());
        match expiration {
            Expiration::TimeToLive(time) => put.time_to_live(time).await?,
            Expiration::TimeToIdle(time) => put.time_to_idle(time).await?,
            Expiration::Manual => put.await?,
        };
        Ok(answer)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let engine = Engine::builder(directory.path()).open().await?;
    let cache = Cache {
        engine,
        origin: Origin::default(),
    };
    let hour = Expiration::TimeToIdle(Duration::from_secs(3600));
    for _ in 0..3 {
        assert_eq!(cache.get("rome", hour).await?, "rome, answer 1");
    }

    let instant = Expiration::TimeToLive(Duration::from_millis(100));
    assert_eq!(cache.get("oslo", instant).await?, "oslo, answer 2");
    // From its deadline on the entry is absent. The engine releases its space by itself.
    let env = Env::real()?;
    while cache.engine.head("cache/oslo").await?.is_some() {
        env.sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(cache.get("oslo", instant).await?, "oslo, answer 3");
    cache.engine.close().await?;

    let engine = Engine::builder(directory.path()).open().await?;
    let cache = Cache { engine, ..cache };
    assert_eq!(cache.get("rome", hour).await?, "rome, answer 1");
    Ok(cache.engine.close().await?)
}
