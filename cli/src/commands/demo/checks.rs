//! Checks of the demo. Each compares the store with the tree on disk or with the files of the blob
//! tier, never with statements of the engine about itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cenotaph::{Entry, Env, MARKER_PATH, ObjectMeta, TRAILER_BYTES_MAX, object_of_blob};
use futures::{StreamExt, TryStreamExt};
use walkdir::WalkDir;

use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::transfer::tree::{self, FileTotal, FoundFile, Root, WalkStep};
use crate::transfer::verify::check_file;
use crate::ui::failure::{Failure, one_line};
use crate::ui::human;
use crate::ui::report::Report;

/// Checks that every acknowledged file is in the store, byte for byte.
pub(super) async fn acknowledged(
    store: &OpenStore,
    report: &Report,
    roots: &[Root],
    keys: &BTreeSet<String>,
) -> Result<FileTotal, Failure> {
    let total = same(store, report, roots, super::JOBS, |found| {
        keys.contains(&found.key)
    })
    .await?;
    // The walk finds files, so an acknowledged key without a file shows only in the count.
    if total.files != keys.len() as u64 {
        let message = format!(
            "only {} of {} acknowledged files are in the tree",
            total.files,
            keys.len()
        );
        return Err(Failure::Failed(message));
    }
    Ok(total)
}

/// Checks that the objects of `deleted` are absent, and that every other file is in the store, byte
/// for byte.
pub(super) async fn recheck(
    store: &OpenStore,
    report: &Report,
    roots: &[Root],
    deleted: &BTreeSet<String>,
    jobs: usize,
) -> Result<FileTotal, Failure> {
    for key in deleted {
        let id = store.id(key)?;
        if store.engine.get(&id).await?.is_some() {
            return Err(Failure::Failed(format!(
                "a deleted object still exists: key={id}"
            )));
        }
    }
    same(store, report, roots, jobs, |found| {
        !deleted.contains(&found.key)
    })
    .await
}

/// Compares the selected files with their objects. The first difference is an error.
async fn same(
    store: &OpenStore,
    report: &Report,
    roots: &[Root],
    jobs: usize,
    is_selected: impl Fn(&FoundFile) -> bool,
) -> Result<FileTotal, Failure> {
    let bar = report.bar("check", None);
    let files = tree::walk(&store.env, roots).filter_map(|step| {
        let found = match step {
            WalkStep::File(found) => Some(found),
            WalkStep::Skipped { .. } | WalkStep::Failed { .. } => None,
        };
        let selected = found.filter(|found| is_selected(found));
        async { selected }
    });
    let checks = files
        .map(|found| async { (check_file(store, &found, &bar).await, found) })
        .buffer_unordered(jobs);
    let mut checks = std::pin::pin!(checks);
    let mut total = FileTotal::default();
    while let Some((problem, found)) = checks.next().await {
        if let Some(problem) = problem {
            let name = human::key(&problem.name);
            return Err(Failure::Failed(format!(
                "{} {name}: {}",
                problem.kind, problem.detail
            )));
        }
        total.files += 1;
        total.bytes += found.bytes;
    }
    Ok(total)
}

/// Deletes every third object, and at least one large object if there are two. Returns the keys.
pub(super) async fn delete_some(
    store: &OpenStore,
    inline_max: u64,
    jobs: usize,
) -> Result<(BTreeSet<String>, FileTotal), Failure> {
    let heads = heads(store).await?;
    // The second large object, so that a large object remains for the recheck.
    let second_large = heads
        .iter()
        .filter(|head| head.metadata.size > inline_max)
        .nth(1)
        .map(|head| head.id.clone());
    let chosen: Vec<&ObjectMeta> = heads
        .iter()
        .enumerate()
        .filter(|(number, head)| number % 3 == 2 || second_large.as_ref() == Some(&head.id))
        .map(|(_, head)| head)
        .collect();
    let mut deletions = futures::stream::iter(&chosen)
        .map(|head| async {
            retrying(&store.env, async || store.engine.delete(&head.id).await).await
        })
        .buffer_unordered(jobs);
    while let Some(deleted) = deletions.try_next().await? {
        if !deleted.existed {
            return Err(Failure::Failed(
                "a listed object did not exist at its deletion".to_owned(),
            ));
        }
    }
    let bytes = chosen.iter().map(|head| head.metadata.size).sum();
    let total = FileTotal {
        files: chosen.len() as u64,
        bytes,
    };
    Ok((
        chosen.iter().map(|head| head.id.key().to_owned()).collect(),
        total,
    ))
}

