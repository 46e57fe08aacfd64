//! Checksums that a caller may declare for the bytes of a part ([`Digest`]), and their incremental
//! verification ([`Verifier`]).
//!
//! The four algorithms are checksums of S3. A digest is computed only for a part that declares it.
//! Stored checksums are xxh3 (`checksum.rs`).

use std::fmt;
use std::str::FromStr;

use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::Md5;
use sha2::{Digest as _, Sha256};

use crate::types::bytes_of_hex;
use crate::types::{Error, ErrorKind, Reason, Result};

/// Checksum that a caller declares, by algorithm.
///
/// The text form is the name of the algorithm, a colon, and lower-case hexadecimal digits, most
/// significant first.
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
    /// MD5 (RFC 1321), as in `Content-MD5` of S3. Detects accidental damage; does not prevent
    /// forgery.
    Md5([u8; 16]),
    /// CRC-32C (Castagnoli; RFC 3720).
    Crc32c(u32),
    /// CRC-64/NVME, the default of S3.
    Crc64Nvme(u64),
    /// SHA-256 (FIPS 180-4). Detects forgery, too.
    Sha256([u8; 32]),
}

impl Digest {
    /// Computes the MD5 of these bytes.
    pub fn md5_of(bytes: &[u8]) -> Self {
        Self::Md5(Md5::digest(bytes).into())
    }

    /// Computes the CRC-32C of these bytes.
    pub fn crc32c_of(bytes: &[u8]) -> Self {
        Self::computed(Self::Crc32c(0), bytes)
    }

    /// Computes the CRC-64/NVME of these bytes.
    pub fn crc64_nvme_of(bytes: &[u8]) -> Self {
        Self::computed(Self::Crc64Nvme(0), bytes)
    }

    /// Computes the SHA-256 of these bytes.
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
    /// [`ErrorKind::Invalid`] if the algorithm is unknown or the digits are malformed.
    fn from_str(text: &str) -> Result<Self> {
        let read = |(algorithm, hex): (&str, &str)| match algorithm {
            "md5" => bytes_of_hex(hex).map(Self::Md5),
            "crc32c" => bytes_of_hex(hex).map(|bytes| Self::Crc32c(u32::from_be_bytes(bytes))),
            "crc64nvme" => {
                bytes_of_hex(hex).map(|bytes| Self::Crc64Nvme(u64::from_be_bytes(bytes)))
            }
            "sha256" => bytes_of_hex(hex).map(Self::Sha256),
            // `bytes_of_hex` accepts the exact number of digits of the algorithm only.
            _ => None,
        };
        text.split_once(':').and_then(read).ok_or_else(|| {
            let message = format!(
                "invalid checksum: text={text:?} expected=md5:.., crc32c:.., crc64nvme:.. or \
                 sha256:.."
            );
            Error::new(ErrorKind::Invalid, "multipart", message)
        })
    }
}

/// Incremental verification of bytes against their declared checksum.
pub struct Verifier {
    declared: Digest,
    state: State,
}

/// State of the running computation.
enum State {
    // Boxed, because the states of these hashes are much larger than those of the CRCs.
    Md5(Box<Md5>),
    Crc32c(Crc),
    Crc64Nvme(Crc),
    Sha256(Box<Sha256>),
}

impl Verifier {
    /// Creates a verifier that expects bytes with this checksum.
    pub fn new(declared: Digest) -> Self {
        let state = match declared {
            Digest::Md5(_) => State::Md5(Box::default()),
            Digest::Crc32c(_) => State::Crc32c(Crc::new(CrcAlgorithm::Crc32Iscsi)),
            Digest::Crc64Nvme(_) => State::Crc64Nvme(Crc::new(CrcAlgorithm::Crc64Nvme)),
            Digest::Sha256(_) => State::Sha256(Box::default()),
        };
        Self { declared, state }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Md5(md5) => md5.update(bytes),
            State::Crc32c(crc) | State::Crc64Nvme(crc) => crc.update(bytes),
            State::Sha256(sha256) => sha256.update(bytes),
        }
    }

    /// Compares the checksum of all added bytes with the declared checksum.
    ///
    /// # Errors
    /// [`ErrorKind::Source`] with [`Reason::Checksum`] if they differ.
    pub fn verify(self) -> Result<()> {
        let declared = self.declared;
        let found = self.state.finish();
        if found == declared {
            return Ok(());
        }
        let message =
            format!("the payload has another checksum: declared={declared} found={found}");
        Err(Error::new(ErrorKind::Source, "multipart", message).with_reason(Reason::Checksum))
    }
}

impl State {
    fn finish(self) -> Digest {
        match self {
            Self::Md5(md5) => Digest::Md5(md5.finalize().into()),
            // The library returns every checksum as 64 bits.
            Self::Crc32c(crc) => Digest::Crc32c(
                u32::try_from(crc.finalize()).expect("a CRC-32C has 32 significant bits"),
            ),
            Self::Crc64Nvme(crc) => Digest::Crc64Nvme(crc.finalize()),
            Self::Sha256(sha256) => Digest::Sha256(sha256.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected values are the published check values of the algorithms for these nine bytes.
    #[test]
    fn each_algorithm_returns_its_published_check_value() {
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
    fn bytes_that_differ_are_refused_with_both_checksums() {
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
            assert!(
                error
                    .to_string()
                    .contains(&make(b"as declaree").to_string()),
                "{error}"
            );
        }
    }
}
