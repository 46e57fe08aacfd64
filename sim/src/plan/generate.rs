//! The plan of a seed: swarm testing (Groce et al., "Swarm testing", 2012). Each seed leaves out
//! some operations and some faults, so that what hides behind others comes forth.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Fate, HOT, Lifetime, Op, Piece, Plan, Setting, Shape, Span, Step, UploadRules, When};
use crate::faults::{Faults, Schedule};
use crate::rng::{Odds, Rng};

mod uploads;

/// Cold objects of a plan.
const COLD: u64 = 60;
/// One block of a blob: checksums change there.
const BLOCK: u64 = 1024 * 1024;
/// Longest payload that lies in the row itself.
const EMBEDDED: u64 = 4096;

/// Which of the weights is that of gets.
const GETS: usize = 1;
/// Which of the weights is that of extensions.
const EXTENSIONS: usize = 14;
/// From which of the weights on they are those of multipart uploads.
const UPLOADS: usize = 23;

/// Which kinds of operations a plan has, by weight.
struct Mix {
    weights: [u64; UPLOADS + uploads::WEIGHTS.len()],
    /// How often a write demands something.
    conditional: Odds,
    /// How often what is written expires.
    mortal: Odds,
    hot: Odds,
    large: Odds,
    huge: Odds,
}

impl Plan {
    /// The plan of this seed, with about so many operations in all.
    pub fn generate(seed: u64, operations: usize) -> Self {
        let mut rng = Rng::new(seed, "plan");
        let mut setting = setting(&mut rng);
        let mut faults = faults(&mut rng, setting.restarts_max);
        if faults != Faults::default() {
            faults.index_low = low(&mut Rng::new(seed, "low disk"));
        }
        let schedule = schedule(&mut rng);
        let mut mix = mix(&mut rng);
        if faults.clock_jump != Odds::NEVER {
            // Whether an object exists is a question of the time of day: with a clock that jumps
            // nobody could say.
            mix.mortal = Odds::NEVER;
            mix.weights[EXTENSIONS] = 0;
            let part_bytes_min = setting.multipart.part_bytes_min;
            setting.multipart = UploadRules {
                part_bytes_min,
                ..UploadRules::default()
            };
        }
        if mix.huge > Odds::NEVER {
            // What takes several reads is dear, so only few seeds have it: these see to it that it
            // fails half-way.
            mix.hot = Odds::in_ten_thousand(9500);
            setting.cut = setting.cut.map(uploads::cut_huge);
            faults.blob_bit_rot = Odds::in_ten_thousand(1500);
        }
        let clients = 1 + rng.below(8);
        let each = (operations as u64).div_ceil(clients);
        let clients = (0..clients)
            .map(|_| client(&mut rng, &mix, &setting, each))
            .collect();
        // Drawn apart, so that the plans of all seeds are otherwise what they were.
        let mut rng_of_tier = Rng::new(seed, "tier");
        if faults != Faults::default() && rng_of_tier.below(6) == 0 {
            faults.tier_away = Odds::in_ten_thousand(
                1 + u32::try_from(rng_of_tier.below(200)).expect("small odds"),
            );
        }
        if faults != Faults::default() && rng_of_tier.below(3) == 0 {
            faults.tier_swapped = Odds::in_ten_thousand(3000);
        }
        let crashes_max = u32::try_from(rng.below(6)).expect("a small number");
        Self {
            seed,
            setting,
            schedule,
            faults,
            acts: Vec::new(),
            crashes_max,
            clients,
            insistent: false,
        }
    }
}

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
    }
}

fn schedule(rng: &mut Rng) -> Schedule {
    Schedule {
        yields_max: rng.below(4),
        delay: Odds::in_ten_thousand(rng.pick(&[0, 100, 500, 2000])),
        delay_max: Duration::from_millis(rng.pick(&[2, 20, 500])),
    }
}

/// Each fault in one seed of three, but none at all in one of ten.
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
    // A blob that lands later than the grace time by the clock on the wall is beyond anybody's
    // help, and a wall clock that jumps makes any grace time short: the two are not combined.
    if faults.clock_jump != Odds::NEVER {
        faults.blob_late = Odds::NEVER;
    }
    // What dies while a commit is still under way is what matters most: some seeds make that
    // likely.
    if faults.kill != Odds::NEVER && rng.below(2) == 0 {
        faults.index_sync_slow = Odds::in_ten_thousand(5000);
    }
    // Where few deaths are allowed, few must be enough.
    if restarts_max < 100 && faults.kill == Odds::NEVER {
        faults.kill = Odds::in_ten_thousand(50);
    }
    faults
}

/// In one seed of four: the disk is full now and then.
fn low(rng: &mut Rng) -> Odds {
    let odds = 1 + u32::try_from(rng.below(100)).expect("a small number");
    Odds::in_ten_thousand(if rng.below(4) == 0 { odds } else { 0 })
}

