//! Paths of blobs: [`path`] encodes them, [`from_path`] and [`revision_at`] decode them. Pure
//! functions.
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
//! Namespace and key are escaped: the characters `a-z 0-9 - _ . =` are copied, every other byte
//! becomes `%` and two lowercase hexadecimal digits. So paths contain no uppercase letters and stay
//! distinct on a case-insensitive file system. A name of 180 escaped bytes or more is *long*. Its
//! path contains the beginning of the name, cut between two characters, and `~`, which no escaped
//! name contains. The whole id of a long name is in the [trailer](super::trailer) of the blob.
//!
//! Earlier builds cut a long name into directories of 180 bytes: [`older_path`]. Blobs are still
//! read at these paths, but no longer written.
//!
//! Guards I4 (two revisions never share a path) and the promise that a blob identifies its object.
//! All paths have the same limit, [`PATH_BYTES_MAX`], so every valid id is valid in every blob
//! tier.

use std::fmt::Write;

use uuid::Uuid;

use crate::types::{Error, ErrorKind, ObjectId, Result, RevisionId, RevisionKey};

/// Length from which an escaped name is long, in bytes.
const LONG_NAME_BYTES: usize = 180;
/// Separator of namespace and key.
const NAMESPACE_END: char = '!';
/// Mark behind the beginning of a long name.
const CUT: char = '~';
/// Separator of object name and revision id.
const NAME_END: char = '@';

/// Longest path of a blob, in bytes: a fan-out of 2 bytes, `/`, and a file name of at most 216
/// bytes.
pub const PATH_BYTES_MAX: usize =
    "ff/".len() + LONG_NAME_BYTES - 1 + "@".len() + uuid::fmt::Hyphenated::LENGTH;

/// Returns the path of a revision's blob, relative to the root of the blob tier.
pub fn path(key: &RevisionKey) -> String {
    let mut name = escaped_name(&key.object);
    if name.len() >= LONG_NAME_BYTES {
        name.truncate(cut_at(&name));
        name.push(CUT);
    }
    format_path(&name, key.revision)
}

/// Returns the path at which earlier builds wrote a revision's blob, or `None` if that path equals
/// the present path. Earlier builds cut directories of exactly 180 bytes each off the front of a
/// long name.
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

/// Returns whether the paths of this object's blobs contain only the beginning of its name.
pub fn is_long(object: &ObjectId) -> bool {
    escaped_name(object).len() >= LONG_NAME_BYTES
}

/// Returns the revision of a path that contains the whole name. This is the inverse of [`path`] for
/// names that are not long, and of [`older_path`].
///
/// # Errors
/// [`ErrorKind::Invalid`] if neither function returns this path for any revision.
pub fn from_path(text: &str) -> Result<RevisionKey> {
    let is_canonical = |key: &RevisionKey| match older_path(key) {
        Some(older) => older == text,
        None => path(key) == text,
    };
    // The parser is lenient, so the path is encoded again and compared: two different paths never
    // decode to the same revision.
    parse(text).filter(is_canonical).ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            "from_path",
            format!("not the path of a revision: path={text:?}"),
        )
    })
}

/// Returns the revision id of a path, or `None` if the path is not a revision's path. For a long
/// name this does not identify the object. The caller must check that [`path`] of the id in the
/// trailer is this path.
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
    let mut canonical = String::with_capacity(name.len());
    escape(&unescape(namespace)?, &mut canonical);
    if beginning.contains(NAMESPACE_END) {
        canonical.push(NAMESPACE_END);
        escape(&unescape(key)?, &mut canonical);
    }
    // A cut drops less than a character beyond the limit. An escaped character has at most 12
    // bytes: 4 bytes of UTF-8, each escaped to 3.
    let is_valid_cut = (LONG_NAME_BYTES - 13..LONG_NAME_BYTES - 1).contains(&beginning.len())
        && canonical == beginning;
    (is_valid_cut && format_path(name, revision) == text).then_some(revision)
}

/// Returns the names of the 256 fan-out directories. Every blob is in a fan-out directory.
pub fn fan_out() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|fan| format!("{fan:02x}"))
}

fn format_path(name: &str, revision: RevisionId) -> String {
    format!(
        "{:02x}/{name}{NAME_END}{}",
        fan(revision),
        revision.as_uuid().as_hyphenated()
    )
}

/// Returns the length to which a long name is cut: the longest prefix that ends between two
/// characters and has room for [`CUT`]. An escaped character may have several bytes.
fn cut_at(name: &str) -> usize {
    let bytes = name.as_bytes();
    // `CUT` itself takes a byte.
    let mut at = LONG_NAME_BYTES - 1 - CUT.len_utf8();
    let is_within = |at: usize| {
        let is_in_escape = bytes[at - 1] == b'%' || bytes[at - 2] == b'%';
        // Escapes %80 to %bf are continuation bytes of UTF-8.
        let continues_character =
            bytes[at] == b'%' && matches!(bytes[at + 1], b'8' | b'9' | b'a' | b'b');
        is_in_escape || continues_character
    };
    while is_within(at) {
        at -= 1;
    }
    at
}

/// Returns the number of a revision's fan-out directory: the last byte of its id. In a version 7
/// uuid that byte is random, so revisions are spread evenly over 256 directories.
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
            // Without `write!`: names are escaped on every request, byte by byte.
            _ => {
                into.push('%');
                into.push(hex_char(byte >> 4));
                into.push(hex_char(byte & 0xf));
            }
        }
    }
}

fn hex_char(digit: u8) -> char {
    char::from_digit(digit.into(), 16).expect("a digit is below 16")
}

/// Returns the bytes that `escaped` encodes, or `None` if an escape is invalid or incomplete.
fn unescape(escaped: &str) -> Option<Vec<u8>> {
    // Older paths have a `/` every 180 bytes. An escaped name never contains a `/` of its own.
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

#[cfg(test)]
mod tests;
