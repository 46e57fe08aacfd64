//! What may be said on the command line, and what it means. Deliberately not here: doing any of it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use cenotaph::{ByteRange, Etag, Expiration, Precondition};
use clap::{Args, Parser, Subcommand};

/// A tiered object store in a directory.
#[derive(Debug, Parser)]
#[command(name = "cenotaph", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 failed, 2 usage, 3 not found (get, stat, cp, mv, extend, amend), 4 an --if-.. condition does not hold.

Times are given as 90s, 15m, 12h, 30d, or several of them together.

The blob tier is not remembered: give the same --blobs at every call. Its forms:
  fs:                                   `blobs` under the data directory (the default)
  fs:PATH                               a directory of its own
  s3://BUCKET/ROOT?region=..&endpoint=..
  gcs://BUCKET/ROOT
  azblob://CONTAINER/ROOT?endpoint=..
Any option of OpenDAL's service may stand behind the `?`. Give credentials in the environment (AWS_ACCESS_KEY_ID, ..), for
other users of this machine can see a command line.

RUST_LOG=debug shows what the engine does.";

/// Which store.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreArgs {
    /// Directory of the index.
    #[arg(long, global = true, value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// Where large objects lie; see below.
    #[arg(long, global = true, value_name = "URI", default_value = "fs:", hide_default_value = true)]
    pub(crate) blobs: String,
    /// Namespace of the objects: a use case and its scopes.
    #[arg(long, global = true, value_name = "USECASE/SCOPE=VALUE/..")]
    pub(crate) namespace: Option<String>,
    /// Longest payload in bytes that stays in the index. May differ from call to call.
    #[arg(long, global = true, value_name = "BYTES", default_value_t = cenotaph::INLINE_BYTES_MAX)]
    pub(crate) inline_max: usize,
}

/// How to say it.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// One JSON object per line on standard output, for scripts.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress bars.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write one object, from a file or standard input.
    Put(PutArgs),
    /// Read one object, to standard output or a file.
    Get(GetArgs),
    /// List objects in the order of their keys.
    Ls(LsArgs),
    /// Show what is known about an object.
    Stat(StatArgs),
    /// Delete objects. Deleting what is not there is fine.
    Rm(RmArgs),
    /// Copy an object, within the store.
    Cp(CopyArgs),
    /// Rename an object. No byte is copied, whatever its size.
    Mv(CopyArgs),
    /// Give an object another deadline.
    Extend(ExtendArgs),
    /// Change what was stated about an object, and leave its bytes where they are.
    Amend(AmendArgs),
    /// Import a directory tree. Run it again to resume.
    ///
    /// Every regular file becomes an object, its path the key, its mode and modification time custom entries `mode` and
    /// `mtime`. A file is skipped if its object has the same size, time and mode, so that an interrupted import is
    /// resumed by running it again. Symbolic links, special files and the store's own directories are skipped, and
    /// empty directories are not kept.
    Import(ImportArgs),
    /// Write all objects to a directory tree. Run it again to resume.
    ///
    /// Files get the mode and modification time that an import kept. One that has its object's size, time and mode is
    /// taken for done; any other file that is there is left alone and reported, unless --overwrite is given.
    Export(ExportArgs),
    /// Compare the store with a directory tree, byte by byte.
    ///
    /// Names every file without its object (missing), every object without its file (extra), and every pair that
    /// differs or whose object is damaged.
    Verify(VerifyArgs),
    /// Show what is stored, in all namespaces, what the engine has done and what is left to do.
    Stats(StatsArgs),
    /// Verify everything against everything, in both tiers and all namespaces; repair on request.
    ///
    /// Finds rows that can't be read, blobs and payloads that are missing or damaged, what nothing names, and expiry
    /// entries that do not fit. Ends with 1 if anything is left.
    Scrub(ScrubArgs),
    /// Open the store, settle what a crash left behind, and report it.
    Recover,
    /// Import, crash, recover, verify: see it work, in a temporary store.
    ///
    /// Needs about three times the generated file's 256 MiB under the directory for temporary files (TMPDIR), and
    /// removes what it made there. The tree is read where it is: files edited meanwhile differ, and the demo says so.
    Demo(DemoArgs),
    /// The process that the demo kills.
    #[command(hide = true)]
    DemoChild(DemoChildArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// File to read; standard input if it is `-` or missing.
    pub(crate) file: Option<PathBuf>,
    /// Media type, such as `image/png`.
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// A custom entry; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) meta: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) expiration: ExpirationArgs,
    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

/// When an object stops existing by itself.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ExpirationArgs {
    /// The object exists for so long from now on.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "tti")]
    pub(crate) ttl: Option<Duration>,
    /// The object exists for so long after it was written or read last.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) tti: Option<Duration>,
}

