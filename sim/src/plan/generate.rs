//! Generation of the plan of a seed by swarm testing (Groce et al., "Swarm testing", 2012): each
//! seed omits some operations and some faults, so that frequent operations do not hide the effects
//! of others.
//!
//! The order of draws from the generator is part of the meaning of a seed. A new draw belongs at
//! the end or on its own stream.

use std::time::Duration;

use super::{HOT, LastVersionRules, RunPlan, Setting, UploadRules};
use crate::faults::{Faults, Schedule};
use crate::rng::{Odds, Rng};

mod members;
mod ops;
mod uploads;

/// Number of cold objects of a plan.
const COLD: u64 = 60;
/// Size of a block of a blob, which has its own checksum.
const BLOCK: u64 = 1024 * 1024;
/// Maximum size of a payload in the row itself.
const EMBEDDED: u64 = 4096;

/// Index of the weight of gets.
const GETS: usize = 1;
/// Index of the weight of extensions.
const EXTENSIONS: usize = 14;
/// Index of the first weight of multipart uploads.
const UPLOADS: usize = 23;

/// Frequencies of the operations of a plan.
struct Mix {
    /// Weights of the kinds of operations.
    weights: [u64; UPLOADS + uploads::WEIGHTS.len()],
    /// Odds that a write has a demand.
    conditional: Odds,
    /// Odds that a write has an expiration.
    mortal: Odds,
    /// Odds of a hot object.
    hot: Odds,
    /// Odds of a payload in the blob tier.
    large: Odds,
    /// Odds of a payload of several blocks.
    huge: Odds,
}

impl RunPlan {
    /// Generates the plan of this seed with about this many operations.
    pub fn generate(seed: u64, operations: usize) -> Self {
        let mut rng = Rng::new(seed, "plan");
        let mut setting = setting(&mut rng);
        let mut faults = faults(&mut rng, setting.restarts_max);
        if faults != Faults::default() {
            faults.index_low = low(&mut Rng::new(seed, "low disk"));
        }
        setting.last_versions = last_versions(&mut Rng::new(seed, "last versions"));
        let schedule = schedule(&mut rng);
        let mut mix = mix(&mut rng);
        if faults.clock_jump != Odds::NEVER {
            // Liveness depends on the wall time. With a clock that jumps, the model cannot
            // determine the existence of an object that expires.
            mix.mortal = Odds::NEVER;
            mix.weights[EXTENSIONS] = 0;
            let part_bytes_min = setting.multipart.part_bytes_min;
            setting.multipart = UploadRules {
                part_bytes_min,
                ..UploadRules::default()
            };
        }
        if mix.huge > Odds::NEVER {
            // Payloads of several blocks are expensive, so that only few seeds have them. In these
            // seeds, bit rot is likely, so that reads fail after their first block.
            mix.hot = Odds::in_ten_thousand(9500);
            setting.cut = setting.cut.map(uploads::cut_huge);
            faults.blob_bit_rot = Odds::in_ten_thousand(1500);
        }
        let clients = 1 + rng.below(8);
        let each = (operations as u64).div_ceil(clients);
        let clients = (0..clients)
            .map(|_| ops::client(&mut rng, &mix, &setting, each))
            .collect();
        // A separate stream, so that faults of the tier did not change the plans of existing seeds.
        let mut rng_of_tier = Rng::new(seed, "tier");
        if faults != Faults::default() && rng_of_tier.below(6) == 0 {
            faults.tier_away = Odds::in_ten_thousand(
                1 + u32::try_from(rng_of_tier.below(200)).expect("small odds"),
            );
        }
        if faults != Faults::default() && rng_of_tier.below(3) == 0 {
            faults.tier_swapped = Odds::in_ten_thousand(3000);
        }
        // Also a separate stream.
        setting.payload_log = Rng::new(seed, "payload log").below(3) == 0;
        let crashes_max = u32::try_from(rng.below(6)).expect("a small number");
        let mut plan = Self {
            seed,
            setting,
            schedule,
            faults,
            acts: Vec::new(),
            crashes_max,
            clients,
            insistent: false,
            fallback: None,
            members: None,
        };
        plan.add_fallback();
        plan.add_tiers();
        plan
    }
}

/// Generates the configuration of the engine.
fn setting(rng: &mut Rng) -> Setting {
    let rarely =
        |rng: &mut Rng, small: u64, large: u64| if rng.below(8) == 0 { small } else { large };
    let to_usize = |number: u64| usize::try_from(number).expect("a small number");
    Setting {
        shards: to_usize(1 + rng.below(4)),
        inline_bytes_max: rng.pick(&[0, 100, EMBEDDED, EMBEDDED + 1, 6000]),
        uploads_at_once: to_usize(rarely(rng, 1, 64)),
        writes_at_once: to_usize(rarely(rng, 2, 256)),
        restarts_max: to_usize(rarely(rng, 3, 1_000_000)),
        scarce: rng.below(4) == 0,
        strict_deletes: rng.below(3) == 0,
        cut: uploads::cut(rng),
        multipart: uploads::rules(rng),
        payload_log: false,
        last_versions: LastVersionRules::default(),
    }
}

