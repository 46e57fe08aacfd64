//! Reads at a position of a file, without a change of its cursor.

use std::fs::File;
use std::io;

/// Fills the buffer with the bytes at `offset`.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if the file ends before, and errors of the file system.
pub(crate) fn read_exact(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let bytes = buffer.len();
    if read_up_to(file, buffer, offset)? == bytes {
        return Ok(());
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Fills the buffer with the bytes at `offset`, up to the end of the file. Returns their number.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn read_up_to(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut total = 0;
    while !buffer.is_empty() {
        match read_at(file, buffer, offset) {
            Ok(0) => break,
            Ok(read) => {
                total += read;
                offset += read as u64;
                buffer = &mut buffer[read..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    // Moves the cursor. Each handle is used for positioned reads or for appends, never for both.
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// Fills the buffer with the bytes at `offset` if all of them are in the page cache. Returns false
/// otherwise, also if the system does not support such a read.
#[cfg(target_os = "linux")]
pub(crate) fn read_resident(file: &File, buffer: &mut [u8], offset: u64) -> bool {
    use rustix::io::{ReadWriteFlags, preadv2};
    let bytes = buffer.len();
    let mut slices = [io::IoSliceMut::new(buffer)];
    // The kernel returns a short count at the first page that is not in memory.
    let read = preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT);
    read.is_ok_and(|read| read == bytes)
}

/// Fills the buffer with the bytes at `offset` if all of them are in the page cache. Returns false:
/// this system has no such read.
#[cfg(not(target_os = "linux"))]
pub(crate) fn read_resident(_: &File, _: &mut [u8], _: u64) -> bool {
    false
}
