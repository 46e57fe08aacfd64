//! The metrics of an engine as Prometheus scrapes them. This is a test binary of its own, because a
//! process has a single recorder.

#![expect(clippy::unwrap_used, reason = "a test panics")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use cenotaph::{Body, Config, Engine, Update};
use futures::stream;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Returns the value of a line, or 0 if the line is missing.
fn value(scraped: &str, line: &str) -> f64 {
    let value = scraped
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// Returns the number of operations with an outcome.
fn operations(scraped: &str, operation: &str, outcome: &str) -> f64 {
    value(
        scraped,
        &format!("cenotaph_operations_total{{operation=\"{operation}\",outcome=\"{outcome}\"}}"),
    )
}

/// Asserts the value of each line, given as a name with labels.
fn assert_values(scraped: &str, expected: &[(&str, f64)]) {
    for &(line, expected) in expected {
        assert_eq!(value(scraped, line), expected, "{line}\n{scraped}");
    }
}

/// Writes a small and a large object, and cancels a put whose stream stalls.
async fn put_objects(engine: &Engine, recorder: &PrometheusHandle) {
    engine.put("small", vec![1; 100]).await.unwrap();
    engine
        .put("small", vec![1; 100])
        .if_absent()
        .await
        .unwrap_err();
    engine.put("large", vec![1; 3_000_000]).await.unwrap();
    let endless = Body::stream(stream::pending::<std::io::Result<Vec<u8>>>());
    let mut stalled = Box::pin(engine.put("stalled", endless).into_future());
    assert!(futures::poll!(&mut stalled).is_pending());
    let live = "cenotaph_operations_live{operation=\"put\"}";
    assert_eq!(value(&recorder.render(), live), 1.0);
    drop(stalled);
}

/// Reads both objects, and returns the length of the only chunk that is read of the large object.
async fn read_objects(engine: &Engine, recorder: &PrometheusHandle) -> usize {
    let mut large = engine.get("large").await.unwrap().unwrap();
    let first = large.chunk().await.unwrap().unwrap().len();
    assert_eq!(value(&recorder.render(), "cenotaph_reads_open"), 1.0);
    drop(large);
    let small = engine.get("small").await.unwrap().unwrap();
    assert_eq!(small.bytes().await.unwrap().len(), 100);
    first
}

/// Runs each of the other operations once.
async fn run_other_operations(engine: &Engine) {
    engine.copy("small", "copy").await.unwrap();
    engine
        .update("small", async |_| Ok::<_, std::io::Error>(Update::Delete))
        .await
        .unwrap();
    engine.head("absent").await.unwrap();
    engine.list("").await.unwrap();
    engine
        .atomic([cenotaph::BatchWrite::delete("copy")])
        .await
        .unwrap();
    let upload = engine.multipart("film").await.unwrap();
    upload.part(1, "a take").await.unwrap();
    upload.abort().await.unwrap();
    engine.settle().await.unwrap();
}

#[tokio::test]
async fn operations_bytes_and_sizes_are_counted() {
    let recorder: PrometheusHandle = PrometheusBuilder::new().install_recorder().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.limits.heartbeat = Duration::from_millis(5);
    let engine = Engine::builder(directory.path())
        .config(config)
        .open()
        .await
        .unwrap();

    put_objects(&engine, &recorder).await;
    let first = read_objects(&engine, &recorder).await;
    run_other_operations(&engine).await;
    // Gauges of budgets are set at a heartbeat.
    while value(&recorder.render(), "cenotaph_writes_max") == 0.0 {
        tokio::task::yield_now().await;
    }

    let scraped = recorder.render();
    for (operation, outcome, count) in [
        ("put", "ok", 3.0), // two puts and the put of the copy
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
    let bytes_in_inline = "cenotaph_bytes_total{direction=\"in\",tier=\"inline\"}";
    let bytes_in_blob = "cenotaph_bytes_total{direction=\"in\",tier=\"blob\"}";
    let bytes_out_blob = "cenotaph_bytes_total{direction=\"out\",tier=\"blob\"}";
    assert_values(
        &scraped,
        &[
            ("cenotaph_operations_live{operation=\"put\"}", 0.0),
            ("cenotaph_operation_seconds_count{operation=\"put\"}", 5.0),
            // 100 bytes each: two puts, one of them refused, and a copy.
            (bytes_in_inline, 300.0),
            // An object and a part of 6 bytes.
            (bytes_in_blob, 3_000_006.0),
            (bytes_out_blob, first as f64),
            ("cenotaph_object_bytes_sum{tier=\"inline\"}", 200.0),
            ("cenotaph_object_bytes_sum{tier=\"blob\"}", 3_000_000.0),
            ("cenotaph_reads_open", 0.0),
            ("cenotaph_read_bytes_held", 0.0),
            ("cenotaph_writes_max", 4096.0),
        ],
    );
    engine.close().await.unwrap();
}

/// Collects the names of metrics in the string literals of all sources below a directory.
fn collect_names(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if entry.is_dir() {
            collect_names(&entry, names);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            names.extend(names_between(&std::fs::read_to_string(entry).unwrap(), '"'));
        }
    }
}

/// Returns the names of metrics that are enclosed in `mark`.
fn names_between(text: &str, mark: char) -> impl Iterator<Item = String> {
    let is_name = |text: &&str| {
        text.starts_with("cenotaph_")
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    text.split(mark).filter(is_name).map(str::to_owned)
}

#[test]
fn metrics_and_their_documentation_agree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut names = BTreeSet::new();
    for room in ["storage", "actors", "engine"] {
        collect_names(&root.join(room).join("src"), &mut names);
    }
    let documented: BTreeSet<String> = names_between(
        &std::fs::read_to_string(root.join("docs/metrics.md")).unwrap(),
        '`',
    )
    .collect();
    assert_eq!(names, documented);
    assert!(names.len() > 30, "{names:?}");
}
