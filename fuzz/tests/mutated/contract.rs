//! The contract of every decoder, as functions that targets call.

use std::fmt::Debug;

use bytes::Bytes;
use cenotaph_fuzz::Target;
use cenotaph_storage::{Error, ErrorKind, Result};

/// Decodes hexadecimal digits.
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// Asserts that a decoder refuses with one of the kinds that name the cause.
#[track_caller]
pub(crate) fn assert_typed(error: &Error) {
    let is_typed = matches!(
        error.kind(),
        ErrorKind::Corrupt | ErrorKind::UnknownFormat | ErrorKind::Invalid
    );
    assert!(is_typed, "refused without a cause: {error:?}");
}

/// Asserts that a value survives its encoding, and that the encoding is stable.
#[track_caller]
pub(crate) fn assert_survives<T: PartialEq + Debug, B: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T) -> B,
    decode: impl Fn(&B) -> Result<T>,
) {
    let encoded = encode(value);
    let again = decode(&encoded).expect("an encoding is decoded");
    assert_eq!(again, *value, "the value survives its encoding");
    assert_eq!(encode(&again), encoded, "the encoding is stable");
}

/// Runs the decoder of a stored record on mutated golden fixtures.
pub(crate) fn run_record<T: PartialEq + Debug>(
    name: &'static str,
    fixtures: impl IntoIterator<Item = Vec<u8>>,
    encode: impl Fn(&T) -> Bytes,
    decode: impl Fn(&Bytes) -> Result<T>,
    use_value: impl Fn(&T),
) {
    Target::new(name, fixtures).run(|input| match decode(&Bytes::copy_from_slice(input)) {
        Ok(value) => {
            assert_survives(&value, &encode, &decode);
            use_value(&value);
            true
        }
        Err(error) => {
            assert_typed(&error);
            false
        }
    });
}

/// Runs a decoder of text, whose encoder is canonical: an accepted text is the text of its value.
pub(crate) fn run_text<T: PartialEq + Debug>(
    name: &'static str,
    texts: impl IntoIterator<Item = String>,
    decode: impl Fn(&str) -> Result<T>,
    encode: impl Fn(&T) -> String,
) {
    Target::new(name, texts).run_text(|text| match decode(text) {
        Ok(value) => {
            assert_eq!(encode(&value), text, "two texts of one value");
            true
        }
        Err(error) => {
            assert_typed(&error);
            false
        }
    });
}
