//! Inputs of the demo: the generated file, the tree, and the flipped byte.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use cenotaph::Env;

use super::checks;
use crate::ui::failure::Failure;
use crate::ui::report::{Bar, Report};

/// Number of bytes per write.
const PIECE_BYTES: usize = 1024 * 1024;
/// Number of files in a generated tree.
const TREE_FILES: u64 = 300;
/// Size of the largest of them, in bytes.
const TREE_FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Deterministic, incompressible bytes: splitmix64 (Steele, Lea, Flood: Fast splittable
/// pseudorandom number generators).
struct Noise(u64);

impl Noise {
    /// Returns the next number.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Fills a buffer.
    fn fill(&mut self, piece: &mut [u8]) {
        for word in piece.chunks_mut(8) {
            let noise = self.next().to_le_bytes();
            word.copy_from_slice(&noise[..word.len()]);
        }
    }

    /// Writes a file of this size, with a single piece in memory at a time.
    fn write(&mut self, path: &Path, bytes: u64, bar: Option<&Bar>) -> io::Result<()> {
        let mut file = File::create(path)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut left = bytes;
        while left > 0 {
            let part = usize::try_from(left)
                .unwrap_or(PIECE_BYTES)
                .min(PIECE_BYTES);
            self.fill(&mut piece[..part]);
            file.write_all(&piece[..part])?;
            left -= part as u64;
            if let Some(bar) = bar {
                bar.add(part as u64);
            }
        }
        Ok(())
    }
}

/// Generates the large file in a directory of its own.
pub(super) async fn generate_file(
    env: &Env,
    report: &Report,
    dir: &Path,
    bytes: u64,
) -> Result<(), Failure> {
    let bar = report.bar("generate", Some(bytes));
    let dir = dir.to_owned();
    let generate = move || {
        std::fs::create_dir_all(&dir)?;
        Noise(1).write(&dir.join("random.bin"), bytes, Some(&bar))
    };
    env.blocking(generate)
        .await?
        .map_err(|error| Failure::io("the large file can't be generated", &error))
}

/// Returns the tree to import: `asked`, or else the checkout, or else a tree generated at
/// `fallback`.
pub(super) async fn tree(
    env: &Env,
    asked: Option<&Path>,
    fallback: &Path,
) -> Result<PathBuf, Failure> {
    if let Some(asked) = asked {
        return Ok(asked.to_owned());
    }
    // An installed tool may run on another machine than the build, without that directory.
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned);
    let checkouts = [std::env::current_dir().ok(), built_from];
    if let Some(checkout) = checkouts
        .into_iter()
        .flatten()
        .find(|dir| dir.join("Cargo.toml").is_file())
    {
        return Ok(checkout);
    }
    let dir = fallback.to_owned();
    let generate = move || generate_tree(&dir).map(|()| dir);
    env.blocking(generate)
        .await?
        .map_err(|error| Failure::io("the tree can't be generated", &error))
}

/// Generates files of 0 bytes to 2 MiB, most of them small, in nested directories.
fn generate_tree(dir: &Path) -> io::Result<()> {
    let mut noise = Noise(2);
    for number in 0..TREE_FILES {
        let parent = dir
            .join(format!("{}", number % 10))
            .join(format!("{}", number % 7));
        std::fs::create_dir_all(&parent)?;
        // Sizes up to 2^21 bytes. Every power of two is equally likely, so that most are small.
        let bytes = match number {
            0 => 0,
            1 => TREE_FILE_BYTES_MAX,
            _ => noise.next() % (1 << (noise.next() % 22)),
        };
        noise.write(&parent.join(format!("file-{number}")), bytes, None)?;
    }
    Ok(())
}

/// Flips a bit of a random byte of a random blob. Returns the blob and the offset of the byte.
pub(super) async fn flip_one_byte(env: &Env, blobs: &Path) -> Result<(PathBuf, u64), Failure> {
    let mut files = checks::blob_files(env, blobs).await?;
    // An empty blob has no byte to flip.
    files.retain(|file| file.bytes > 0);
    let count = files.len() as u64;
    let chosen = usize::try_from(env.random_u64() % count.max(1)).unwrap_or(0);
    let Some(checks::BlobFile { path, bytes, .. }) = files.into_iter().nth(chosen) else {
        return Err(Failure::Failed("there is no blob to corrupt".to_owned()));
    };
    let at = env.random_u64() % bytes;
    let name = path.strip_prefix(blobs).unwrap_or(&path).to_owned();
    let flip = move || {
        let mut file = File::options().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut byte)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&[byte[0] ^ 1])?;
        file.sync_all()
    };
    env.blocking(flip)
        .await?
        .map_err(|error| Failure::io("the blob can't be corrupted", &error))?;
    Ok((name, at))
}
