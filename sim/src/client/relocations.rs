//! Relocations from older blob tiers.

use std::time::Duration;

use super::{Client, failed};
use crate::check::Answer;

impl Client {
    /// Relocates all payloads, or drops the call after `dropped_after_ms`.
    pub(crate) async fn relocate(&self, dropped_after_ms: Option<u64>) -> Answer {
        let relocate = self.engine.relocate().objects_at_once(4).into_future();
        let relocated = match dropped_after_ms {
            Some(ms) => {
                let env = self.world.env();
                env.deadline(Duration::from_millis(ms), relocate).await
            }
            None => Some(relocate.await),
        };
        match relocated {
            None => Answer::Cancelled,
            Some(Err(error)) => failed(&error),
            Some(Ok(report)) => {
                if report.left > 0 {
                    let mut state = self.durable_state.state();
                    state.coverage.count("tiers: a relocation left something");
                }
                Answer::Done
            }
        }
    }
}
