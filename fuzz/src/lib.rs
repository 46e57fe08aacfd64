//! A kit that runs a decoder on mutated encodings, on stable Rust, as a test of a second or more.
//!
//! ```text
//! corpus (golden fixtures) --mutations of a seed--> input --check--> no panic, bounded memory and time,
//!                                                                    and what the check itself asserts
//! ```
//!
//! Targets of public decoders are in `tests/`; a target of a private decoder is a unit test beside
//! the decoder. Each prints its seed when it begins, so that even an abort can be repeated.
//!
//! | variable | effect |
//! |---|---|
//! | `CENOTAPH_FUZZ_SECONDS` | time of each target in seconds, 1 by default |
//! | `CENOTAPH_FUZZ_SEED` | the seed of the first case; case `n` has this seed plus `n` |
//!
//! # Why a kit of our own
//! Candidates were `bolero` in library mode and bytes drawn by `proptest`. Built cold in a debug
//! profile, bolero 0.13 has 28 crates and takes 21 s of CPU time, proptest 1.12 has 15 crates and
//! 11 s, this kit has 1 crate (`allocation-counter`) and less than 2 s. As libraries on stable Rust
//! both draw inputs and do not mutate given encodings, and faults behind a length or a checksum need
//! mutations. proptest draws the values of the round trips in the unit tests of each record.

#![expect(
    clippy::disallowed_methods,
    reason = "a run is timed by the clock of the machine, and its seed differs"
)]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::{Duration, Instant};

mod mutation;
mod random;

use mutation::{Case, MUTATIONS_MAX, Mutation};

/// Time of a target without `CENOTAPH_FUZZ_SECONDS`.
const SECONDS: f64 = 1.0;
/// Longest time of a case. A case takes microseconds; the rest is room for a busy machine.
const CASE_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes that a check may hold at once for an input of any length.
const BYTES_BASE: u64 = 16 * 1024;
/// Bytes that a check may hold at once per byte of input. Decoded values are larger than their
/// encodings, and the check holds several of them.
const BYTES_PER_BYTE: u64 = 64;
/// Longest input that a failure shows, in bytes.
const SHOWN_BYTES_MAX: usize = 4096;

/// Repairs the checksums of an input.
type Seal<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;

/// A decoder, and what it is run on.
pub struct Target<'a> {
    name: &'static str,
    corpus: Vec<Vec<u8>>,
    seal: Option<Seal<'a>>,
    bytes_base: u64,
}

/// Outcome of a run without a failure.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Number of cases.
    pub cases: u64,
    /// Number of cases for which the check returned true.
    pub accepted: u64,
}

/// A case that failed.
#[derive(Debug)]
pub struct Failure {
    target: &'static str,
    /// Seed of the case.
    pub seed: u64,
    /// Description of the failure.
    pub what: String,
    /// The input, after mutations that are not needed have been left out.
    pub input: Vec<u8>,
    origin: usize,
    mutations: Vec<Mutation>,
    is_sealed: bool,
}

