//! What a caller may declare about the bytes of a part before it sends them: [`Digest`], and how
//! they are checked as they flow by: [`Verifier`].
//!
//! The four are those of S3's checksums. Ours own are xxh3 (`checksum.rs`); these are computed only
//! where somebody declared one. Each comes from a library. Deliberately not here: what becomes of a
//! part that does not match.

use std::fmt;
use std::str::FromStr;

use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::Md5;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Reason, Result};
use crate::multipart::bytes_of_hex;

/// A checksum that a caller declares, by the algorithm that makes it.
///
/// Written and read as the algorithm's name and lower-case hexadecimal digits, most significant
/// first.
///
/// ```
/// use cenotaph_storage::Digest;
///
/// let declared: Digest = "md5:5d41402abc4b2a76b9719d911017c592".parse()?;
/// assert_eq!(declared, Digest::md5_of(b"hello"));
/// assert_eq!(Digest::crc32c_of(b"123456789").to_string(), "crc32c:e3069283");
/// # Ok::<(), cenotaph_storage::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// MD5 (RFC 1321): what S3's `Content-MD5` is made of. Finds accidents; no longer forgers.
    Md5([u8; 16]),
    /// CRC-32C (Castagnoli; RFC 3720).
    Crc32c(u32),
    /// CRC-64/NVME, as S3 computes it by default.
    Crc64Nvme(u64),
    /// SHA-256 (FIPS 180-4). Finds forgers too.
    Sha256([u8; 32]),
}

impl Digest {
    /// The MD5 of these bytes.
    pub fn md5_of(bytes: &[u8]) -> Self {
        Self::Md5(Md5::digest(bytes).into())
    }

    /// The CRC-32C of these bytes.
    pub fn crc32c_of(bytes: &[u8]) -> Self {
        Self::computed(Self::Crc32c(0), bytes)
    }

    /// The CRC-64/NVME of these bytes.
    pub fn crc64_nvme_of(bytes: &[u8]) -> Self {
        Self::computed(Self::Crc64Nvme(0), bytes)
    }

    /// The SHA-256 of these bytes.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::Sha256(Sha256::digest(bytes).into())
    }

    fn computed(algorithm: Self, bytes: &[u8]) -> Self {
        let mut verifier = Verifier::new(algorithm);
        verifier.update(bytes);
        verifier.state.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| {
            bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        };
        match self {
            Self::Md5(bytes) => f.write_str("md5:").and_then(|()| hex(f, bytes)),
            Self::Crc32c(value) => write!(f, "crc32c:{value:08x}"),
            Self::Crc64Nvme(value) => write!(f, "crc64nvme:{value:016x}"),
            Self::Sha256(bytes) => f.write_str("sha256:").and_then(|()| hex(f, bytes)),
        }
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// # Errors
    /// [`ErrorKind::Invalid`] if no declared checksum is spelled so.
    fn from_str(text: &str) -> Result<Self> {
        let read = |(algorithm, hex): (&str, &str)| match algorithm {
            "md5" => bytes_of_hex(hex).map(Self::Md5),
            "crc32c" => bytes_of_hex(hex).map(|bytes| Self::Crc32c(u32::from_be_bytes(bytes))),
            "crc64nvme" => {
                bytes_of_hex(hex).map(|bytes| Self::Crc64Nvme(u64::from_be_bytes(bytes)))
            }
            "sha256" => bytes_of_hex(hex).map(Self::Sha256),
            _ => None,
        };
        text.split_once(':').and_then(read).ok_or_else(|| {
            let message =
                format!("no checksum is spelled so; expected md5, crc32c, crc64nvme or sha256: text={text:?}");
            Error::new(ErrorKind::Invalid, "multipart", message)
        })
    }
}

/// Checks bytes that flow by against what was declared about them.
pub struct Verifier {
    declared: Digest,
    state: State,
}

enum State {
    Md5(Box<Md5>),
    Crc32c(Crc),
    Crc64Nvme(Crc),
    Sha256(Box<Sha256>),
}

impl Verifier {
    /// Expects bytes with this checksum.
    pub fn new(declared: Digest) -> Self {
        let state = match declared {
            Digest::Md5(_) => State::Md5(Box::default()),
            Digest::Crc32c(_) => State::Crc32c(Crc::new(CrcAlgorithm::Crc32Iscsi)),
            Digest::Crc64Nvme(_) => State::Crc64Nvme(Crc::new(CrcAlgorithm::Crc64Nvme)),
            Digest::Sha256(_) => State::Sha256(Box::default()),
        };
        Self { declared, state }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Md5(md5) => md5.update(bytes),
            State::Crc32c(crc) | State::Crc64Nvme(crc) => crc.update(bytes),
            State::Sha256(sha256) => sha256.update(bytes),
        }
    }

    /// Compares, at the end of the bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Source`]: the bytes are not those that were declared.
    pub fn verify(self) -> Result<()> {
        let (declared, found) = (self.declared, self.state.finish());
        if found == declared {
            return Ok(());
        }
        let message = format!(
            "the bytes do not have the checksum that was declared: declared={declared} found={found}"
        );
        Err(Error::new(ErrorKind::Source, "multipart", message).with_reason(Reason::Checksum))
    }
}

impl State {
    fn finish(self) -> Digest {
        match self {
            Self::Md5(md5) => Digest::Md5(md5.finalize().into()),
            Self::Crc32c(crc) => Digest::Crc32c(
                u32::try_from(crc.finalize()).expect("a checksum of 32 bits has no more of them"),
            ),
            Self::Crc64Nvme(crc) => Digest::Crc64Nvme(crc.finalize()),
            Self::Sha256(sha256) => Digest::Sha256(sha256.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values that the algorithms' own catalogues give for these nine bytes.
    #[test]
    fn each_algorithm_gives_its_published_check_value() {
        let bytes = b"123456789";
        let expected = [
            (
                Digest::md5_of(bytes),
                "md5:25f9e794323b453885f5181f1b624d0b",
            ),
            (Digest::crc32c_of(bytes), "crc32c:e3069283"),
            (Digest::crc64_nvme_of(bytes), "crc64nvme:ae8b14860a799888"),
            (
                Digest::sha256_of(bytes),
                "sha256:15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ];
        for (found, text) in expected {
            assert_eq!(found.to_string(), text);
            assert_eq!(text.parse::<Digest>().unwrap(), found);
        }
        assert!("sha1:00".parse::<Digest>().is_err() && "md5:00".parse::<Digest>().is_err());
    }

    #[test]
    fn what_differs_in_one_bit_is_refused_and_names_both() {
        let makers = [
            Digest::md5_of,
            Digest::crc32c_of,
            Digest::crc64_nvme_of,
            Digest::sha256_of,
        ];
        for make in makers {
            let declared = make(b"as declared");
            let mut whole = Verifier::new(declared);
            whole.update(b"as ");
            whole.update(b"declared");
            whole.verify().unwrap();
            let mut flipped = Verifier::new(declared);
            flipped.update(b"as declaree");
            let error = flipped.verify().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Source);
            assert!(error.to_string().contains(&declared.to_string()), "{error}");
        }
    }
}
