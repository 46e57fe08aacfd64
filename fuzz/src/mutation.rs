//! Mutations of valid encodings.
//!
//! | mutation | change |
//! |---|---|
//! | flip | inverts a bit |
//! | byte | sets a byte to a bound or to any value |
//! | truncate, cut | removes the end, or a range |
//! | extend | appends zeros, any bytes, or the end again |
//! | repeat | inserts a copy of a range |
//! | splice | takes the beginning of one encoding and the end of another |
//! | varint | replaces or inserts a number of seven-bit groups, at and around its bounds |
//! | integer | overwrites a little- or big-endian number of 2, 4 or 8 bytes with a bound |
//! | digits | replaces a number in decimal digits by a bound |
//! | random | replaces all but the first byte by any bytes |
//!
//! A case is a pure function of the corpus and its seed. Each mutation has its own sequence of
//! numbers, so that a mutation can be left out without a change of the others.

use std::ops::Range;

use crate::random::Random;

/// Maximum number of mutations of a case.
pub(crate) const MUTATIONS_MAX: usize = 5;
/// Maximum number of bytes that a mutation adds.
const ADDED_BYTES_MAX: usize = 64;
/// Length of the beginning of an encoding, which has a third of the mutations, in bytes.
const HEAD_BYTES: usize = 24;
/// Numbers at which decoders fail.
const EXTREMES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 56,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// A kind of mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    Flip,
    Byte,
    Truncate,
    Cut,
    Extend,
    Repeat,
    Splice,
    Varint,
    Integer,
    Digits,
    Random,
}

impl Mutation {
    /// All kinds. Numbers are drawn more often: they need the right place and the right value.
    const ALL: [Self; 13] = [
        Self::Varint,
        Self::Integer,
        Self::Flip,
        Self::Byte,
        Self::Truncate,
        Self::Cut,
        Self::Extend,
        Self::Repeat,
        Self::Splice,
        Self::Varint,
        Self::Integer,
        Self::Digits,
        Self::Random,
    ];

    fn apply(self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
        // Lengths, counts and formats are at the beginning.
        let at = match random.below(3) {
            0 => random.below(bytes.len().min(HEAD_BYTES)),
            _ => random.below(bytes.len()),
        };
        match self {
            Self::Flip => {
                let bit = 1 << random.below(8);
                bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= bit);
            }
            Self::Byte => {
                let any = random.bytes(1)[0];
                let to = *random.pick(&[0, 1, 0x7f, 0x80, 0xff, any, any]);
                bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte = to);
            }
            Self::Truncate => bytes.truncate(at),
            Self::Cut => drop(bytes.drain(range(bytes.len(), random))),
            Self::Extend => {
                let count = 1 + random.below(ADDED_BYTES_MAX);
                let end = bytes[bytes.len().saturating_sub(count)..].to_vec();
                bytes.extend(match random.below(3) {
                    0 => vec![0; count],
                    1 => random.bytes(count),
                    _ => end,
                });
            }
            Self::Repeat => {
                let from = range(bytes.len(), random);
                let copied = bytes[from].to_vec();
                insert(bytes, at, &copied);
            }
            Self::Splice => {
                let other = random.pick(corpus);
                // The same offset is likely to be the border of a field in both.
                let from = *random.pick(&[at.min(other.len()), random.clone().below(other.len())]);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            Self::Varint => {
                let number = varint(extreme(bytes.len(), random), random.below(3) == 0);
                let is_group = |byte: &u8| byte & 0x80 != 0;
                let groups = bytes[at..].iter().take_while(|byte| is_group(byte)).count() + 1;
                let replaced = *random.pick(&[0, groups, groups, number.len()]);
                let end = (at + replaced).min(bytes.len());
                bytes.splice(at..end, number);
            }
            Self::Integer => overwrite_integer(bytes, at, random),
            Self::Digits => {
                let number = extreme(bytes.len(), random).to_string();
                let digits = digits_at(bytes, at);
                bytes.splice(digits, number.into_bytes());
            }
            Self::Random => {
                let count = random.below(ADDED_BYTES_MAX);
                bytes.truncate(1);
                bytes.extend(random.bytes(count));
            }
        }
    }
}

/// An input and the mutations that made it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mutations: Vec<(usize, Mutation)>,
    pub(crate) origin: usize,
}

