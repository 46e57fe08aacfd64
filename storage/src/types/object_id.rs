//! Names that the user chooses: [`Namespace`] and [`ObjectId`].
//!
//! Constructors validate all limits. Every `ObjectId` therefore fits into an index key and into a
//! blob path (`blobs/path.rs`).

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{Error, ErrorKind, Result};

/// Maximum length of a key, in bytes of UTF-8.
///
/// The limit depends neither on the size of the object nor on the blob tier, because no blob path
/// is longer than [`PATH_BYTES_MAX`](crate::blobs::path::PATH_BYTES_MAX).
pub const KEY_BYTES_MAX: usize = 1024;
/// Maximum length of a use case, scope name or scope value, in bytes.
pub const NAMESPACE_PART_BYTES_MAX: usize = 128;
/// Maximum number of `scope=value` pairs in a namespace.
pub const NAMESPACE_SCOPES_MAX: usize = 8;
/// Maximum length of an encoded id (`usecase/scope=value/.. 0x00 key`), in bytes.
pub(crate) const ID_BYTES_MAX: usize = NAMESPACE_PART_BYTES_MAX
    + NAMESPACE_SCOPES_MAX * (2 * NAMESPACE_PART_BYTES_MAX + 2)
    + 1
    + KEY_BYTES_MAX;

/// Separator of namespace and key in an encoded id. No namespace contains this byte.
const SEPARATOR: u8 = 0;

/// Name space of keys: a use case plus ordered `scope=value` pairs.
///
/// Use case, scope names and scope values have 1 to [`NAMESPACE_PART_BYTES_MAX`] characters of `A-Z
/// a-z 0-9 - _ .`. A namespace has at most [`NAMESPACE_SCOPES_MAX`] scopes.
///
/// ```
/// use cenotaph_storage::Namespace;
///
/// let organisation = Namespace::new("attachments")?.with_scope("org", "17")?;
/// let namespace = organisation.with_scope("project", "42")?;
/// assert_eq!(namespace.to_string(), "attachments/org=17/project=42");
/// assert!(Namespace::new("no spaces").is_err());
/// # Ok::<(), cenotaph_storage::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace(String);

impl Namespace {
    /// Creates the namespace of a use case, without scopes.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `usecase` is empty, too long, or contains a character that is not
    /// allowed.
    pub fn new(usecase: &str) -> Result<Self> {
        check_part("use case", usecase)?;
        Ok(Self(usecase.to_owned()))
    }

    /// Appends a `scope=value` pair. The order of the pairs is significant.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the scope or value breaks the rules of [`Namespace`], or if there
    /// are too many scopes.
    pub fn with_scope(mut self, scope: &str, value: &str) -> Result<Self> {
        check_part("scope", scope)?;
        check_part("scope value", value)?;
        // Every scope adds a slash, and no part contains one.
        if self.0.matches('/').count() == NAMESPACE_SCOPES_MAX {
            return Err(invalid(format!(
                "too many scopes: max={NAMESPACE_SCOPES_MAX}"
            )));
        }
        self.0 = format!("{}/{scope}={value}", self.0);
        Ok(self)
    }

    /// Returns the namespace that a plain string key addresses.
    pub fn default_namespace() -> Self {
        Self("default".to_owned())
    }

    /// Returns the text form: `usecase/scope=value/..`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split('/');
        let usecase = parts.next().unwrap_or_default();
        parts.try_fold(Self::new(usecase)?, |namespace, pair| {
            let (scope, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid(format!("scope without value: namespace={text:?}")))?;
            namespace.with_scope(scope, value)
        })
    }

    /// Returns the prefix that the encoded ids of all objects of this namespace share, and no other
    /// encoded id has.
    pub fn encoded_prefix(&self) -> Vec<u8> {
        let mut prefix = self.0.clone().into_bytes();
        // The separator keeps namespace `a` from matching ids of namespace `ab`.
        prefix.push(SEPARATOR);
        prefix
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::default_namespace()
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Parses the text form that [`Display`](fmt::Display) writes.
///
/// ```
/// use cenotaph_storage::Namespace;
///
/// let namespace: Namespace = "attachments/org=17".parse()?;
/// assert_eq!(namespace, Namespace::new("attachments")?.with_scope("org", "17")?);
/// assert!("attachments/17".parse::<Namespace>().is_err());
/// # Ok::<(), cenotaph_storage::Error>(())
/// ```
impl FromStr for Namespace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// Checks a use case, scope name or scope value. `part` names it in the error.
fn check_part(part: &str, text: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAMESPACE_PART_BYTES_MAX {
        return Err(invalid(format!(
            "{part} must have 1 to {NAMESPACE_PART_BYTES_MAX} bytes: bytes={}",
            text.len()
        )));
    }
    match text.chars().find(|&c| !allowed(c)) {
        Some(c) => Err(invalid(format!(
            "{part} has a character outside of A-Z a-z 0-9 - _ . : char={c:?}"
        ))),
        None => Ok(()),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, "name", message)
}

/// Name of an object: a [`Namespace`] and a key of 1 to [`KEY_BYTES_MAX`] bytes of any UTF-8.
///
/// Ids are ordered by namespace, then by the bytes of the key. This is the order of listings.
/// Cloning is cheap.
///
/// ```
/// use cenotaph_storage::{Namespace, ObjectId};
///
/// let id = ObjectId::try_from("photos/2026/beach.jpg")?;       // the default namespace
/// assert_eq!(id.key(), "photos/2026/beach.jpg");
/// let other = ObjectId::new(&Namespace::new("thumbs")?, "photos/2026/beach.jpg")?;
/// assert_ne!(id, other);
/// # Ok::<(), cenotaph_storage::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    // The first field decides the derived order.
    /// `namespace 0x00 key`, as stored and ordered by the index.
    encoded: Bytes,
    /// Offset of the key in `encoded`.
    key_at: usize,
}