impl<'a> Target<'a> {
    /// A target with these valid encodings, which are run first, unchanged.
    pub fn new(name: &'static str, corpus: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        Self {
            name,
            corpus: corpus.into_iter().map(Into::into).collect(),
            seal: None,
            bytes_base: BYTES_BASE,
        }
    }

    /// Repairs the checksums of half of the inputs with this function, so that mutations reach the
    /// code behind the checksums.
    #[must_use]
    pub fn sealed(mut self, seal: impl Fn(&mut Vec<u8>) + 'a) -> Self {
        self.seal = Some(Box::new(seal));
        self
    }

    /// Allows the check to hold so many bytes for an input of any length: buffers of fixed size.
    #[must_use]
    pub fn buffers(mut self, bytes: u64) -> Self {
        self.bytes_base = bytes;
        self
    }

    /// Runs the check for as long as `CENOTAPH_FUZZ_SECONDS` says. The check returns whether the
    /// decoder accepted the input.
    ///
    /// # Panics
    /// With a [`Failure`], or if the decoder accepts no valid encoding.
    pub fn run(self, check: impl Fn(&[u8]) -> bool) {
        let seconds = variable("CENOTAPH_FUZZ_SECONDS").unwrap_or(SECONDS);
        let seed = variable("CENOTAPH_FUZZ_SEED").unwrap_or_else(random::fresh_seed);
        // Not with `eprintln!`, whose output the test harness keeps and an abort loses.
        let begin = format!("fuzz {}: CENOTAPH_FUZZ_SEED={seed}\n", self.name);
        drop(std::io::stderr().write_all(begin.as_bytes()));
        match self.run_for(seed, Duration::from_secs_f64(seconds), &check) {
            Ok(Run { cases, accepted }) => {
                println!("fuzz {}: cases={cases} accepted={accepted}", self.name);
            }
            Err(failure) => panic!("{failure}"),
        }
    }

    /// As [`run`](Self::run), for a decoder of text.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_text(self, check: impl Fn(&str) -> bool) {
        self.run(|bytes| check(&String::from_utf8_lossy(bytes)));
    }

    /// Runs the valid encodings, and then the cases from `seed` on for this long.
    ///
    /// # Errors
    /// The first case that failed, with as few mutations as possible.
    ///
    /// # Panics
    /// If the decoder accepts no valid encoding.
    pub fn run_for(
        &self,
        seed: u64,
        time: Duration,
        check: &impl Fn(&[u8]) -> bool,
    ) -> Result<Run, Box<Failure>> {
        for (origin, bytes) in self.corpus.iter().enumerate() {
            let judged = self.judge(bytes, check);
            let unchanged = || Case {
                bytes: bytes.clone(),
                mutations: Vec::new(),
                origin,
            };
            let accepted = judged.map_err(|what| self.failure(seed, what, unchanged(), false))?;
            assert!(
                accepted,
                "fuzz {}: valid encoding {origin} was refused",
                self.name
            );
        }
        let started = Instant::now();
        let mut run = Run {
            cases: 0,
            accepted: 0,
        };
        while started.elapsed() < time {
            let seed = seed.wrapping_add(run.cases);
            SEED.set(seed);
            match self.judge(
                &self.input(&Case::new(&self.corpus, seed, &[]), seed),
                check,
            ) {
                Ok(accepted) => run.accepted += u64::from(accepted),
                Err(what) => return Err(self.shrink(seed, what, check)),
            }
            run.cases += 1;
        }
        Ok(run)
    }

    /// Returns the bytes of a case, sealed if its seed is odd.
    fn input(&self, case: &Case, seed: u64) -> Vec<u8> {
        let mut bytes = case.bytes.clone();
        if let Some(seal) = self.seal.as_ref().filter(|_| is_sealed(seed)) {
            seal(&mut bytes);
        }
        bytes
    }

    /// Leaves out every mutation without which the case fails, too.
    fn shrink(&self, seed: u64, what: String, check: &impl Fn(&[u8]) -> bool) -> Box<Failure> {
        let mut what = what;
        let mut left_out = Vec::new();
        for place in 0..MUTATIONS_MAX {
            left_out.push(place);
            let case = Case::new(&self.corpus, seed, &left_out);
            match self.judge(&self.input(&case, seed), check) {
                Err(same) => what = same,
                Ok(_) => drop(left_out.pop()),
            }
        }
        let case = Case::new(&self.corpus, seed, &left_out);
        self.failure(seed, what, case, self.seal.is_some() && is_sealed(seed))
    }

    fn failure(&self, seed: u64, what: String, case: Case, is_sealed: bool) -> Box<Failure> {
        Box::new(Failure {
            target: self.name,
            seed,
            what,
            input: self.input(&case, seed),
            origin: case.origin,
            mutations: case.mutations.into_iter().map(|(_, kind)| kind).collect(),
            is_sealed,
        })
    }

    /// Runs the check on an input. Returns the failure as `Err`.
    fn judge(&self, input: &[u8], check: &impl Fn(&[u8]) -> bool) -> Result<bool, String> {
        let started = Instant::now();
        let mut outcome = Ok(false);
        // The panic is caught inside of the measurement, which would otherwise not end.
        let allocated = allocation_counter::measure(|| {
            outcome = quietly(|| catch_unwind(AssertUnwindSafe(|| check(input))));
        });
        let took = started.elapsed();
        let accepted = outcome.map_err(|panic| described(&*panic))?;
        let bytes_max = self.bytes_base + BYTES_PER_BYTE * input.len() as u64;
        if allocated.bytes_max > bytes_max {
            return Err(format!(
                "too much memory at once: bytes={} max={bytes_max} input_bytes={}",
                allocated.bytes_max,
                input.len()
            ));
        }
        if took > CASE_TIME_MAX {
            return Err(format!("too slow: took={took:?} max={CASE_TIME_MAX:?}"));
        }
        Ok(accepted)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "fuzz {}: {}", self.target, self.what)?;
        writeln!(
            f,
            "  valid encoding {} after {:?}{}",
            self.origin,
            self.mutations,
            if self.is_sealed {
                ", checksums repaired"
            } else {
                ""
            }
        )?;
        let shown = &self.input[..self.input.len().min(SHOWN_BYTES_MAX)];
        writeln!(
            f,
            "  input, {} bytes: {}",
            self.input.len(),
            shown.escape_ascii()
        )?;
        f.write_str("  as hexadecimal digits: ")?;
        shown.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(
            f,
            "\n  to repeat it as the first case: CENOTAPH_FUZZ_SEED={}",
            self.seed
        )
    }
}