impl Case {
    /// Returns the case of a seed. `left_out` are the places of mutations that are not applied.
    pub(crate) fn new(corpus: &[Vec<u8>], seed: u64, left_out: &[usize]) -> Self {
        let mut random = Random::new(seed, 0);
        let origin = random.below(corpus.len());
        let mut bytes = corpus.get(origin).cloned().unwrap_or_default();
        // Most cases have a single mutation: they reach the deepest.
        let count = (1 + random.below(MUTATIONS_MAX)).min(1 + random.below(MUTATIONS_MAX));
        let mut mutations = Vec::new();
        for place in 0..count {
            let mut random = Random::new(seed, 1 + place as u64);
            let mutation = *random.pick(&Mutation::ALL);
            if !left_out.contains(&place) {
                mutation.apply(&mut bytes, corpus, &mut random);
                mutations.push((place, mutation));
            }
        }
        Self {
            bytes,
            mutations,
            origin,
        }
    }
}

/// Returns a range within `0..end`, most often a short range.
fn range(end: usize, random: &mut Random) -> Range<usize> {
    let start = random.below(end);
    let longest = *random.pick(&[4, ADDED_BYTES_MAX, end]);
    start..(start + random.below(longest + 1)).min(end)
}

/// Overwrites the bytes at `at` with a number of 2, 4 or 8 bytes.
fn overwrite_integer(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = *random.pick(&[2, 4, 8]);
    let mut number = extreme(bytes.len(), random).to_le_bytes()[..width].to_vec();
    if random.below(2) == 0 {
        number.reverse();
    }
    for (to, from) in bytes.iter_mut().skip(at).zip(number) {
        *to = from;
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, inserted: &[u8]) {
    bytes.splice(at..at, inserted.iter().copied());
}

/// Returns a number at a bound, or near the length of the input.
fn extreme(length: usize, random: &mut Random) -> u64 {
    match random.below(4) {
        0 => (length as u64)
            .wrapping_add(random.next() % 5)
            .wrapping_sub(2),
        1 => random.next() >> random.below(64),
        // Where sums and successors overflow.
        2 => u64::MAX,
        _ => *random.pick(&EXTREMES),
    }
}

/// Returns a number in groups of seven bits, the lowest first. A number that is too long has more
/// groups than it needs.
fn varint(mut number: u64, is_too_long: bool) -> Vec<u8> {
    let mut groups = Vec::new();
    while number > 0x7f {
        groups.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    if is_too_long {
        groups.push(number as u8 | 0x80);
        number = 0;
    }
    groups.push(number as u8);
    groups
}

/// Returns the range of the decimal digits around `at`; empty if there are none.
fn digits_at(bytes: &[u8], at: usize) -> Range<usize> {
    let is_other = |byte: &u8| !byte.is_ascii_digit();
    let start = bytes[..at]
        .iter()
        .rposition(is_other)
        .map_or(0, |other| other + 1);
    let length = bytes[start..]
        .iter()
        .position(is_other)
        .unwrap_or(bytes.len() - start);
    start..start + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn case_is_a_function_of_its_seed() {
        let corpus = [
            b"the first encoding 17".to_vec(),
            b"another".to_vec(),
            Vec::new(),
        ];
        let mut inputs = BTreeSet::new();
        for seed in 0..5000 {
            let case = Case::new(&corpus, seed, &[]);
            assert_eq!(case.bytes, Case::new(&corpus, seed, &[]).bytes);
            let all: Vec<usize> = (0..MUTATIONS_MAX).collect();
            assert_eq!(Case::new(&corpus, seed, &all).bytes, corpus[case.origin]);
            inputs.insert(case.bytes);
        }
        assert!(inputs.len() > 2500, "most inputs differ: {}", inputs.len());
    }

    #[test]
    fn every_kind_of_mutation_changes_an_input() {
        let corpus = [b"an encoding with 17 digits".to_vec(), b"of two".to_vec()];
        for mutation in Mutation::ALL {
            let changed = (0..50).filter(|&seed| {
                let mut bytes = corpus[0].clone();
                mutation.apply(&mut bytes, &corpus, &mut Random::new(seed, 1));
                bytes != corpus[0]
            });
            assert!(changed.count() > 20, "{mutation:?}");
        }
    }

    #[test]
    fn no_mutation_needs_bytes() {
        for (mutation, seed) in Mutation::ALL
            .into_iter()
            .flat_map(|m| (0..50).map(move |s| (m, s)))
        {
            mutation.apply(&mut Vec::new(), &[Vec::new()], &mut Random::new(seed, 1));
        }
    }

    #[test]
    fn varint_has_the_groups_of_its_number() {
        assert_eq!(varint(300, false), [0xac, 0x02]);
        assert_eq!(varint(0, true), [0x80, 0]);
        assert_eq!(varint(u64::MAX, false).len(), 10);
    }
}
