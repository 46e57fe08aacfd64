//! Migrations from the fallback.

use std::time::Duration;

use super::{Client, failed};
use crate::check::Answer;

impl Client {
    /// Migrates everything from the fallback, or drops the call after `dropped_after_ms`.
    pub(crate) async fn migrate(&self, dropped_after_ms: Option<u64>) -> Answer {
        let migrate = self.engine.migrate().allow_empty().into_future();
        let migrated = match dropped_after_ms {
            Some(ms) => {
                let env = self.world.env();
                env.deadline(Duration::from_millis(ms), migrate).await
            }
            None => Some(migrate.await),
        };
        let mut state = self.durable_state.state();
        match migrated {
            None => Answer::Cancelled,
            Some(Err(error)) => failed(&error),
            Some(Ok(report)) if report.is_sealed => {
                state.coverage.count("fallback: sealed");
                let tick = state.trace.tick();
                state.model.source_reported(tick);
                state.report_violations();
                Answer::Done
            }
            Some(Ok(_)) => {
                state.coverage.count("fallback: a migration with failures");
                Answer::Done
            }
        }
    }
}
