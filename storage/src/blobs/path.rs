//! Paths of blobs: [`path`], and the way back, [`from_path`] and [`revision_at`]. Pure functions.
//!
//! ```text
//! 7f/photos%2forg=17!holidays%2f2026.jpg@0198c5a2-1f00-7abc-8def-00000000007f
//! ^^ ^^^^^^^^^^^^^^^ ^^^^^^^^^^^^^^^^^^^ ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
//! |  namespace       key                 revision id
//! fan-out: the last byte of the revision id
//!
//! 7f/default!aaaa..aaaa~@0198c5a2-1f00-7abc-8def-00000000007f     a long name: its beginning
//! ```
//!
//! Namespace and key are escaped: `a-z 0-9 - _ . =` stand for themselves, every other byte is `%`
//! and two lowercase hexadecimal digits. So no path holds an uppercase letter, and a file system
//! that folds case folds nothing. A name of 180 escaped bytes or more is *long*. Its path holds the
//! beginning of the name, cut between two characters, and `~`, which no escaped name contains. The
//! whole id of such a blob is in its [trailer](super::trailer).
//!
//! Earlier builds cut a long name into directories of 180 bytes: [`older_path`]. No blob is written
//! there any more.
//!
//! Guards I4 (a path is never shared by two revisions) and the promise that a blob tells whose
//! bytes it holds. Every path has the same limit, [`PATH_BYTES_MAX`], so that each valid id is
//! valid in every blob tier.

use std::fmt::Write;

use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;
use crate::word::{RevisionId, RevisionKey};

/// Fewest bytes of an escaped name that is long.
const LONG_NAME_BYTES: usize = 180;
/// Separates namespace and key.
const NAMESPACE_END: char = '!';
/// Ends the beginning of a long name.
const CUT: char = '~';
/// Separates the name of the object and the revision id.
const NAME_END: char = '@';

/// Longest path of a blob, in bytes. Its segments are a fan-out of 2 bytes and a file name of at
/// most 216.
pub const PATH_BYTES_MAX: usize =
    "ff/".len() + LONG_NAME_BYTES - 1 + "@".len() + uuid::fmt::Hyphenated::LENGTH;

/// The path of a revision's blob, relative to the root of the blob tier.
pub fn path(key: &RevisionKey) -> String {
    let mut name = escaped_name(&key.object);
    if name.len() >= LONG_NAME_BYTES {
        name.truncate(cut_at(&name));
        name.push(CUT);
    }
    spelled(&name, key.revision)
}

/// The path at which earlier builds put a revision's blob, if that is another one: directories of
/// exactly 180 bytes each are cut off the front of a long name.
pub fn older_path(key: &RevisionKey) -> Option<String> {
    let name = escaped_name(&key.object);
    if name.len() < LONG_NAME_BYTES {
        return None;
    }
    let (directories, file) = name.split_at(name.len() - name.len() % LONG_NAME_BYTES);
    let mut path = format!("{:02x}/", fan(key.revision));
    for (at, byte) in directories.char_indices() {
        path.push(byte);
        if at % LONG_NAME_BYTES == LONG_NAME_BYTES - 1 {
            path.push('/');
        }
    }
    let _ = write!(
        path,
        "{file}{NAME_END}{}",
        key.revision.as_uuid().as_hyphenated()
    );
    Some(path)
}

/// Returns whether the paths of this object's blobs hold the beginning of its name only.
pub fn is_long(object: &ObjectId) -> bool {
    escaped_name(object).len() >= LONG_NAME_BYTES
}

/// The revision whose blob lies there, if its path holds the whole name: the inverse of [`path`]
/// for names that are not long, and of [`older_path`].
///
/// # Errors
/// [`ErrorKind::Invalid`] if neither gives this for any revision.
pub fn from_path(text: &str) -> Result<RevisionKey> {
    let is_spelled_so = |key: &RevisionKey| match older_path(key) {
        Some(older) => older == text,
        None => path(key) == text,
    };
    // Whatever the parser let through, only the exact spelling is accepted: two paths never mean
    // the same revision.
    parse(text).filter(is_spelled_so).ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            "from_path",
            format!("not the path of a revision: path={text:?}"),
        )
    })
}

