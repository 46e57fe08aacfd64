//! The blob tiers of a plan: in a minority of the plans, the store moves to other tiers.

use super::{Op, RunPlan};
use crate::rng::Rng;

impl RunPlan {
    /// Lets the store of one plan of eight move to another tier, or to two. Draws from a stream of
    /// its own, and changes nothing in the other plans.
    pub(super) fn add_tiers(&mut self) {
        let rng = &mut Rng::new(self.seed, "tiers");
        if rng.below(8) != 0 {
            return;
        }
        // Most payloads are blobs in half of these plans, so that more copies meet writes.
        if rng.below(2) == 0 {
            self.setting.inline_bytes_max = rng.pick(&[0, 10, 100]);
        }
        let relocations = rng.pick(&[2, 6, 10]);
        for client in &mut self.clients {
            for op in client {
                match rng.below(60) {
                    draw if draw < relocations => {
                        let dropped_after_ms = (rng.below(3) == 0).then(|| rng.below(50));
                        *op = Op::Relocate { dropped_after_ms };
                    }
                    59 => *op = Op::NextTier,
                    _ => {}
                }
            }
        }
    }
}