fn mix(rng: &mut Rng) -> Mix {
    // Puts and gets are always in; of the others each seed leaves out some.
    let mut weights = [0; UPLOADS + uploads::WEIGHTS.len()];
    weights[..UPLOADS].copy_from_slice(&[
        14, 12, 2, 6, 2, 1, 1, 1, 4, 1, 1, 1, 4, 2, 2, 2, 1, 2, 3, 1, 1, 1, 1,
    ]);
    weights[UPLOADS..].copy_from_slice(&uploads::WEIGHTS);
    for weight in weights.iter_mut().skip(2) {
        if rng.below(3) == 0 {
            *weight = 0;
        }
    }
    let mortal = rng.pick(&[0, 0, 3000, 8000]);
    // Reads that extend deadlines must meet rivals: some plans are kept free of uploads for them.
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

/// What one client asks. Who begins an upload goes on with it, among other things.
fn client(rng: &mut Rng, mix: &Mix, setting: &Setting, operations: u64) -> Vec<Op> {
    let mut ahead = VecDeque::new();
    let next = |_| {
        if rng.below(2) == 0
            && let Some(op) = ahead.pop_front()
        {
            return op;
        }
        let op = op(rng, mix, setting);
        if let Op::Multipart {
            slot,
            step: Step::Initiate { .. },
        } = &op
        {
            ahead = uploads::course(rng, *slot, mix, setting);
        }
        op
    };
    (0..operations).map(next).collect()
}

fn op(rng: &mut Rng, mix: &Mix, setting: &Setting) -> Op {
    let total: u64 = mix.weights.iter().sum();
    let mut left = rng.below(total);
    let kind = mix.weights.iter().position(|&weight| {
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    });
    let object = object(rng, mix);
    match kind {
        Some(0) | None => {
            let bytes = size(rng, mix, setting);
            let shape = shape(rng, bytes);
            // A stream that ends badly after a block of it has gone out.
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
        Some(12) => Op::Update {
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
        },
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
        Some(19) => Op::DeletePrefix {
            prefix: format!("cold/000{}", rng.below(7)),
        },
        Some(kind) if kind >= UPLOADS => uploads::step(rng, kind - UPLOADS, mix, setting),
        Some(kind) => aside(rng, kind, object),
    }
}

/// What is no put, no get, and no write of the kinds above.
fn aside(rng: &mut Rng, kind: usize, object: u32) -> Op {
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

/// Lifetimes that end under, between and after the calls of a plan.
const LIFETIMES_MS: [u64; 6] = [1, 20, 300, 2_000, 30_000, 3_600_000];

fn when(rng: &mut Rng, mix: &Mix) -> When {
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

fn lifetime(rng: &mut Rng, mix: &Mix) -> Lifetime {
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

/// Two to four objects, none of them twice.
fn distinct(rng: &mut Rng, mix: &Mix) -> Vec<u32> {
    let mut objects = vec![object(rng, mix)];
    for _ in 0..1 + rng.below(3) {
        let another = object(rng, mix);
        if !objects.contains(&another) {
            objects.push(another);
        }
    }
    objects
}

fn other(rng: &mut Rng, mix: &Mix, than: u32) -> u32 {
    let other = object(rng, mix);
    if other == than {
        (than + 1) % HOT
    } else {
        other
    }
}

fn atomic(rng: &mut Rng, mix: &Mix, setting: &Setting) -> Op {
    let pieces = distinct(rng, mix)
        .into_iter()
        .enumerate()
        .map(|(at, object)| {
            let bytes = (at == 0 || rng.below(3) > 0).then(|| small(rng, setting));
            Piece {
                object,
                bytes,
                if_absent: bytes.is_some() && rng.below(6) == 0,
            }
        });
    Op::Atomic {
        pieces: pieces.collect(),
    }
}

/// A length that stays in the index.
fn small(rng: &mut Rng, setting: &Setting) -> u64 {
    let limit = setting.inline_bytes_max;
    rng.pick(&[0, 1, 8, 100, EMBEDDED, EMBEDDED + 1, limit])
        .min(limit)
}

fn object(rng: &mut Rng, mix: &Mix) -> u32 {
    let number = if rng.hits(mix.hot) {
        rng.below(u64::from(HOT))
    } else {
        u64::from(HOT) + rng.below(COLD)
    };
    u32::try_from(number).expect("a small number")
}

/// A length around one of the limits.
fn size(rng: &mut Rng, mix: &Mix, setting: &Setting) -> u64 {
    let limit = setting.inline_bytes_max;
    if rng.hits(mix.huge) {
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

fn shape(rng: &mut Rng, bytes: u64) -> Shape {
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

fn span(rng: &mut Rng, setting: &Setting) -> Span {
    let somewhere =
        |rng: &mut Rng| rng.pick(&[0, 1, 100, EMBEDDED, setting.inline_bytes_max + 50, BLOCK]);
    match rng.below(6) {
        0..3 => Span::All,
        3 => {
            let (a, b) = (somewhere(rng), somewhere(rng));
            Span::Between(a.min(b), a.max(b))
        }
        4 => Span::From(somewhere(rng)),
        _ => Span::Last(somewhere(rng)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        assert_eq!(Plan::generate(7, 100), Plan::generate(7, 100));
        assert_ne!(
            Plan::generate(7, 100).clients,
            Plan::generate(8, 100).clients
        );
        assert!((100..108).contains(&Plan::generate(7, 100).operations()));
    }
}
