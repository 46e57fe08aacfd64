//! `migrate`: moves everything from a source into the store, then seals the source. The exit code
//! is not 0 if the source is not sealed.

use std::time::Duration;

use cenotaph::MigrationReport;
use serde_json::json;

use crate::args::MigrateArgs;
use crate::store::OpenStore;
use crate::ui::clock::Stopwatch;
use crate::ui::failure::{Failure, one_line};
use crate::ui::human;
use crate::ui::report::Report;

/// Runs `migrate`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &MigrateArgs,
) -> Result<(), Failure> {
    if options.source_lost {
        if store.engine.fallback_status().await?.is_none() {
            let message = "the store was never opened over a fallback";
            return Err(Failure::Failed(message.to_owned()));
        }
        return report.result(
            || json!({ "event": "lost" }),
            || "the source is declared lost: the objects that only it had are absent".to_owned(),
        );
    }
    let watch = Stopwatch::start(&store.env);
    let bar = report.bar("migrate", None);
    let mut migration = store.engine.migrate().objects_at_once(options.jobs);
    if let Some(bytes) = options.bytes_per_second {
        migration = migration.bytes_per_second(bytes);
    }
    if options.verify {
        migration = migration.verify();
    }
    if options.dry_run {
        migration = migration.dry_run();
    }
    if options.allow_empty {
        migration = migration.allow_empty();
    }
    if options.skip_unnameable {
        migration = migration.skip_unnameable();
    }
    if let Some(source) = store.source.as_ref().filter(|_| options.delete_source) {
        migration = migration.delete_moved_from_shared(source.removable());
    }
    let shown = bar.clone();
    let show = move |at: &MigrationReport| {
        let handled = at.moved + at.kept + at.failed;
        shown.at(at.bytes, None, at.moved, handled);
    };
    let migrated = migration.on_progress(show).await?;
    bar.end();
    let is_alone = match &store.source {
        Some(source) => source.check_alone(&store.env).await,
        None => Ok(()),
    };
    print(report, options, &migrated, watch.elapsed())?;
    if migrated.is_sealed || options.dry_run {
        return is_alone;
    }
    Err(Failure::Failed(
        if migrated.failed == 0 && migrated.skipped == 0 {
            "the source seems empty and is not sealed; give --allow-empty if it is".to_owned()
        } else {
            "not everything could be moved, and the source is not sealed; run it again".to_owned()
        },
    ))
}

fn print(
    report: &Report,
    options: &MigrateArgs,
    migrated: &MigrationReport,
    took: Duration,
) -> Result<(), Failure> {
    for failure in &migrated.failures {
        let error = one_line(&failure.error);
        report.result(
            || json!({ "event": "failed", "object": failure.object, "error": error }),
            || format!("failed {}: {error}", failure.object),
        )?;
    }
    report.result(
        || {
            json!({
                "event": "summary",
                "dry_run": options.dry_run,
                "sealed": migrated.is_sealed,
                "moved": migrated.moved,
                "kept": migrated.kept,
                "failed": migrated.failed,
                "skipped": migrated.skipped,
                "bytes": migrated.bytes,
                "passes": migrated.passes,
                "elapsed_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            })
        },
        || {
            let verb = if options.dry_run {
                "would move"
            } else {
                "moved"
            };
            let seconds = took.as_secs_f64().max(0.001);
            #[expect(clippy::cast_precision_loss, reason = "a rate to read")]
            let rate = migrated.moved as f64 / seconds;
            format!(
                "{verb} {}, {} in {} ({rate:.0}/s); {} kept, {} failed, {} names skipped{}",
                human::counted(migrated.moved, "object"),
                human::bytes(migrated.bytes),
                human::duration(took),
                human::grouped(migrated.kept),
                human::grouped(migrated.failed),
                human::grouped(migrated.skipped),
                if migrated.is_sealed { "; sealed" } else { "" },
            )
        },
    )
}
