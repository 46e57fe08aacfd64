//! Generation of the multipart uploads of a plan and of their limits. Slots and part numbers are
//! few, so that clients race.

use std::collections::VecDeque;

use super::ops::{lifetime, object, span, when};
use super::{BLOCK, HOT, Mix};
use crate::plan::{
    BlobCut, Choice, Declared, Op, Setting, Shape, UploadAction, UploadRules, Which,
};
use crate::rng::Rng;

/// Weights of the kinds of steps, in the order of `step`. Without the first kind, which starts
/// uploads, the others have no effect.
pub(super) const WEIGHTS: [u64; 8] = [4, 3, 1, 1, 1, 3, 1, 1];
/// Number of slots of a plan.
const SLOTS: u64 = 3;

/// Generates a step of this kind.
pub(super) fn step(rng: &mut Rng, kind: usize, mix: &Mix, setting: &Setting) -> Op {
    let slot = u32::try_from(rng.below(SLOTS)).expect("a small number");
    let step = match kind {
        0 => UploadAction::Initiate {
            object: rival(rng, mix),
            when: when(rng, mix),
            lifetime: lifetime(rng, mix),
        },
        1 => part(rng, mix, setting),
        2 => UploadAction::CopyPart {
            number: number(rng),
            from: object(rng, mix),
            span: span(rng, setting),
        },
        3 => UploadAction::Parts {
            after: (rng.below(3) == 0).then(|| number(rng)),
            limit: 1 + rng.index(4),
        },
        4 => UploadAction::Uploads {
            hot: rng.below(2) == 0,
            limit: 1 + rng.index(3),
        },
        5 => UploadAction::Complete {
            choice: choice(rng),
            when: when(rng, mix),
        },
        6 => UploadAction::Abort,
        _ => UploadAction::Resume {
            which: rng.pick(&[Which::Ours, Which::Ours, Which::Forged, Which::Foreign]),
        },
    };
    Op::Multipart { slot, step }
}

/// Generates the further steps of the client that started an upload: some parts, and up to two
/// completions.
pub(super) fn course(rng: &mut Rng, slot: u32, mix: &Mix, setting: &Setting) -> VecDeque<Op> {
    let mut steps: VecDeque<UploadAction> = (0..1 + rng.below(4))
        .map(|_| part(rng, mix, setting))
        .collect();
    for _ in 0..rng.below(3) {
        steps.push_back(UploadAction::Complete {
            choice: choice(rng),
            when: when(rng, mix),
        });
    }
    steps
        .into_iter()
        .map(|step| Op::Multipart { slot, step })
        .collect()
}

/// Generates a part.
fn part(rng: &mut Rng, mix: &Mix, setting: &Setting) -> UploadAction {
    let bytes = size(rng, mix, setting);
    UploadAction::Part {
        number: number(rng),
        bytes,
        shape: shape(rng, bytes),
        declared: declared(rng),
    }
}

/// Generates the object of an upload. Most of the time it is a hot object, which others write, too.
fn rival(rng: &mut Rng, mix: &Mix) -> u32 {
    if rng.below(2) == 0 {
        u32::try_from(rng.below(u64::from(HOT))).expect("a small number")
    } else {
        object(rng, mix)
    }
}

/// Generates a part number.
fn number(rng: &mut Rng) -> u32 {
    // Repeated numbers replace parts. 10,000 is the maximum.
    rng.pick(&[1, 1, 2, 2, 3, 4, 10_000])
}

/// Generates the size of a part around a limit.
fn size(rng: &mut Rng, mix: &Mix, setting: &Setting) -> u64 {
    if rng.hits(mix.huge) {
        return rng.pick(&[BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7]);
    }
    let least = setting.multipart.part_bytes_min;
    let some = rng.pick(&[
        0,
        1,
        7,
        8,
        100,
        3000,
        3000,
        setting.inline_bytes_max + 1,
        least,
        least + 1,
        9000,
    ]);
    // If there is a minimum size, most parts have it.
    if rng.below(4) > 0 {
        some.max(least)
    } else {
        some
    }
}

/// Generates the delivery of a part.
fn shape(rng: &mut Rng, bytes: u64) -> Shape {
    let chunk = (bytes / (1 + rng.below(4))).max(1);
    match rng.below(20) {
        0..12 => Shape::Bytes,
        12..15 => Shape::Stream(chunk),
        15 | 16 => Shape::Slow(chunk, 1 + rng.below(60)),
        17 => Shape::Broken(chunk),
        18 => Shape::Failing(chunk),
        _ => Shape::Dropped(chunk, rng.below(60)),
    }
}

/// Generates the declared checksum of a part.
fn declared(rng: &mut Rng) -> Declared {
    rng.pick(&[
        Declared::Nothing,
        Declared::Nothing,
        Declared::Nothing,
        Declared::Right,
        Declared::Right,
        Declared::Wrong,
    ])
}

/// Generates the listed parts of a completion.
fn choice(rng: &mut Rng) -> Choice {
    match rng.below(16) {
        0..4 => Choice::Unlisted,
        4..10 => Choice::Listed,
        10..13 => Choice::Half,
        13 => Choice::WrongEtag,
        14 => Choice::Backwards,
        _ => Choice::Missing,
    }
}

/// Generates the division of large payloads, in a quarter of the plans.
pub(super) fn cut(rng: &mut Rng) -> Option<BlobCut> {
    (rng.below(4) == 0).then(|| BlobCut {
        over_bytes: rng.pick(&[1000, 4096, 6000]),
        part_bytes: rng.pick(&[1000, 2500, 4000]),
        at_once: 1 + rng.index(4),
    })
}

/// Returns the division for plans with payloads of several blocks, with fewer blobs.
pub(super) fn cut_huge(cut: BlobCut) -> BlobCut {
    BlobCut {
        over_bytes: BLOCK,
        part_bytes: BLOCK / 2 + 1,
        ..cut
    }
}

/// Generates the limits of uploads. In a third of the plans, uploads expire during the run.
pub(super) fn rules(rng: &mut Rng) -> UploadRules {
    let part_bytes_min = rng.pick(&[0, 0, 0, 100, 3000]);
    let rules = UploadRules {
        part_bytes_min,
        ..UploadRules::default()
    };
    // Drawn even if unused, so that the later draws do not depend on the condition.
    let lifetime_ms = rng.pick(&[50, 1000, 30_000]);
    let kept_for_ms = rng.pick(&[1, 200, 30_000]);
    if rng.below(3) == 0 {
        UploadRules {
            lifetime_ms,
            kept_for_ms,
            ..rules
        }
    } else {
        rules
    }
}
