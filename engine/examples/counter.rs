//! Counts in one object from many tasks at once, without a lock and without a lost increment: by
//! hand with a precondition, and with [`Engine::update`].

use cenotaph::{Engine, Error, ErrorKind, Object, Update};
use futures::future::try_join_all;

const TASKS: u64 = 8;
const INCREMENTS: u64 = 25;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let engine = Engine::builder(directory.path()).open().await?;
    try_join_all((0..TASKS).map(|_| count(&engine))).await?;
    let total = value(engine.get("by-hand").await?).await?;
    assert_eq!(total, TASKS * INCREMENTS);
    let total = value(engine.get("updated").await?).await?;
    assert_eq!(total, TASKS * INCREMENTS);
    Ok(engine.close().await?)
}

async fn count(engine: &Engine) -> Result<(), Error> {
    for _ in 0..INCREMENTS {
        while !try_increment(engine).await? {}
        increment(engine).await?;
    }
    Ok(())
}

/// Increments the counter, or returns false if another task wrote it since it was read.
async fn try_increment(engine: &Engine) -> Result<bool, Error> {
    let current = engine.get("by-hand").await?;
    let version = current.as_ref().and_then(Object::version);
    let next = value(current).await? + 1;
    let put = engine.put("by-hand", next.to_string());
    let put = match version {
        Some(version) => put.if_version(version),
        None => put.if_absent(),
    };
    match put.await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Does the same with retries, queues and pauses that suit a contended object.
async fn increment(engine: &Engine) -> Result<(), Error> {
    let increment = |current| async {
        let next = value(current).await? + 1;
        Ok::<_, Error>(Update::put(next.to_string()))
    };
    engine.update("updated", increment).await.map(drop)
}

async fn value(object: Option<Object>) -> Result<u64, Error> {
    let Some(object) = object else {
        return Ok(0);
    };
    let digits = object.bytes().await?;
    let digits = std::str::from_utf8(&digits).expect("the counter is written as digits");
    Ok(digits.parse().expect("the counter is written as digits"))
}
