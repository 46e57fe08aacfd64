//! Where a revision's blob lies: [`path`] and its inverse [`from_path`], pure functions.
//!
//! ```text
//! 7f/photos%2forg=17!holidays%2f2026.jpg@0198c5a2-1f00-7abc-8def-00000000007f
//! ^^ ^^^^^^^^^^^^^^^ ^^^^^^^^^^^^^^^^^^^ ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
//! |  namespace       key                 revision id
//! fan-out: the last byte of the revision id
//! ```
//!
//! Namespace and key are escaped: `a-z 0-9 - _ . =` stand for themselves, every other byte is `%` and two lowercase
//! hexadecimal digits. So no path holds an uppercase letter, and a file system that folds case folds nothing. If the
//! escaped
//! text is long, directories of exactly 180 bytes each are cut off its front. `@` occurs in file names only, so
//! that no blob is ever another's directory.
//!
//! Guards I4 (a path is never shared by two revisions) and the promise that a path tells whose bytes it holds.
//! Deliberately not here:
//! how long a whole path a blob tier accepts ([`BlobTier::check_name`](super::BlobTier::check_name)).

use std::fmt::Write;

use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::ObjectId;
use crate::word::{RevisionId, RevisionKey};

/// Bytes of each directory that is cut off a long name.
const DIRECTORY_BYTES: usize = 180;
/// Separates namespace and key.
const NAMESPACE_END: char = '!';
/// Separates the name of the object and the revision id.
const NAME_END: char = '@';

/// The path of a revision's blob, relative to the root of the blob tier.
///
/// Its last segment has at most 216 bytes, every other one at most 180; none is `.` or `..`.
pub fn path(key: &RevisionKey) -> String {
    let uuid = key.revision.as_uuid().as_hyphenated();
    let name = escaped_name(&key.object);
    let directories = name.len() / DIRECTORY_BYTES;
    let mut path = String::with_capacity(name.len() + directories + "ff/@".len() + uuid::fmt::Hyphenated::LENGTH);
    let _ = write!(path, "{:02x}/", fan(key.revision));
    for directory in 0..directories {
        path.push_str(&name[directory * DIRECTORY_BYTES..(directory + 1) * DIRECTORY_BYTES]);
        path.push('/');
    }
    let _ = write!(path, "{}{NAME_END}{uuid}", &name[directories * DIRECTORY_BYTES..]);
    path
}

/// Bytes of the [`path`] of every revision of this object.
pub fn path_bytes(object: &ObjectId) -> usize {
    let name_bytes = escaped_name(object).len();
    name_bytes + name_bytes / DIRECTORY_BYTES + "ff/@".len() + uuid::fmt::Hyphenated::LENGTH
}

/// The revision whose blob lies there: the inverse of [`path`].
///
/// # Errors
/// [`ErrorKind::Invalid`] if [`path`] gives this for no revision.
pub fn from_path(text: &str) -> Result<RevisionKey> {
    match parse(text) {
        // Whatever the parser let through, only the one spelling is accepted: two paths never mean the same revision.
        Some(key) if path(&key) == text => Ok(key),
        Some(_) | None => {
            Err(Error::new(ErrorKind::Invalid, "from_path", format!("not the path of a revision: path={text:?}")))
        }
    }
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

/// The last byte of a version 7 uuid is random: revisions spread evenly over 256 directories.
fn fan(revision: RevisionId) -> u8 {
    revision.as_bytes()[15]
}

fn escaped_name(object: &ObjectId) -> String {
    let mut name = String::with_capacity(object.encoded().len() * 2);
    escape(object.namespace_str(), &mut name);
    name.push(NAMESPACE_END);
    escape(object.key(), &mut name);
    name
}

fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'=' => into.push(char::from(byte)),
            _ => {
                let _ = write!(into, "%{byte:02x}");
            }
        }
    }
}

/// The bytes that `escaped` stands for, whatever directories it is cut into; none if an escape is cut short.
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
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