impl ObjectId {
    /// Creates the id of the object with this key in this namespace.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the key is empty or longer than [`KEY_BYTES_MAX`].
    pub fn new(namespace: &Namespace, key: &str) -> Result<Self> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(invalid(format!(
                "key must have 1 to {KEY_BYTES_MAX} bytes: bytes={}",
                key.len()
            )));
        }
        let mut encoded = namespace.encoded_prefix();
        let key_at = encoded.len();
        encoded.extend_from_slice(key.as_bytes());
        Ok(Self {
            encoded: encoded.into(),
            key_at,
        })
    }

    /// Returns the key within its namespace.
    pub fn key(&self) -> &str {
        std::str::from_utf8(&self.encoded[self.key_at..]).expect("built from a str")
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> Namespace {
        Namespace(self.namespace_str().to_owned())
    }

    /// Returns the text form of the namespace: `usecase/scope=value/..`.
    pub fn namespace_str(&self) -> &str {
        std::str::from_utf8(&self.encoded[..self.key_at - 1]).expect("built from a str")
    }

    /// Returns the encoded id as the index stores and orders it: `namespace 0x00 key`.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Decodes an [encoded](Self::encoded) id.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the bytes are not an encoded id.
    pub fn decode(encoded: &[u8]) -> Result<Self> {
        let malformed = || {
            invalid(format!(
                "not an encoded object id: bytes={}",
                encoded.escape_ascii()
            ))
        };
        // The first zero byte is the separator. A key may contain zero bytes, a namespace may not.
        let split = encoded
            .iter()
            .position(|&byte| byte == SEPARATOR)
            .ok_or_else(malformed)?;
        let namespace = std::str::from_utf8(&encoded[..split]).map_err(|_| malformed())?;
        let key = std::str::from_utf8(&encoded[split + 1..]).map_err(|_| malformed())?;
        Self::new(&Namespace::parse(namespace)?, key)
    }
}

impl fmt::Display for ObjectId {
    /// Writes the key alone in the default namespace, and `namespace:key` in any other. Control
    /// characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace_str();
        if namespace != Namespace::default_namespace().as_str() {
            write!(f, "{namespace}:")?;
        }
        for c in self.key().chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl TryFrom<&str> for ObjectId {
    type Error = Error;
    fn try_from(key: &str) -> Result<Self> {
        Self::new(&Namespace::default_namespace(), key)
    }
}

impl Serialize for ObjectId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encoded)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Stored bytes are validated like user input, because the index may be damaged.
        let encoded = <Vec<u8>>::deserialize(deserializer)?;
        Self::decode(&encoded).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_survives_its_encoding(
            usecase in "[A-Za-z0-9._-]{1,20}",
            value in "[A-Za-z0-9._-]{1,20}",
            key in ".{1,60}",
        ) {
            let namespace = Namespace::new(&usecase).unwrap().with_scope("s", &value).unwrap();
            let id = ObjectId::new(&namespace, &key).unwrap();
            prop_assert_eq!(&ObjectId::decode(id.encoded()).unwrap(), &id);
            prop_assert_eq!(id.key(), key);
            prop_assert_eq!(id.namespace(), namespace);
        }

        #[test]
        fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(id) = ObjectId::decode(&bytes) {
                prop_assert_eq!(&id.encoded()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn keys_outside_of_the_limits_are_invalid() {
        assert_eq!(
            ObjectId::try_from("").unwrap_err().kind(),
            ErrorKind::Invalid
        );
        assert!(ObjectId::try_from("k".repeat(KEY_BYTES_MAX).as_str()).is_ok());
        assert_eq!(
            ObjectId::try_from("k".repeat(KEY_BYTES_MAX + 1).as_str())
                .unwrap_err()
                .kind(),
            ErrorKind::Invalid
        );
    }

    #[test]
    fn the_longest_id_has_the_documented_length() {
        let part = "n".repeat(NAMESPACE_PART_BYTES_MAX);
        let scoped = |namespace: Namespace, _| namespace.with_scope(&part, &part).unwrap();
        let namespace = (0..NAMESPACE_SCOPES_MAX).fold(Namespace::new(&part).unwrap(), scoped);
        let id = ObjectId::new(&namespace, &"k".repeat(KEY_BYTES_MAX)).unwrap();
        assert_eq!(id.encoded().len(), ID_BYTES_MAX);
    }

    #[test]
    fn no_namespace_is_a_prefix_of_another() {
        let short = Namespace::new("a").unwrap();
        let long = Namespace::new("a.b").unwrap();
        assert!(!long.encoded_prefix().starts_with(&short.encoded_prefix()));
    }
}
