//! The passes of a migration.

use std::sync::Arc;

use cenotaph_actors::RunningMigration;
use cenotaph_storage::fallback::{
    AttachedFallback, FallbackListRequest, KeyPosition, MigrationCounts, resume,
};
use cenotaph_storage::records::FallbackRecord;
use cenotaph_storage::{Namespace, ObjectId, Result};
use futures::future::FutureExt;
use futures::stream::{self, StreamExt};

use super::object::{MoveOutcome, ObjectMover};
use super::{Listener, MigrationFailure, MigrationOptions, MigrationReport};
use crate::engine::Engine;

/// Objects per page, and so the most that are handled again after a crash.
const PAGE: usize = 256;
/// Most failures in a report.
const FAILURES_MAX: usize = 100;

/// A migration in progress.
pub(super) struct Migration {
    pub(super) engine: Engine,
    /// `None` in a dry run.
    pub(super) running: Option<RunningMigration>,
    pub(super) fallback: AttachedFallback,
    pub(super) record: FallbackRecord,
    pub(super) options: MigrationOptions,
    pub(super) listener: Option<Listener>,
    pub(super) report: MigrationReport,
}

impl Migration {
    /// Runs passes until one permits the seal, and seals.
    ///
    /// # Errors
    /// Those of listing the fallback, and those of a store that can't write.
    pub(super) async fn run(&mut self) -> Result<()> {
        let is_first = self.record.migration.passes == 0;
        // A dry run reads the whole source, and records nothing.
        if is_first || self.options.dry_run {
            self.record.migration = self.record.migration.next_pass();
        }
        for pass in 1..=self.options.passes_max {
            self.report = MigrationReport {
                passes: pass,
                moved: self.report.moved,
                bytes: self.report.bytes,
                failed: self.record.migration.failed,
                ..MigrationReport::default()
            };
            self.pass().await?;
            let Some(running) = &self.running else {
                return Ok(());
            };
            if self
                .record
                .migration
                .permits_seal(self.options.may_be_empty)
            {
                let tiered = self.engine.tiered();
                self.record = tiered.seal_fallback(running, &self.record).await?;
                self.report.is_sealed = true;
                tracing::info!(
                    fallback = self.record.description,
                    moved = self.record.migration.moved,
                    "the migration is complete: the fallback is sealed"
                );
                return Ok(());
            }
            // Recorded now: the next migration must not continue at the end of this pass.
            self.record.migration = self.record.migration.next_pass();
            self.record_progress().await?;
        }
        Ok(())
    }

    /// Runs a pass from the recorded cursor to the end of the source.
    async fn pass(&mut self) -> Result<()> {
        let namespaces = self.fallback.namespaces().await?;
        let (mut at, mut position) = resume(&namespaces, self.record.migration.cursor.as_ref());
        let mover = Arc::new(ObjectMover::new(&self.engine, &self.options));
        while let Some(namespace) = namespaces.get(at) {
            let request = FallbackListRequest {
                namespace: namespace.clone(),
                prefix: String::new(),
                position,
                limit: PAGE,
            };
            // A failed or truncated listing is an error, and never the end of a pass.
            let page = self.fallback.list(&request).await?;
            let skipped = page.skipped.len() as u64;
            let keys: Vec<String> = page.entries.into_iter().map(|entry| entry.key).collect();
            let last = keys.last().cloned();
            // A key that can't be an object fails, and the cursor stays before it.
            let reached = last
                .as_ref()
                .and_then(|key| ObjectId::new(namespace, key).ok());
            let mut moves = Vec::with_capacity(keys.len());
            for key in keys {
                moves.push(Arc::clone(&mover).move_key(namespace.clone(), key).boxed());
            }
            let outcomes: Vec<_> = stream::iter(moves)
                .buffer_unordered(self.options.objects_at_once)
                .collect()
                .await;
            // A store that can't write fails every object. That is no failure of the objects.
            self.engine.check_open("migrate")?;
            self.engine.tiered().health()?;
            let mut counts = self.count(namespace, outcomes);
            self.report.skipped += skipped;
            if !self.options.may_skip_names {
                // Counted in the record, so that a crash does not forget them.
                counts.failed += skipped;
            }
            self.record_page(counts, reached).await?;
            position = last.map_or(KeyPosition::Start, KeyPosition::AfterKey);
            if page.is_complete {
                at += 1;
                position = KeyPosition::Start;
            }
            if let Some(listener) = &self.listener {
                listener(&self.report);
            }
        }
        Ok(())
    }

    /// Counts the outcomes of a page.
    fn count(
        &mut self,
        namespace: &Namespace,
        outcomes: Vec<(String, Result<MoveOutcome>)>,
    ) -> MigrationCounts {
        let mut counts = MigrationCounts::default();
        for (key, outcome) in outcomes {
            let label = match outcome {
                Ok(MoveOutcome::Moved { bytes }) => {
                    counts.moved += 1;
                    counts.bytes += bytes;
                    "moved"
                }
                Ok(MoveOutcome::Kept) => {
                    counts.kept += 1;
                    "kept"
                }
                Err(error) => {
                    let object = format!("{namespace} {key}");
                    counts.failed += 1;
                    tracing::warn!(%error, object, "an object of the fallback could not be moved");
                    if self.report.failures.len() < FAILURES_MAX {
                        self.report
                            .failures
                            .push(MigrationFailure { object, error });
                    }
                    "failed"
                }
            };
            metrics::counter!("cenotaph_migration_objects_total", "outcome" => label).increment(1);
        }
        metrics::counter!("cenotaph_migration_bytes_total").increment(counts.bytes);
        self.report.moved += counts.moved;
        self.report.kept += counts.kept;
        self.report.failed += counts.failed;
        self.report.bytes += counts.bytes;
        counts
    }

    async fn record_page(&mut self, counts: MigrationCounts, last: Option<ObjectId>) -> Result<()> {
        self.record.migration = self.record.migration.after_page(counts, last);
        self.record_progress().await
    }

    async fn record_progress(&self) -> Result<()> {
        let Some(running) = &self.running else {
            return Ok(());
        };
        let tiered = self.engine.tiered();
        tiered.record_migration(running, &self.record).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineFallback;

    #[tokio::test]
    async fn seal_whose_caller_is_gone_takes_effect() {
        let directory = tempfile::tempdir().unwrap();
        let old = Engine::builder(directory.path().join("old"));
        let old = old.open().await.unwrap();
        let new = Engine::builder(directory.path().join("new"));
        let new = new.fallback(EngineFallback::new(old.clone(), "old"));
        let engine = new.open().await.unwrap();
        let tiered = engine.tiered();
        let running = tiered.begin_migration().unwrap();
        let record = FallbackRecord::read(&**engine.index()).await.unwrap();
        let record = record.unwrap();
        assert!(engine.reads().fallback().is_some());
        {
            // Submitted by the first poll, and dropped.
            let mut seal = Box::pin(tiered.seal_fallback(&running, &record));
            drop(futures::poll!(&mut seal));
        }
        drop(running);
        engine.index().barrier().await.unwrap();
        assert!(engine.reads().fallback().is_none(), "the record is sealed");
        assert!(engine.migrate().await.unwrap().is_sealed);
        engine.close().await.unwrap();
        old.close().await.unwrap();
    }
}
