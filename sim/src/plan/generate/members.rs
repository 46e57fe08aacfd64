//! Generation of plans for several members that share an index.
//!
//! Every plan contends for few objects. Operations that concern a single engine are left out:
//! namespaces that are switched off, another blob tier, a fallback, deadlines by the clock of one
//! process.

use super::{Mix, UPLOADS, last_versions, ops, schedule, uploads};
use crate::faults::Faults;
use crate::plan::{LastVersionRules, MembersPlan, Op, RunPlan, Setting, Span, UploadRules};
use crate::rng::{Odds, Rng};

/// Weights of the operations, in the order of [`Mix::weights`].
const WEIGHTS: [u64; UPLOADS] = [
    14, 14, 2, 6, 2, 1, 1, 1, 4, 1, 0, 1, 10, 2, 0, 4, 1, 2, 4, 1, 1, 0, 0,
];

impl RunPlan {
    /// Generates the plan of this seed with about this many operations, for two to four members
    /// that share an index.
    pub fn generate_shared(seed: u64, operations: usize) -> Self {
        let mut rng = Rng::new(seed, "shared plan");
        let setting = setting(&mut rng);
        let faults = faults(&mut rng);
        let schedule = schedule(&mut rng);
        let mix = mix(&mut rng);
        let members = MembersPlan {
            count: 2 + rng.index(3),
            skew_ms_max: rng.pick(&[0, 1_000, 600_000]),
            lease_ms: 20_000,
            reader_grace_ms: rng.pick(&[16_000, 30_000, 60_000]),
        };
        let clients = members.count as u64 * (1 + rng.below(3));
        let each = (operations as u64).div_ceil(clients);
        let mut client = |_| {
            let mut ops = ops::client(&mut rng, &mix, &setting, each);
            ops.iter_mut().for_each(|op| slow_down(&mut rng, op));
            ops
        };
        let clients = (0..clients).map(&mut client).collect();
        Self {
            seed,
            setting,
            schedule,
            faults,
            acts: Vec::new(),
            crashes_max: u32::try_from(rng.below(8)).expect("a small number"),
            clients,
            insistent: false,
            fallback: None,
            members: Some(members),
        }
    }
}

/// Makes some reads whole and slow, so that they outlast the grace time of an orphan.
fn slow_down(rng: &mut Rng, op: &mut Op) {
    if let Op::Get {
        pause_ms,
        span,
        leave,
        ..
    } = op
        && rng.below(4) == 0
    {
        *pause_ms = rng.pick(&[1_000, 10_000, 40_000]);
        (*span, *leave) = (Span::All, false);
    }
}

fn setting(rng: &mut Rng) -> Setting {
    let mut limits = Rng::new(rng.next_u64(), "last versions");
    Setting {
        shards: 1 + rng.index(3),
        inline_bytes_max: rng.pick(&[100, 4096, 6000]),
        uploads_at_once: 64,
        writes_at_once: 256,
        restarts_max: 1_000_000,
        scarce: false,
        strict_deletes: rng.below(3) == 0,
        cut: uploads::cut(rng),
        multipart: UploadRules::default(),
        payload_log: false,
        last_versions: if rng.below(2) == 0 {
            last_versions(&mut limits)
        } else {
            LastVersionRules::default()
        },
    }
}

/// Generates the faults: none in a tenth of the seeds, and each fault in a third of the others.
fn faults(rng: &mut Rng) -> Faults {
    if rng.below(10) == 0 {
        return Faults::default();
    }
    let some = |most: u32, rng: &mut Rng| {
        let odds = 1 + u32::try_from(rng.below(most.into())).expect("small odds");
        Odds::in_ten_thousand(if rng.below(3) == 0 { odds } else { 0 })
    };
    let mut faults = Faults {
        crash: some(30, rng),
        kill: some(100, rng),
        panic: some(50, rng),
        clock_jump: some(50, rng),
        index_read_fails: some(300, rng),
        blob_fails: some(1000, rng),
        blob_response_lost: some(1000, rng),
        blob_slow: some(2000, rng),
        blob_stalls: some(200, rng),
        blob_partial: some(3000, rng),
        blob_late: some(2000, rng),
        blob_deleted_twice: some(2000, rng),
        blob_hangs: some(1000, rng),
        member_pause: some(20, rng),
        index_away: some(60, rng),
        tier_cut_off: some(200, rng),
        index_cut_before: some(500, rng),
        index_cut_during: some(1000, rng),
        index_cut_after: some(1000, rng),
        ..Faults::default()
    };
    // A late effect after the end of a pause is covered by the pause alone.
    if faults.member_pause != Odds::NEVER {
        faults.blob_late = Odds::NEVER;
    }
    faults
}

/// Generates the frequencies of operations. Each seed omits about a third of the kinds other than
/// put, get and update.
fn mix(rng: &mut Rng) -> Mix {
    let mut weights = [0; UPLOADS + uploads::WEIGHTS.len()];
    weights[..UPLOADS].copy_from_slice(&WEIGHTS);
    if rng.below(3) == 0 {
        weights[UPLOADS..].copy_from_slice(&uploads::WEIGHTS);
    }
    for (kind, weight) in weights.iter_mut().enumerate().skip(2) {
        if rng.below(3) == 0 && kind != 12 {
            *weight = 0;
        }
    }
    if weights[UPLOADS] == 0 {
        weights[UPLOADS..].fill(0);
    }
    Mix {
        weights,
        conditional: Odds::in_ten_thousand(rng.pick(&[0, 1000, 5000])),
        mortal: Odds::NEVER,
        hot: Odds::in_ten_thousand(rng.pick(&[6000, 9000, 10_000])),
        large: Odds::in_ten_thousand(rng.pick(&[1000, 5000, 9000])),
        huge: Odds::NEVER,
    }
}