/// Returns whether the checksums of the case of this seed are repaired.
fn is_sealed(seed: u64) -> bool {
    seed % 2 == 1
}

/// Reads a number from the environment.
///
/// # Panics
/// If the variable is set to anything else.
fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("not a number: {name}={text}")),
    )
}

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
    /// Seed of the present case.
    static SEED: Cell<u64> = const { Cell::new(0) };
    static LAST_PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Parts of the messages of panics that abort the process.
const ABORTS: [&str; 3] = ["unsafe precondition", "cannot unwind", "in a destructor"];

/// Runs `work` without messages of its panics. Their places are kept for the description.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_abort = ABORTS
                .iter()
                .any(|abort| text(panic.payload()).contains(abort));
            if is_abort && IS_QUIET.get() {
                // The process ends behind this hook, without another word.
                let seed = SEED.get();
                drop(writeln!(
                    std::io::stderr(),
                    "fuzz: abort, CENOTAPH_FUZZ_SEED={seed}"
                ));
            }
            if is_abort || !IS_QUIET.get() {
                return loud(panic);
            }
            let place = panic.location().map(ToString::to_string);
            LAST_PLACE.with_borrow_mut(|last| *last = place.unwrap_or_default());
        }));
    });
    IS_QUIET.set(true);
    let result = work();
    IS_QUIET.set(false);
    result
}

/// Returns the message and the place of the last panic of this thread.
fn described(panic: &(dyn Any + Send)) -> String {
    let message = text(panic);
    LAST_PLACE.with_borrow(|place| format!("panic at {place}: {message}"))
}

/// Returns the message of a panic.
fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a value that is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    /// Runs until the first failure.
    fn failure(target: &Target<'_>, check: impl Fn(&[u8]) -> bool) -> Failure {
        *target
            .run_for(7, TIME, &check)
            .expect_err("the check must fail")
    }

    fn target() -> Target<'static> {
        Target::new(
            "planted",
            [b"a valid encoding".to_vec(), b"shorter".to_vec()],
        )
    }

    #[test]
    fn planted_panic_is_found_and_repeated_by_its_seed() {
        let check = |bytes: &[u8]| bytes.first() != Some(&0xff) || panic!("planted");
        let found = failure(&target(), check);
        assert!(
            found.what.contains("planted") && found.what.contains("lib.rs"),
            "{found}"
        );
        assert!(
            found.mutations.len() <= 2,
            "the others are left out: {found}"
        );
        assert_eq!(found.input[0], 0xff);
        assert!(
            found
                .to_string()
                .contains(&format!("CENOTAPH_FUZZ_SEED={}", found.seed))
        );
        // No time but for the first case.
        let again = target().run_for(found.seed, Duration::from_millis(1), &check);
        assert_eq!(again.expect_err("the same case").seed, found.seed);
    }

    #[test]
    fn planted_allocation_is_found() {
        let check = |bytes: &[u8]| {
            // As a decoder that trusts a length.
            let length = bytes.first().map_or(0, |&byte| usize::from(byte));
            drop(std::hint::black_box(Vec::<u8>::with_capacity(
                length * 1000,
            )));
            true
        };
        let found = failure(&target(), check);
        assert!(found.what.contains("too much memory"), "{found}");
        assert!(
            target()
                .buffers(1 << 20)
                .run_for(7, TIME / 600, &check)
                .is_ok()
        );
    }

    #[test]
    fn planted_panic_behind_a_checksum_is_found() {
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        let seal = |bytes: &mut Vec<u8>| {
            let sum = sum(bytes);
            bytes.push(sum);
        };
        let mut valid = b"ab".to_vec();
        seal(&mut valid);
        let check = |bytes: &[u8]| match bytes.split_last() {
            Some((&last, rest)) if last == sum(rest) => rest.len() < 20 || panic!("planted"),
            Some(_) | None => false,
        };
        let found = failure(&Target::new("planted", [valid]).sealed(seal), check);
        assert!(
            found.is_sealed && found.to_string().contains("checksums repaired"),
            "{found}"
        );
    }

    #[test]
    fn panic_that_a_decoder_catches_is_none() {
        let check = |bytes: &[u8]| {
            let caught = catch_unwind(|| assert!(bytes.is_empty()));
            caught.is_err() || bytes.is_empty()
        };
        let run = target()
            .run_for(7, TIME / 600, &check)
            .expect("nothing fails");
        assert!(run.cases > 100 && run.accepted == run.cases, "{run:?}");
    }

    #[test]
    #[should_panic(expected = "valid encoding 0 was refused")]
    fn refused_corpus_is_a_failure() {
        drop(target().run_for(7, TIME, &|_: &[u8]| false));
    }
}