/// Generates the limits of last versions: in half of the seeds they are reached.
fn last_versions(rng: &mut Rng) -> LastVersionRules {
    let rules = LastVersionRules::default();
    match rng.below(4) {
        0 => LastVersionRules {
            kept_for_ms: rng.pick(&[0, 50, 2000]),
            ..rules
        },
        1 => LastVersionRules {
            entries_max: rng.below(4),
            ..rules
        },
        _ => rules,
    }
}

/// Generates the interleaving.
fn schedule(rng: &mut Rng) -> Schedule {
    Schedule {
        yields_max: rng.below(4),
        delay: Odds::in_ten_thousand(rng.pick(&[0, 100, 500, 2000])),
        delay_max: Duration::from_millis(rng.pick(&[2, 20, 500])),
    }
}

/// Generates the random faults: none in a tenth of the seeds, and each fault in a third of the
/// others.
fn faults(rng: &mut Rng, restarts_max: usize) -> Faults {
    if rng.below(10) == 0 {
        return Faults::default();
    }
    let some = |most: u64, rng: &mut Rng| {
        let odds = 1 + rng.below(most);
        let is_in = rng.below(3) == 0;
        Odds::in_ten_thousand(if is_in {
            u32::try_from(odds).expect("small odds")
        } else {
            0
        })
    };
    let mut faults = Faults {
        crash: some(40, rng),
        kill: some(300, rng),
        panic: some(100, rng),
        clock_jump: some(50, rng),
        index_no_space: some(100, rng),
        index_sync_fails: some(100, rng),
        index_sync_hangs: some(60, rng),
        index_sync_slow: some(2000, rng),
        index_read_fails: some(600, rng),
        blob_fails: some(1000, rng),
        blob_response_lost: some(1000, rng),
        blob_slow: some(2000, rng),
        blob_stalls: some(300, rng),
        blob_partial: some(5000, rng),
        blob_late: some(3000, rng),
        blob_not_found: some(1000, rng),
        blob_deleted_twice: some(3000, rng),
        blob_bit_rot: some(500, rng),
        index_bit_rot: some(500, rng),
        blob_hangs: some(3000, rng),
        ..Faults::default()
    };
    // A blob that appears after the grace time, measured in wall time, cannot be cleaned up. A wall
    // clock that jumps can make every grace time too short, so that the two faults are not
    // combined.
    if faults.clock_jump != Odds::NEVER {
        faults.blob_late = Odds::NEVER;
    }
    // A kill during a commit is the most important case. Slow syncs make it likely.
    if faults.kill != Odds::NEVER && rng.below(2) == 0 {
        faults.index_sync_slow = Odds::in_ten_thousand(5000);
    }
    // A plan with a small restart limit needs kills to reach the limit.
    if restarts_max < 100 && faults.kill == Odds::NEVER {
        faults.kill = Odds::in_ten_thousand(50);
    }
    faults
}

/// Returns the odds of a full disk, which are above zero in a quarter of the seeds.
fn low(rng: &mut Rng) -> Odds {
    let odds = 1 + u32::try_from(rng.below(100)).expect("a small number");
    Odds::in_ten_thousand(if rng.below(4) == 0 { odds } else { 0 })
}

/// Generates the frequencies of operations. Each seed omits about a third of the kinds other than
/// put and get.
fn mix(rng: &mut Rng) -> Mix {
    let mut weights = [0; UPLOADS + uploads::WEIGHTS.len()];
    weights[..UPLOADS].copy_from_slice(&[
        14, 12, 2, 6, 2, 1, 1, 1, 4, 1, 1, 1, 4, 2, 2, 2, 1, 2, 3, 1, 1, 1, 1,
    ]);
    weights[UPLOADS..].copy_from_slice(&uploads::WEIGHTS);
    // The first two are put and get.
    for weight in weights.iter_mut().skip(2) {
        if rng.below(3) == 0 {
            *weight = 0;
        }
    }
    let mortal = rng.pick(&[0, 0, 3000, 8000]);
    // Idle refreshes must race with other writes of their object. Some plans have no uploads, so
    // that these races are frequent.
    let idles = mortal == 8000 && rng.below(2) == 0;
    if weights[UPLOADS] == 0 || idles {
        weights[UPLOADS..].fill(0);
    }
    if idles {
        weights[GETS] *= 2;
    }
    Mix {
        weights,
        conditional: Odds::in_ten_thousand(rng.pick(&[0, 0, 1000, 5000])),
        mortal: Odds::in_ten_thousand(mortal),
        hot: Odds::in_ten_thousand(rng.pick(&[2000, 6000, 9500])),
        large: Odds::in_ten_thousand(rng.pick(&[1000, 5000, 9000])),
        huge: if rng.below(40) == 0 {
            Odds::in_ten_thousand(5000)
        } else {
            Odds::NEVER
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        assert_eq!(RunPlan::generate(7, 100), RunPlan::generate(7, 100));
        assert_ne!(
            RunPlan::generate(7, 100).clients,
            RunPlan::generate(8, 100).clients
        );
        assert!((100..108).contains(&RunPlan::generate(7, 100).operations()));
    }
}
