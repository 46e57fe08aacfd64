//! Serves the metrics of a busy engine to Prometheus. Run `curl http://127.0.0.1:9464/metrics`; end
//! with Ctrl-C. `docs/metrics.md` lists the metrics.

#![expect(clippy::print_stdout, reason = "an example prints its address")]

use std::time::Duration;

use cenotaph::{Engine, Env, Error, ErrorKind, Operator};
use metrics_exporter_prometheus::PrometheusBuilder;
use opendal::layers::{MetricsLayer, RetryLayer};
use opendal::services::Memory;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    PrometheusBuilder::new()
        .with_http_listener(([127, 0, 0, 1], 9464))
        .install()?;
    let directory = tempfile::tempdir()?;
    // The metrics layer is below the retry layer, so that it counts every attempt. The blobs are in
    // memory here; the layers work with any service.
    let blobs = Operator::new(Memory::default())?
        .layer(MetricsLayer::new())
        .layer(RetryLayer::new());
    let engine = Engine::builder(directory.path())
        .blobs(blobs)
        .open()
        .await?;
    println!("http://127.0.0.1:9464/metrics");
    tokio::select! {
        worked = work(&engine) => worked?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    engine.close().await?;
    Ok(())
}

/// Writes, reads and deletes small and large objects, until an error occurs.
async fn work(engine: &Engine) -> Result<(), Error> {
    let env = Env::real()?;
    for number in 0u64.. {
        let small = format!("small/{}", number % 100);
        let large = format!("large/{}", number % 5);
        engine
            .put(&small, "value")
            .time_to_live(Duration::from_secs(5))
            .await?;
        engine.put(&large, vec![7; 3_000_000]).await?;
        if let Some(object) = engine.get(&large).await? {
            object.bytes().await?;
        }
        // The conflict is intended: it shows in the metrics.
        if let Err(error) = engine.put(&small, "other").if_absent().await
            && !matches!(error.kind(), ErrorKind::Conflict { .. })
        {
            return Err(error);
        }
        engine.delete(&large).await?;
        env.sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
