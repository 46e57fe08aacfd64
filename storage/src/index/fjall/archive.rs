//! The container format of fjall's manifests, tables and blob files: sections, a table of contents,
//! a trailer.
//!
//! ```text
//! sections | toc | trailer                                             little-endian
//! toc      "TOC!" | sections u32 | position u64, length u64, name length u16, name (each section)
//! trailer  "SFA!" | 01 | 00 | xxh3 of the toc u128 | position u64 and length u64 of the toc
//!          38 bytes
//! ```
//!
//! Guards against aborts: fjall allocates memory for the counts in a table of contents before it
//! compares the checksum, so that a damaged count aborts the process. [`contents`] uses no value
//! before the checksum matches, and reads only the end of the file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

const TRAILER_BYTES: u64 = 38;
const TRAILER_MAGIC: &[u8] = b"SFA!\x01\x00";
const TOC_MAGIC: &[u8] = b"TOC!";
/// Maximal size of a table of contents. fjall writes about ten sections, with short names.
const TOC_BYTES_MAX: u64 = 64 * 1024;

/// Section of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: Vec<u8>,
    pub(super) at: u64,
    pub(super) length: u64,
}

/// Reads the table of contents of an archive. An inner `Err` describes the damage.
///
/// # Errors
/// Errors of the file system.
pub(super) fn contents(file: &mut File) -> io::Result<Result<Vec<Section>, String>> {
    let length = file.metadata()?.len();
    let Some(trailer_at) = length.checked_sub(TRAILER_BYTES) else {
        return Ok(Err(format!("the file is too short: bytes={length}")));
    };
    let trailer = read_at(file, trailer_at, TRAILER_BYTES)?;
    let mut fields = Fields(&trailer);
    if fields.take(TRAILER_MAGIC.len()) != Some(TRAILER_MAGIC) {
        return Ok(Err("the trailer of the file is damaged".to_owned()));
    }
    let checksum = fields.u128();
    let toc_at = fields.u64();
    let toc_length = fields.u64();
    let (Some(checksum), Some(toc_at), Some(toc_length)) = (checksum, toc_at, toc_length) else {
        return Ok(Err("the trailer of the file is damaged".to_owned()));
    };
    // The length is not covered by the checksum: it is bounded before the allocation.
    if toc_at.checked_add(toc_length) != Some(trailer_at) || toc_length > TOC_BYTES_MAX {
        return Ok(Err("the trailer of the file is damaged".to_owned()));
    }
    let toc = read_at(file, toc_at, toc_length)?;
    if xxh3_128(&toc) != checksum {
        return Ok(Err(
            "the checksum of the table of contents does not match".to_owned()
        ));
    }
    Ok(sections(&toc, toc_at).ok_or_else(|| "the table of contents is damaged".to_owned()))
}

fn sections(toc: &[u8], toc_at: u64) -> Option<Vec<Section>> {
    let mut fields = Fields(toc);
    if fields.take(TOC_MAGIC.len()) != Some(TOC_MAGIC) {
        return None;
    }
    let count = fields.u32()?;
    // No capacity from `count`: memory grows only with sections that exist.
    let mut sections = Vec::new();
    for _ in 0..count {
        let at = fields.u64()?;
        let length = fields.u64()?;
        let name = usize::from(fields.u16()?);
        let name = fields.take(name)?.to_vec();
        // All sections precede the table of contents.
        at.checked_add(length).filter(|&end| end <= toc_at)?;
        sections.push(Section { name, at, length });
    }
    Some(sections)
}

/// Returns the bytes of a section, or `None` if it is absent or longer than `bytes_max`.
///
/// # Errors
/// Errors of the file system.
pub(super) fn section(
    file: &mut File,
    sections: &[Section],
    name: &[u8],
    bytes_max: u64,
) -> io::Result<Option<Vec<u8>>> {
    match sections.iter().find(|section| section.name == name) {
        Some(section) if section.length <= bytes_max => {
            read_at(file, section.at, section.length).map(Some)
        }
        Some(_) | None => Ok(None),
    }
}

/// Returns the table of contents, which begins at `at`, and the trailer of an archive with these
/// sections.
pub(super) fn end(sections: &[Section], at: u64) -> Vec<u8> {
    let mut toc = TOC_MAGIC.to_vec();
    let count = u32::try_from(sections.len()).expect("an archive has about ten sections");
    toc.extend(count.to_le_bytes());
    for section in sections {
        toc.extend(section.at.to_le_bytes());
        toc.extend(section.length.to_le_bytes());
        let name_bytes =
            u16::try_from(section.name.len()).expect("the name was read with a length of 16 bits");
        toc.extend(name_bytes.to_le_bytes());
        toc.extend(&section.name);
    }
    let checksum = xxh3_128(&toc);
    let length = toc.len() as u64;
    toc.extend(TRAILER_MAGIC);
    toc.extend(checksum.to_le_bytes());
    toc.extend(at.to_le_bytes());
    toc.extend(length.to_le_bytes());
    toc
}

/// Returns the xxh3 of a whole file, as manifests contain it.
///
/// # Errors
/// Errors of the file system.
pub(super) fn checksum(path: &Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.digest128()),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn read_at(file: &mut File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    // `read_to_end` grows the buffer with the bytes read, so that a wrong length allocates nothing.
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reader of numbers from a byte slice. Each method returns `None` if too few bytes are left.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }
}
