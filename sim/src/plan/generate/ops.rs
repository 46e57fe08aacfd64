//! Generation of the operations of a client.

use std::collections::VecDeque;

use super::{BLOCK, COLD, EMBEDDED, HOT, Mix, UPLOADS, uploads};
use crate::plan::{BatchPiece, Fate, Lifetime, Op, Setting, Shape, Span, UploadAction, When};
use crate::rng::Rng;

/// Lifetimes that end during, between and after the calls of a plan.
const LIFETIMES_MS: [u64; 6] = [1, 20, 300, 2_000, 30_000, 3_600_000];

/// Generates the operations of a client. A client that starts an upload usually continues it,
/// between other operations.
pub(super) fn client(rng: &mut Rng, mix: &Mix, setting: &Setting, operations: u64) -> Vec<Op> {
    let mut ahead = VecDeque::new();
    let next = |_| {
        // The steps of a started upload alternate with other operations, so that these interfere.
        if rng.below(2) == 0
            && let Some(op) = ahead.pop_front()
        {
            return op;
        }
        let op = op(rng, mix, setting);
        if let Op::Multipart {
            slot,
            step: UploadAction::Initiate { .. },
        } = &op
        {
            ahead = uploads::course(rng, *slot, mix, setting);
        }
        op
    };
    (0..operations).map(next).collect()
}

/// Generates an operation. The numbers are the indices of [`Mix::weights`].
fn op(rng: &mut Rng, mix: &Mix, setting: &Setting) -> Op {
    let total: u64 = mix.weights.iter().sum();
    let mut left = rng.below(total);
    // The weight of puts is never zero, so that there always is a kind.
    let kind = mix.weights.iter().position(|&weight| {
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    });
    let object = object(rng, mix);
    match kind {
        Some(0) | None => put(rng, mix, setting, object),
        Some(1) => Op::Get {
            object,
            span: span(rng, setting),
            pause_ms: rng.pick(&[0, 0, 1, 50]),
            leave: rng.below(10) == 0,
        },
        Some(2) => Op::Head { object },
        Some(3) => {
            let dropped_after_ms = (rng.below(8) == 0).then(|| rng.below(20));
            Op::Delete {
                object,
                dropped_after_ms,
                when: when(rng, mix),
            }
        }
        Some(12) => update(rng, mix, setting, object),
        Some(13) => Op::Amend {
            object,
            when: when(rng, mix),
        },
        Some(14) => {
            let ms = rng.pick(&LIFETIMES_MS);
            Op::Extend {
                object,
                ms,
                may_shorten: rng.below(3) == 0,
                when: when(rng, mix),
            }
        }
        Some(15) => atomic(rng, mix, setting),
        Some(16) => {
            let puts = distinct(rng, mix)
                .into_iter()
                .map(|object| (object, small(rng, setting)))
                .collect();
            Op::Batch { puts }
        }
        Some(17) => Op::Copy {
            from: object,
            to: other(rng, mix, object),
            if_absent: rng.below(4) == 0,
        },
        Some(18) => Op::Rename {
            from: object,
            to: other(rng, mix, object),
            if_absent: rng.below(4) == 0,
        },
        // Cold objects have five digits, so that a prefix has ten objects at most.
        Some(19) => Op::DeletePrefix {
            prefix: format!("cold/000{}", rng.below(7)),
        },
        Some(kind) if kind >= UPLOADS => uploads::step(rng, kind - UPLOADS, mix, setting),
        Some(kind) => other_kind(rng, kind, object),
    }
}

/// Generates a put. A stream that ends early may be longer than a block, so that a block of it has
/// been sent before.
fn put(rng: &mut Rng, mix: &Mix, setting: &Setting, object: u32) -> Op {
    let bytes = size(rng, mix, setting);
    let shape = shape(rng, bytes);
    let may_be_long =
        setting.cut.is_none() && matches!(shape, Shape::Failing(_) | Shape::Dropped(..));
    if may_be_long && rng.below(8) == 0 {
        let shape = match shape {
            Shape::Dropped(_, ms) => Shape::Dropped(BLOCK / 3, ms),
            _ => Shape::Failing(BLOCK / 3),
        };
        let bytes = BLOCK + 1 + rng.below(BLOCK);
        return Op::Put {
            object,
            bytes,
            shape,
            when: When::Any,
            lifetime: Lifetime::Forever,
        };
    }
    Op::Put {
        object,
        bytes,
        shape,
        when: when(rng, mix),
        lifetime: lifetime(rng, mix),
    }
}

/// Generates an update. Most updates write.
fn update(rng: &mut Rng, mix: &Mix, setting: &Setting, object: u32) -> Op {
    Op::Update {
        object,
        bytes: size(rng, mix, setting),
        fate: rng.pick(&[
            Fate::Put,
            Fate::Put,
            Fate::Put,
            Fate::Put,
            Fate::Delete,
            Fate::Keep,
            Fate::Fail,
        ]),
        pause_ms: rng.pick(&[0, 0, 1, 20]),
        lifetime: lifetime(rng, mix),
    }
}

