//! Embeds Cenotaph in an axum service: uploads and downloads stream, and a download may be a range.
//! The program is its own client: it starts the service on a free port, uses it, and ends.

use std::future::IntoFuture;

use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use cenotaph::{Body, ByteRange, Engine, Error, ErrorKind};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let engine = Engine::builder(directory.path()).open().await?;
    let methods = routing::get(read).put(write);
    let service = Router::new().route("/{*key}", methods.with_state(engine.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/videos/cat", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, service).into_future() => served?,
        used = use_service(&url) => used?,
    }
    Ok(engine.close().await?)
}

type Key = (State<Engine>, Path<String>);

async fn write((State(engine), Path(key)): Key, body: HttpBody) -> Result<(), StatusCode> {
    let put = engine.put(key, Body::stream(body.into_data_stream()));
    put.await.map(drop).map_err(|error| status(&error))
}

async fn read((State(engine), Path(key)): Key, headers: HeaderMap) -> Result<Response, StatusCode> {
    let range = parse_range(&headers);
    let get = engine.get(key).range(range.unwrap_or_default());
    let found = get.await.map_err(|error| status(&error))?;
    let object = found.ok_or(StatusCode::NOT_FOUND)?;
    let total = object.metadata().size;
    let bytes = object.range();
    let body = HttpBody::from_stream(object.stream());
    if range.is_none() || bytes.is_empty() {
        return Ok(body.into_response());
    }
    let content = format!("bytes {}-{}/{total}", bytes.start, bytes.end - 1);
    let headers = [("content-range", content)];
    Ok((StatusCode::PARTIAL_CONTENT, headers, body).into_response())
}

/// Parses `Range: bytes=FIRST-LAST` and `bytes=FIRST-`. Another range returns the whole object.
fn parse_range(headers: &HeaderMap) -> Option<ByteRange> {
    let range = headers.get("range")?.to_str().ok()?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = last.parse().unwrap_or(u64::MAX);
    (first <= last).then(|| (first..=last).into())
}

fn status(error: &Error) -> StatusCode {
    match error.kind() {
        ErrorKind::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn use_service(url: &str) -> reqwest::Result<()> {
    let client = reqwest::Client::new();
    let chunks = (0..80).map(|n| std::io::Result::Ok(vec![n; 100_000]));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    client.put(url).body(body).send().await?;
    let whole = client.get(url).send().await?;
    assert_eq!(whole.bytes().await?.len(), 8_000_000);
    let get = |range| client.get(url).header("range", range).send();
    let two = get("bytes=99999-100000").await?;
    assert_eq!(two.headers()["content-range"], "bytes 99999-100000/8000000");
    assert_eq!(two.bytes().await?[..], [0, 1]);
    assert_eq!(get("bytes=8000000-").await?.status(), 416);
    Ok(())
}