/// Checks that the blob tier has exactly one file per object over the inline limit, with its size
/// and name, and no other file (I5).
pub(super) async fn blobs_are_what_rows_name(
    store: &OpenStore,
    dir: &Path,
    inline_max: u64,
) -> Result<FileTotal, Failure> {
    let heads = heads(store).await?;
    let large = heads.iter().filter(|head| head.metadata.size > inline_max);
    let named: BTreeMap<String, u64> = large
        .map(|head| (head.id.key().to_owned(), head.metadata.size))
        .collect();
    let files = blob_files(&store.env, dir).await?;
    let mut stored = BTreeMap::new();
    for BlobFile { path, key, bytes } in &files {
        let relative = path.strip_prefix(dir).unwrap_or(path);
        let unknown = || {
            Failure::Failed(format!(
                "a blob that no object names: blob={}",
                relative.display()
            ))
        };
        let key = key.as_ref().ok_or_else(unknown)?;
        // A second blob of the same key is an orphan, too.
        if named.get(key) != Some(bytes) || stored.insert(key, *bytes).is_some() {
            return Err(unknown());
        }
    }
    match named.keys().find(|key| !stored.contains_key(*key)) {
        Some(key) => Err(Failure::Failed(format!(
            "an object without its blob: key={}",
            human::key(key)
        ))),
        None => Ok(FileTotal {
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.bytes).sum(),
        }),
    }
}

/// Sums the bytes in the blob tier.
pub(super) async fn blob_bytes(env: &Env, dir: &Path) -> Result<u64, Failure> {
    Ok(blob_files(env, dir)
        .await?
        .iter()
        .map(|file| file.bytes)
        .sum())
}

/// A file of the blob tier.
pub(super) struct BlobFile {
    /// Path of the file.
    pub(super) path: PathBuf,
    /// Key of its object, or `None` if the file does not contain it.
    key: Option<String>,
    /// Length without the trailer, in bytes.
    pub(super) bytes: u64,
}

/// Lists the files of the blob tier without the mark. Files that disappear during the listing are
/// skipped.
pub(super) async fn blob_files(env: &Env, dir: &Path) -> Result<Vec<BlobFile>, Failure> {
    let dir = dir.to_owned();
    let list = move || {
        let mut files = Vec::new();
        let marker = dir.join(MARKER_PATH);
        for entry in WalkDir::new(&dir).sort_by_file_name() {
            let sized = entry.and_then(|entry| entry.metadata().map(|metadata| (entry, metadata)));
            match sized {
                Ok((entry, metadata)) if metadata.is_file() && entry.path() != marker => {
                    match blob_file(&dir, entry.into_path(), metadata.len()) {
                        Ok(file) => files.push(file),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => {
                            return Err(Failure::io("the blob tier can't be read", &error));
                        }
                    }
                }
                Ok(_) => {}
                // While the child imports, files may disappear during the listing.
                Err(error)
                    if error
                        .io_error()
                        .is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {}
                Err(error) => {
                    return Err(Failure::Failed(format!(
                        "the blob tier can't be read: {}",
                        one_line(&error)
                    )));
                }
            }
        }
        Ok(files)
    };
    env.blocking(list).await?
}

/// Reads key and length of a blob. A short key is part of the path; a long key is in the trailer of
/// the file.
fn blob_file(dir: &Path, path: PathBuf, bytes: u64) -> io::Result<BlobFile> {
    let relative = path
        .strip_prefix(dir)
        .unwrap_or(&path)
        .to_string_lossy()
        .into_owned();
    // `~@` marks a name that was shortened.
    if !relative.contains("~@") {
        return Ok(BlobFile {
            path,
            key: key_of_blob(&relative),
            bytes,
        });
    }
    let mut file = File::open(&path)?;
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(
        bytes.saturating_sub(TRAILER_BYTES_MAX as u64),
    ))?;
    file.take(TRAILER_BYTES_MAX as u64).read_to_end(&mut tail)?;
    let object = object_of_blob(&relative, &tail);
    let bytes = object.as_ref().map_or(bytes, |(_, trailer_bytes)| {
        bytes.saturating_sub(*trailer_bytes)
    });
    Ok(BlobFile {
        path,
        key: object.map(|(object, _)| object.key().to_owned()),
        bytes,
    })
}

/// Lists the metadata of all objects.
async fn heads(store: &OpenStore) -> Result<Vec<ObjectMeta>, Failure> {
    let listed = store
        .engine
        .list("")
        .namespace(store.namespace.clone())
        .stream();
    let heads = listed.try_filter_map(|entry| async {
        Ok(match entry {
            Entry::Object(head) => Some(head),
            Entry::Prefix(_) => None,
        })
    });
    Ok(heads.try_collect().await?)
}

/// Returns the key in the name of a blob, `fan/namespace!key@revision`, whose bytes are escaped as
/// `%2f`. PutResult independently of the engine, because the demo checks the engine.
fn key_of_blob(path: &str) -> Option<String> {
    let (_fan, name) = path.split_once('/')?;
    let (object, _revision) = name.rsplit_once('@')?;
    let (_namespace, escaped) = object.split_once('!')?;
    let mut escaped = escaped.bytes();
    let mut key = Vec::new();
    while let Some(byte) = escaped.next() {
        key.push(match byte {
            b'%' => {
                let digits = [escaped.next()?, escaped.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            _ => byte,
        });
    }
    String::from_utf8(key).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_read_from_the_name_of_a_blob() {
        let path = "7f/photos%2forg=17!holidays%2f2026%20.jpg@0198c5a2-1f00-7abc-8def-00000000007f";
        assert_eq!(key_of_blob(path).as_deref(), Some("holidays/2026 .jpg"));
        for other in ["README", "7f/x", "7f/ns!%2", "7f/ns!%zz@1"] {
            assert_eq!(key_of_blob(other), None, "{other}");
        }
    }
}