/// Generates a listing, a pause, or an operation on the engine as a whole.
fn other_kind(rng: &mut Rng, kind: usize, object: u32) -> Op {
    match kind {
        4 => {
            let after = (rng.below(3) == 0).then_some(object);
            Op::List {
                hot: rng.below(2) == 0,
                limit: 1 + rng.index(8),
                after,
            }
        }
        5 => Op::ListAll,
        6 => Op::Settle,
        7 => Op::Stats,
        8 => Op::Pause {
            ms: rng.pick(&[1, 5, 50, 1000, 7000]),
        },
        9 => Op::Reopen {
            close: rng.below(2) == 0,
        },
        10 => Op::OpenAnother,
        20 => Op::Usage,
        21 => Op::Switch {
            off: rng.below(2) == 0,
        },
        22 => Op::Scrub,
        _ => {
            let digit =
                |rng: &mut Rng| char::from(b'0' + u8::try_from(rng.below(7)).expect("a digit"));
            let after = rng.pick(&["", "cold/", "cold/0000", "hot/", "cold/00", "c"]);
            Op::ListGroups {
                prefix: rng
                    .pick(&["", "cold/", "hot/", "cold/0000", "co"])
                    .to_owned(),
                delimiter: if rng.below(3) == 0 { '/' } else { digit(rng) },
                limit: 1 + rng.index(8),
                after: (rng.below(2) == 0).then(|| format!("{after}{}", digit(rng))),
            }
        }
    }
}

/// Generates a demand.
pub(super) fn when(rng: &mut Rng, mix: &Mix) -> When {
    if !rng.hits(mix.conditional) {
        return When::Any;
    }
    rng.pick(&[
        When::Absent,
        When::Version,
        When::Version,
        When::Etag,
        When::Stale,
    ])
}

/// Generates a lifetime.
pub(super) fn lifetime(rng: &mut Rng, mix: &Mix) -> Lifetime {
    if !rng.hits(mix.mortal) {
        return Lifetime::Forever;
    }
    let ms = rng.pick(&LIFETIMES_MS);
    if rng.below(2) == 0 {
        Lifetime::Live(ms)
    } else {
        Lifetime::Idle(ms)
    }
}

/// Generates one to four distinct objects.
fn distinct(rng: &mut Rng, mix: &Mix) -> Vec<u32> {
    let mut objects = vec![object(rng, mix)];
    // A repeated object is skipped and not drawn again, so that the number of draws is bounded.
    for _ in 0..1 + rng.below(3) {
        let another = object(rng, mix);
        if !objects.contains(&another) {
            objects.push(another);
        }
    }
    objects
}

/// Generates an object other than `than`.
fn other(rng: &mut Rng, mix: &Mix, than: u32) -> u32 {
    let other = object(rng, mix);
    if other == than {
        // Differs from `than`, if that is hot or cold.
        (than + 1) % HOT
    } else {
        other
    }
}

/// Generates an atomic batch. Its first write is a put.
fn atomic(rng: &mut Rng, mix: &Mix, setting: &Setting) -> Op {
    let pieces = distinct(rng, mix)
        .into_iter()
        .enumerate()
        .map(|(at, object)| {
            let bytes = (at == 0 || rng.below(3) > 0).then(|| small(rng, setting));
            BatchPiece {
                object,
                bytes,
                // A delete has no precondition here.
                if_absent: bytes.is_some() && rng.below(6) == 0,
            }
        });
    Op::Atomic {
        pieces: pieces.collect(),
    }
}

/// Generates the size of a payload that is stored in the index.
fn small(rng: &mut Rng, setting: &Setting) -> u64 {
    let limit = setting.inline_bytes_max;
    rng.pick(&[0, 1, 8, 100, EMBEDDED, EMBEDDED + 1, limit])
        .min(limit)
}

/// Generates an object.
pub(super) fn object(rng: &mut Rng, mix: &Mix) -> u32 {
    let number = if rng.hits(mix.hot) {
        rng.below(u64::from(HOT))
    } else {
        u64::from(HOT) + rng.below(COLD)
    };
    u32::try_from(number).expect("a small number")
}

/// Generates the size of a payload around a limit.
fn size(rng: &mut Rng, mix: &Mix, setting: &Setting) -> u64 {
    let limit = setting.inline_bytes_max;
    if rng.hits(mix.huge) {
        // Repeated values are more likely.
        return rng.pick(&[
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            2 * BLOCK + 7,
            2 * BLOCK + 7,
            2 * BLOCK + 7,
        ]);
    }
    if rng.hits(mix.large) {
        return limit + rng.pick(&[1, 2, 100, 3000, 9000]);
    }
    let sizes = [
        0,
        1,
        7,
        100,
        EMBEDDED - 1,
        EMBEDDED,
        EMBEDDED + 1,
        limit.saturating_sub(1),
        limit,
    ];
    rng.pick(&sizes).min(limit)
}

/// Generates the delivery of a payload.
fn shape(rng: &mut Rng, bytes: u64) -> Shape {
    // About one to five chunks.
    let chunk = (bytes / (1 + rng.below(5))).max(1);
    match rng.below(20) {
        0..10 => Shape::Bytes,
        10..13 => Shape::Stream(chunk),
        13..15 => Shape::Slow(chunk, 1 + rng.below(100)),
        15 => Shape::Promised(chunk),
        16 => Shape::Broken(chunk),
        17 => Shape::Failing(chunk),
        _ => Shape::Dropped(chunk, rng.below(60)),
    }
}

/// Generates a range of bytes.
pub(super) fn span(rng: &mut Rng, setting: &Setting) -> Span {
    let somewhere =
        |rng: &mut Rng| rng.pick(&[0, 1, 100, EMBEDDED, setting.inline_bytes_max + 50, BLOCK]);
    match rng.below(6) {
        0..3 => Span::All,
        3 => {
            let a = somewhere(rng);
            let b = somewhere(rng);
            // A range that ends before its start is a different error and is not generated.
            Span::Between(a.min(b), a.max(b))
        }
        4 => Span::From(somewhere(rng)),
        _ => Span::Last(somewhere(rng)),
    }
}
