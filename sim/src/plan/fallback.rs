//! The fallback of a plan: in a minority of the plans, the engine is opened over a source of objects
//! that it does not have yet.

use serde::{Deserialize, Serialize};

use super::{HOT, Op, RunPlan};
use crate::faults::Faults;
use crate::rng::{Odds, Rng};

/// Object of the fallback at the beginning of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePlan {
    /// Number of the object.
    pub object: u32,
    /// Size of the payload in bytes.
    pub bytes: u64,
    /// Time from the beginning of the run to the deadline of the object, in milliseconds.
    pub deadline_ms: Option<u64>,
}

impl RunPlan {
    /// Gives a fallback to one plan of eight. Draws from a stream of its own, and changes nothing
    /// in the other plans.
    pub(super) fn add_fallback(&mut self) {
        let rng = &mut Rng::new(self.seed, "fallback");
        if rng.below(8) != 0 {
            return;
        }
        // Existence can't be decided if the wall clock jumps.
        let may_expire = self.faults.clock_jump == Odds::NEVER && rng.below(2) == 0;
        let inline = self.setting.inline_bytes_max;
        let objects: Vec<u32> = (0..HOT + 20).filter(|_| rng.below(3) > 0).collect();
        let objects = objects.into_iter().map(|object| SourcePlan {
            object,
            bytes: rng.pick(&[0, 5, 60, 200, inline, inline + 1, 9000]),
            deadline_ms: (may_expire && rng.below(3) == 0)
                .then(|| rng.pick(&[1, 100, 2_000, 30_000, 3_600_000])),
        });
        self.fallback = Some(objects.collect());
        let is_faulty = self.faults != Faults::default();
        let mut some = |most: u64| match is_faulty && rng.below(2) == 0 {
            true => Odds::in_ten_thousand(u32::try_from(1 + rng.below(most)).unwrap_or(1)),
            false => Odds::NEVER,
        };
        self.faults.source_fails = some(1500);
        self.faults.source_slow = some(3000);
        self.faults.source_list_cut = some(4000);
        // A migration from a source that hides its objects loses them, so that a plan has either.
        let hides = is_faulty && rng.below(4) == 0;
        if hides {
            self.faults.source_hides = Odds::in_ten_thousand(1500);
        }
        // Most of the run should be before the seal.
        let migrations = if hides { 0 } else { rng.pick(&[0, 1, 1, 5]) };
        for client in &mut self.clients {
            for op in client {
                match rng.below(60) {
                    draw if draw < migrations => {
                        let dropped_after_ms = (rng.below(3) == 0).then(|| rng.below(50));
                        *op = Op::Migrate { dropped_after_ms };
                    }
                    58.. => {
                        *op = Op::WriteSource {
                            object: u32::try_from(rng.below(u64::from(HOT) + 20)).unwrap_or(0),
                            bytes: rng.pick(&[0, 30, 300, inline + 1]),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}