impl ExpirationArgs {
    /// What was said about it, if anything.
    pub(crate) fn stated(self) -> Option<Expiration> {
        self.ttl.map(Expiration::TimeToLive).or(self.tti.map(Expiration::TimeToIdle))
    }
}

/// How an object must stand for a write to it.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct ConditionArgs {
    /// Only if there is no such object.
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Only if the object has this version.
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
    /// Only if the object has this etag.
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_etag: Option<Etag>,
}

impl ConditionArgs {
    /// The same as the engine says it.
    pub(crate) fn precondition(self) -> Precondition {
        match (self.if_absent, self.if_version, self.if_etag) {
            (true, _, _) => Precondition::Absent,
            (false, Some(version), _) => Precondition::Version(version.into()),
            (false, None, Some(etag)) => Precondition::Etag(etag),
            (false, None, None) => Precondition::None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// File to write; standard output if it is `-` or missing. The file appears when it is whole.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Only these bytes: `0-99` the first hundred, `100-` all but those, `-100` the last hundred.
    #[arg(long, value_name = "A-B", value_parser = byte_range, allow_hyphen_values = true)]
    pub(crate) range: Option<ByteRange>,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only keys that begin with this.
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Show keys that share all up to the next such character as one, as folders are shown.
    #[arg(long, value_name = "CHARACTER")]
    pub(crate) delimiter: Option<char>,
    /// Size, time and version too.
    #[arg(long, short)]
    pub(crate) long: bool,
    /// At most so many entries.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// Key of the object.
    pub(crate) key: String,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Keys of the objects.
    #[arg(value_name = "KEY", required_unless_present = "recursive")]
    pub(crate) keys: Vec<String>,
    /// Every object whose key begins with this. Run it again to resume.
    #[arg(long, short, value_name = "PREFIX", visible_alias = "prefix", conflicts_with = "condition")]
    pub(crate) recursive: Option<String>,
    #[command(flatten)]
    pub(crate) condition: DeletionArgs,
}

/// How the objects must stand that are deleted.
#[derive(Clone, Copy, Debug, Args)]
#[group(id = "condition", multiple = false)]
pub(crate) struct DeletionArgs {
    /// Only if the object has this version. For one key.
    #[arg(long, value_name = "N")]
    pub(crate) if_version: Option<u64>,
    /// Only if the object has this etag. For one key.
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_etag: Option<Etag>,
}

impl DeletionArgs {
    /// The same as the engine says it.
    pub(crate) fn precondition(self) -> Precondition {
        ConditionArgs { if_absent: false, if_version: self.if_version, if_etag: self.if_etag }.precondition()
    }
}

/// Two objects. Conditions are demands on the second.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Key of the object.
    pub(crate) from: String,
    /// Key that it gets. An object that is there is replaced.
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) condition: ConditionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExtendArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// To so long from now. An earlier deadline than the object's changes nothing.
    #[arg(long = "for", value_name = "TIME", value_parser = time, required_unless_present = "never", conflicts_with = "never")]
    pub(crate) time: Option<Duration>,
    /// To no deadline at all.
    #[arg(long)]
    pub(crate) never: bool,
    /// Take an earlier deadline too.
    #[arg(long)]
    pub(crate) shorten: bool,
    #[command(flatten)]
    pub(crate) condition: DeletionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AmendArgs {
    /// Key of the object.
    pub(crate) key: String,
    /// Another media type.
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Another name to save it under.
    #[arg(long, value_name = "NAME")]
    pub(crate) filename: Option<String>,
    /// A custom entry to set; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
    /// A custom entry to remove; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub(crate) unset: Vec<String>,
    #[command(flatten)]
    pub(crate) expiration: ExpirationArgs,
    #[command(flatten)]
    pub(crate) condition: DeletionArgs,
}

/// Which part of a tree meets which part of the store.
#[derive(Clone, Debug, Args)]
pub(crate) struct TreeArgs {
    /// The directory.
    pub(crate) dir: PathBuf,
    /// Keys are this, `/`, and the path within the directory.
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// How many files at once.
    #[arg(long, short, value_name = "N", default_value_t = 16, value_parser = jobs)]
    pub(crate) jobs: usize,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Leave out files and directories of this name, wherever they are; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude: Vec<String>,
    /// Decide by content what is imported already: compare every byte, not size and time.
    #[arg(long)]
    pub(crate) checksum: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Replace files that are there and differ.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Leave out files and directories of this name, wherever they are, and objects under such names.
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Leave out the objects: counting them reads every row.
    #[arg(long)]
    pub(crate) no_count: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScrubArgs {
    /// Repair what can be repaired without losing anything that is not lost already.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Repair, and delete the objects that can't be: whose bytes or rows are missing or damaged. What they held is lost,
    /// also where a backup could bring it back; see first that --blobs is the right one.
    #[arg(long)]
    pub(crate) drop_damaged: bool,
    /// See whether blobs and payloads are there, and do not read them.
    #[arg(long)]
    pub(crate) shallow: bool,
    /// Pass over blobs that were begun within this time.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "24h")]
    pub(crate) grace: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The tree to import; the checkout unless told.
    #[arg(long, value_name = "DIR")]
    pub(crate) tree: Option<PathBuf>,
    /// Flip one byte of one blob after the import: the demo must find it, name the object and fail.
    #[arg(long)]
    pub(crate) corrupt: bool,
    /// Keep the temporary store and say where it is.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Size of the generated file, in MiB.
    #[arg(long, value_name = "N", default_value_t = 256, hide = true, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) size_mib: u64,
}

#[derive(Debug, Args)]
pub(crate) struct DemoChildArgs {
    #[arg(long)]
    pub(crate) tree: PathBuf,
    #[arg(long)]
    pub(crate) generated: PathBuf,
}

/// No more than the engine takes large puts at once.
const JOBS: RangeInclusive<usize> = 1..=256;

fn jobs(text: &str) -> Result<usize, String> {
    let jobs = text.parse().ok().filter(|jobs| JOBS.contains(jobs));
    jobs.ok_or_else(|| format!("a number from {} to {}", JOBS.start(), JOBS.end()))
}

fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE".to_owned()),
    }
}

/// As in HTTP: both ends are included.
fn byte_range(text: &str) -> Result<ByteRange, String> {
    let expected = || "expected A-B, A- or -N, in bytes".to_owned();
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| expected());
    match text.split_once('-').ok_or_else(expected)? {
        ("", last) => Ok(ByteRange::Last(number(last)?)),
        (start, "") => Ok(ByteRange::From(number(start)?)),
        (start, end) => {
            let (start, end) = (number(start)?, number(end)?);
            if start > end {
                return Err("the range ends before it starts".to_owned());
            }
            Ok((start..=end).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn ranges_include_both_ends_as_in_http() {
        assert_eq!(byte_range("0-99"), Ok(ByteRange::Bounded { start: 0, end: 100 }));
        assert_eq!(byte_range("7-"), Ok(ByteRange::From(7)));
        assert_eq!(byte_range("-7"), Ok(ByteRange::Last(7)));
        for wrong in ["", "-", "7", "b-a", "7-6", "1-2-3", "--7", "+1-2x"] {
            assert!(byte_range(wrong).is_err(), "{wrong:?}");
        }
    }
}
