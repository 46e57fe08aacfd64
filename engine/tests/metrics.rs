//! The metrics of an engine as Prometheus scrapes them. A process of its own, for there is one
//! recorder in each.

#![expect(clippy::unwrap_used, reason = "a test panics")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use cenotaph::{Body, Config, Engine, Update};
use futures::stream;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// The value of a line, or 0 if it is not there.
fn value(scraped: &str, line: &str) -> f64 {
    let value = scraped
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

fn operations(scraped: &str, operation: &str, outcome: &str) -> f64 {
    value(
        scraped,
        &format!("cenotaph_operations_total{{operation=\"{operation}\",outcome=\"{outcome}\"}}"),
    )
}

#[tokio::test]
async fn operations_bytes_and_sizes_are_told() {
    let recorder: PrometheusHandle = PrometheusBuilder::new().install_recorder().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.limits.heartbeat = Duration::from_millis(5);
    let engine = Engine::builder(directory.path())
        .config(config)
        .open()
        .await
        .unwrap();

    engine.put("small", vec![1; 100]).await.unwrap();
    engine
        .put("small", vec![1; 100])
        .if_absent()
        .await
        .unwrap_err();
    engine.put("large", vec![1; 3_000_000]).await.unwrap();
    let mut stalled = Box::pin(
        engine
            .put(
                "stalled",
                Body::stream(stream::pending::<std::io::Result<Vec<u8>>>()),
            )
            .into_future(),
    );
    assert!(futures::poll!(&mut stalled).is_pending());
    assert_eq!(
        value(
            &recorder.render(),
            "cenotaph_operations_live{operation=\"put\"}"
        ),
        1.0
    );
    drop(stalled);
    let mut large = engine.get("large").await.unwrap().unwrap();
    let first = large.chunk().await.unwrap().unwrap().len();
    assert_eq!(value(&recorder.render(), "cenotaph_reads_open"), 1.0);
    drop(large);
    assert_eq!(
        engine
            .get("small")
            .await
            .unwrap()
            .unwrap()
            .bytes()
            .await
            .unwrap()
            .len(),
        100
    );
    engine.copy("small", "copy").await.unwrap();
    engine
        .update("small", async |_| Ok::<_, std::io::Error>(Update::Delete))
        .await
        .unwrap();
    engine.head("absent").await.unwrap();
    engine.list("").await.unwrap();
    engine
        .atomic([cenotaph::Write::delete("copy")])
        .await
        .unwrap();
    let upload = engine.multipart("film").await.unwrap();
    upload.part(1, "a take").await.unwrap();
    upload.abort().await.unwrap();
    engine.settle().await.unwrap();
    while value(&recorder.render(), "cenotaph_writes_max") == 0.0 {
        tokio::task::yield_now().await;
    }

    let scraped = recorder.render();
    for (operation, outcome, count) in [
        ("put", "ok", 3.0),
        ("put", "conflict", 1.0),
        ("put", "dropped", 1.0),
        ("get", "ok", 2.0),
        ("copy", "ok", 1.0),
        ("update", "ok", 1.0),
        ("delete", "ok", 1.0),
        ("head", "ok", 1.0),
        ("list", "ok", 1.0),
        ("atomic", "ok", 1.0),
        ("multipart", "ok", 1.0),
        ("part", "ok", 1.0),
        ("abort", "ok", 1.0),
    ] {
        assert_eq!(
            operations(&scraped, operation, outcome),
            count,
            "{operation} {outcome}\n{scraped}"
        );
    }
    assert_eq!(
        value(&scraped, "cenotaph_operations_live{operation=\"put\"}"),
        0.0
    );
    assert_eq!(
        value(
            &scraped,
            "cenotaph_operation_seconds_count{operation=\"put\"}"
        ),
        5.0
    );
    let bytes = |direction: &str, tier: &str| {
        value(
            &scraped,
            &format!("cenotaph_bytes_total{{direction=\"{direction}\",tier=\"{tier}\"}}"),
        )
    };
    assert_eq!(
        bytes("in", "inline"),
        300.0,
        "twice a put, of which one was refused, and a copy"
    );
    assert_eq!(bytes("in", "blob"), 3_000_006.0, "an object and a part");
    assert_eq!(bytes("out", "blob"), first as f64);
    assert_eq!(
        value(&scraped, "cenotaph_object_bytes_sum{tier=\"inline\"}"),
        200.0
    );
    assert_eq!(
        value(&scraped, "cenotaph_object_bytes_sum{tier=\"blob\"}"),
        3_000_000.0
    );
    assert_eq!(value(&scraped, "cenotaph_reads_open"), 0.0);
    assert_eq!(value(&scraped, "cenotaph_read_bytes_held"), 0.0);
    assert_eq!(value(&scraped, "cenotaph_writes_max"), 4096.0);
    engine.close().await.unwrap();
}

/// All names in string literals of these sources.
fn told(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if entry.is_dir() {
            told(&entry, names);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            names.extend(named(&std::fs::read_to_string(entry).unwrap(), '"'));
        }
    }
}

/// The names of metrics between two of these marks.
fn named(text: &str, mark: char) -> impl Iterator<Item = String> {
    let is_name = |text: &&str| {
        text.starts_with("cenotaph_")
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    text.split(mark).filter(is_name).map(str::to_owned)
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut names = BTreeSet::new();
    for room in ["storage", "actors", "engine"] {
        told(&root.join(room).join("src"), &mut names);
    }
    let documented: BTreeSet<String> = named(
        &std::fs::read_to_string(root.join("docs/metrics.md")).unwrap(),
        '`',
    )
    .collect();
    assert_eq!(names, documented);
    assert!(names.len() > 30, "{names:?}");
}