/// The id of the revision whose blob lies there, or `None` if it is no revision's path. The
/// beginning of a long name is not compared with any id: [`path`] of the id in the trailer must be
/// this path.
pub fn revision_at(text: &str) -> Option<RevisionId> {
    from_path(text)
        .map(|key| key.revision)
        .ok()
        .or_else(|| parse_cut(text))
}

fn parse(text: &str) -> Option<RevisionKey> {
    let (_fan, rest) = text.split_once('/')?;
    let (name, uuid) = rest.rsplit_once(NAME_END)?;
    let (namespace, key) = name.split_once(NAMESPACE_END)?;
    let mut encoded = unescape(namespace)?;
    encoded.push(0);
    encoded.append(&mut unescape(key)?);
    let object = ObjectId::decode(&encoded).ok()?;
    let revision = RevisionId::from_uuid(Uuid::try_parse(uuid).ok()?);
    Some(RevisionKey { object, revision })
}

fn parse_cut(text: &str) -> Option<RevisionId> {
    let (_fan, rest) = text.split_once('/')?;
    let (name, uuid) = rest.rsplit_once(NAME_END)?;
    let revision = RevisionId::from_uuid(Uuid::try_parse(uuid).ok()?);
    let beginning = name.strip_suffix(CUT)?;
    let (namespace, key) = beginning
        .split_once(NAMESPACE_END)
        .unwrap_or((beginning, ""));
    let mut spelling = String::with_capacity(name.len());
    escape(&unescape(namespace)?, &mut spelling);
    if beginning.contains(NAMESPACE_END) {
        spelling.push(NAMESPACE_END);
        escape(&unescape(key)?, &mut spelling);
    }
    // A cut loses less than one character, which has at most 12 bytes.
    let is_cut_so = (LONG_NAME_BYTES - 13..LONG_NAME_BYTES - 1).contains(&beginning.len())
        && spelling == beginning;
    (is_cut_so && spelled(name, revision) == text).then_some(revision)
}

/// The directories of the fan-out: each blob lies in one of them.
pub fn fan_out() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|fan| format!("{fan:02x}"))
}

fn spelled(name: &str, revision: RevisionId) -> String {
    format!(
        "{:02x}/{name}{NAME_END}{}",
        fan(revision),
        revision.as_uuid().as_hyphenated()
    )
}

/// The place at which a long name is cut: before the last character that does not fit, whose
/// escaped bytes may be several.
fn cut_at(name: &str) -> usize {
    let bytes = name.as_bytes();
    // `CUT` needs a byte too.
    let mut at = LONG_NAME_BYTES - 1 - CUT.len_utf8();
    let is_within = |at: usize| {
        let is_in_escape = bytes[at - 1] == b'%' || bytes[at - 2] == b'%';
        let continues_character =
            bytes[at] == b'%' && matches!(bytes[at + 1], b'8' | b'9' | b'a' | b'b');
        is_in_escape || continues_character
    };
    while is_within(at) {
        at -= 1;
    }
    at
}

/// The last byte of a version 7 uuid is random: revisions spread evenly over 256 directories.
fn fan(revision: RevisionId) -> u8 {
    revision.as_bytes()[15]
}

fn escaped_name(object: &ObjectId) -> String {
    let mut name = String::with_capacity(object.encoded().len() * 2);
    escape(object.namespace_str().as_bytes(), &mut name);
    name.push(NAMESPACE_END);
    escape(object.key().as_bytes(), &mut name);
    name
}

fn escape(plain: &[u8], into: &mut String) {
    for &byte in plain {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'=' => into.push(char::from(byte)),
            _ => {
                let _ = write!(into, "%{byte:02x}");
            }
        }
    }
}

/// The bytes that `escaped` stands for, whatever directories it is cut into; none if an escape is
/// cut short.
fn unescape(escaped: &str) -> Option<Vec<u8>> {
    let mut bytes = escaped.bytes().filter(|&byte| byte != b'/');
    let mut plain = Vec::with_capacity(escaped.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            _ => byte,
        });
    }
    Some(plain)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}
