//! The command line: global options, the list of commands, and the arguments of commands on the
//! whole store.
//!
//! | file | contents |
//! |---|---|
//! | `index.rs` | arguments that name a shared index |
//! | `objects.rs` | arguments of commands on single objects |
//! | `trees.rs` | arguments of commands on directory trees |
//! | `uploads.rs` | arguments of uploads in parts |
//! | `values.rs` | parsers of single values |

mod index;
mod objects;
mod trees;
mod uploads;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};

pub(crate) use index::IndexArgs;
pub(crate) use objects::{
    AmendArgs, CopyArgs, ExtendArgs, GetArgs, LsArgs, PutArgs, RmArgs, StatArgs,
};
pub(crate) use trees::{ExportArgs, ImportArgs, VerifyArgs};
pub(crate) use uploads::{AbortArgs, PartsArgs, Resume, UploadsArgs};

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
Exit codes:
  0  success
  1  failure
  2  usage error
  3  not found (get, stat, cp, mv, extend, amend, abort, put --resume=..)
  4  an --if-.. condition does not hold
  5  incomplete salvage

Times: 90s, 15m, 12h, 30d, or a combination such as \"1h 30m\".

--blobs is needed once. The tool remembers the location of the blob tier in the data directory,
without credentials, and refuses another --blobs afterwards; `adopt` accepts a blob tier that was
moved, and `migrate --tier` moves the objects to another blob tier. Forms:
  fs:                                   `blobs` under the data directory (the default)
  fs:PATH                               another directory
  s3://BUCKET/ROOT?region=..&endpoint=..
  gcs://BUCKET/ROOT
  azblob://CONTAINER/ROOT?endpoint=..
The query accepts every option of OpenDAL's service. Pass credentials in the environment
(AWS_ACCESS_KEY_ID, ..): other users of this machine can see command lines. s3, gcs and azblob
need a build with the cargo feature of that name; the feature `cloud` enables all three.

--index opens a shared store, whose index is in a PostgreSQL database and which several processes
may have open at once, each as a member. --data is then the directory in which the tool remembers
the blob tier. All members must be given the same tier: a bucket, or a directory that they share.
Pass the URL in the environment (CENOTAPH_INDEX): other users of this machine can see command
lines. Needs a build with the cargo feature `postgres`.

RUST_LOG=debug shows the log of the engine.";

/// Location and options of the store.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreArgs {
    /// Directory of the index.
    #[arg(long, global = true, value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// The shared index of the store, if it has one, and that of its source.
    #[command(flatten)]
    pub(crate) index: IndexArgs,
    /// Location of the blob tier, which holds large objects. Needed once; see below.
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) blobs: Option<String>,
    /// Location of a tier that the store was moved away from, as for --blobs. Only needed if the
    /// remembered locations are lost. May be repeated.
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) older_blobs: Vec<String>,
    /// Location of the tier that the store moves to.
    #[arg(skip)]
    pub(crate) move_to: Option<String>,
    /// Namespace of the objects: a use case and its scopes.
    #[arg(long, global = true, value_name = "USECASE/SCOPE=VALUE/..")]
    pub(crate) namespace: Option<String>,
    /// Largest payload, in bytes, that is stored in the index. May differ from call to call.
    #[arg(long, global = true, value_name = "BYTES", default_value_t = cenotaph::INLINE_BYTES_MAX)]
    pub(crate) inline_max: usize,
    /// Source of objects that the store does not have yet: fs:PATH, cenotaph:DIR (another store), or
    /// a bucket as for --blobs. Needed for each command until `migrate` has moved everything.
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) fallback: Option<String>,
    /// Declares that the source is lost.
    #[arg(skip)]
    pub(crate) fallback_lost: bool,
    /// Permits a migration to delete from the source.
    #[arg(skip)]
    pub(crate) fallback_is_writable: bool,
    /// Open the store without changing any file of it. Needs no write permission. Only for commands
    /// that read.
    #[arg(long, global = true)]
    pub(crate) read_only: bool,
}

impl Default for StoreArgs {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            index: IndexArgs::default(),
            blobs: None,
            older_blobs: Vec::new(),
            move_to: None,
            namespace: None,
            inline_max: cenotaph::INLINE_BYTES_MAX,
            fallback: None,
            fallback_lost: false,
            fallback_is_writable: false,
            read_only: false,
        }
    }
}

/// Format of the output.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// Print one JSON object per line on standard output, for scripts.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show no progress bars.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// Commands of the tool. Their doc comments are the help texts.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write an object from a file or standard input. Resume an interrupted upload with --resume.
    ///
    /// A regular file of more than 256 MiB is uploaded in parts, several at once; a smaller file
    /// only with --parallel, --part-size or --resume. The command prints the id of such an upload
    /// when it begins. If the command fails, is interrupted or is killed, the upload stays open for
    /// 7 days with the parts that were sent, and readers see nothing of it. --resume continues the
    /// upload, `uploads` lists it, `abort` discards it. A file that changes during the upload is an
    /// error; --resume then sends the parts that have changed.
    Put(PutArgs),
    /// Read an object to standard output or a file.
    Get(GetArgs),
    /// List objects in the order of their keys.
    Ls(LsArgs),
    /// Show the metadata of an object.
    Stat(StatArgs),
    /// Delete objects. Deleting an absent object is no error.
    Rm(RmArgs),
    /// List open uploads: begun by `put`, and neither completed nor aborted.
    Uploads(UploadsArgs),
    /// Discard an open upload and delete its parts.
    Abort(AbortArgs),
    /// Copy an object within the store.
    Cp(CopyArgs),
    /// Rename an object. Copies no byte, whatever the size.
    Mv(CopyArgs),
    /// Change the deadline of an object.
    Extend(ExtendArgs),
    /// Change the metadata of an object without rewriting its bytes.
    Amend(AmendArgs),
    /// Import a directory tree. Run it again to resume.
    ///
    /// Every regular file becomes an object: its path is the key, and its mode and modification
    /// time become the custom entries `cenotaph.mode` and `cenotaph.mtime`. A file is skipped if
    /// its object has the same size, time and mode; so an interrupted import is resumed by running
    /// it again. Symbolic links, special files and the directories of the store are skipped. Empty
    /// directories are not stored.
    Import(ImportArgs),
    /// Write all objects to a directory tree. Run it again to resume.
    ///
    /// Files get the mode and modification time that an import stored, but no setuid, setgid or
    /// sticky bit unless --special-bits is given. A file with the size, time and mode of its
    /// object, or with its size and bytes, counts as exported. Any other existing file is kept and
    /// reported, unless --overwrite is given. Files named `.cenotaph-XXXXXX.part` of a killed
    /// export are removed; imports skip them.
    Export(ExportArgs),
    /// Compare the store with a directory tree, byte by byte.
    ///
    /// Names every file without an object (missing), every object without a file (extra), and every
    /// pair that differs or whose object is damaged.
    Verify(VerifyArgs),
    /// Move everything from another place into this store, or this store to another blob tier. Run
    /// it again to resume.
    ///
    /// With --from, the place is an older store, a directory or a bucket. Objects of this store win,
    /// and what was deleted in it stays deleted. Until everything is moved, every command on this
    /// store needs --fallback with the same source, and reads objects from both. At the end the
    /// source is sealed: it is never read again. Exits with 1 if an object could not be moved; then
    /// the source is not sealed.
    ///
    /// With --tier, the large objects of this store move to another, empty blob tier. From the
    /// beginning on, large objects are written to the new tier. The tool remembers both tiers, and
    /// every command reads from both. At the end the store no longer needs the former tier. Exits
    /// with 1 while it does: an object could not be copied, or an upload is open.
    Migrate(MigrateArgs),
    /// Show the contents of all namespaces, the work of the engine, and its pending work.
    Stats(StatsArgs),
    /// List the members of a shared store: the processes that have it open.
    ///
    /// Shows since when each has it open, the age of its last heartbeat by the clock of the
    /// database, and the number of blobs that its long reads protect. This process joins as a member
    /// for as long as the command runs, as every command does. A member that was killed is listed
    /// until another one has seen its heartbeat stand still for 20 s; `recover` waits for that.
    Members,
    /// Check both tiers of all namespaces against each other; repair on request.
    ///
    /// Finds unreadable rows, missing or damaged blobs and payloads, blobs and payloads that
    /// nothing refers to, and wrong expiry entries. Exits with 1 if a problem remains.
    Scrub(ScrubArgs),
    /// Explain the state of the index of a store without opening or changing it.
    ///
    /// Reads every file of the index. For each problem the report names the file, the damage, and
    /// the loss that each way out would cause. Exits with 0 if no damage was found, and with 1 if
    /// the index is damaged or the store is open. Does not read the blob tier; see `scrub`.
    Doctor(DoctorArgs),
    /// Open the store, settle the changes of a crash, and report them. On a shared store: wait until
    /// members that were killed are declared dead, and settle their changes.
    Recover,
    /// Copy everything readable of a damaged store into a new store.
    ///
    /// The way out if a file of the index is damaged: such an index stops writing at its next
    /// compaction, after each open again. The old store is not changed, and must not be open. The
    /// copy temporarily needs space for two copies of the index. Large objects are not copied: the
    /// new store uses the blob tier of the old store. Give --blobs if that tier is neither
    /// remembered nor `blobs` under OLD. Reports everything that could not be read, and the names
    /// of lost objects where their blobs contain them. Exits with 0 if everything was copied, with
    /// 5 if everything readable was copied and something is lost, and with 1 if no new store was
    /// created.
    Salvage(SalvageArgs),
    /// Make the blob tier of --blobs the tier of this store, whatever its mark, and remember it.
    ///
    /// For a tier that was moved, or restored without its mark. Moves no blob: the blobs must
    /// already be there. An object whose blob is missing is damaged afterwards, and a store that
    /// owned the tier before no longer opens with it. Run `scrub` to find missing blobs.
    Adopt,
    /// Import, crash, recover and verify in a temporary store.
    ///
    /// Needs about three times the 256 MiB of the generated file in the directory for temporary
    /// files (TMPDIR), and removes its files afterwards. The tree is read in place: files edited
    /// during the demo differ, and the demo reports them.
    Demo(DemoArgs),
    /// The process that the demo kills.
    #[command(hide = true)]
    DemoChild(DemoChildArgs),
}

impl Command {
    /// Returns the name of a command that has no use for a shared index, or `None` for the others.
    pub(crate) fn is_without_index(&self) -> Option<&'static str> {
        match self {
            Self::Doctor(_) => Some("doctor"),
            Self::Salvage(_) => Some("salvage"),
            Self::Demo(_) => Some("demo"),
            Self::DemoChild(_) => Some("demo-child"),
            Self::Put(_)
            | Self::Get(_)
            | Self::Ls(_)
            | Self::Stat(_)
            | Self::Rm(_)
            | Self::Uploads(_)
            | Self::Abort(_)
            | Self::Cp(_)
            | Self::Mv(_)
            | Self::Extend(_)
            | Self::Amend(_)
            | Self::Import(_)
            | Self::Export(_)
            | Self::Verify(_)
            | Self::Migrate(_)
            | Self::Stats(_)
            | Self::Members
            | Self::Scrub(_)
            | Self::Recover
            | Self::Adopt => None,
        }
    }

    /// Returns the name of a command that writes to a store, or `None` for a command that only
    /// reads.
    pub(crate) fn writes(&self) -> Option<&'static str> {
        match self {
            Self::Get(_)
            | Self::Ls(_)
            | Self::Stat(_)
            | Self::Uploads(_)
            | Self::Export(_)
            | Self::Verify(_)
            | Self::Stats(_)
            | Self::Members
            | Self::Doctor(_) => None,
            // A scrub only reads unless it repairs.
            Self::Scrub(options) => (options.repair || options.drop_damaged)
                .then_some("scrub with --repair or --drop-damaged"),
            Self::Migrate(options) => (!options.dry_run).then_some("migrate"),
            Self::Put(_) => Some("put"),
            Self::Rm(_) => Some("rm"),
            Self::Abort(_) => Some("abort"),
            Self::Cp(_) => Some("cp"),
            Self::Mv(_) => Some("mv"),
            Self::Extend(_) => Some("extend"),
            Self::Amend(_) => Some("amend"),
            Self::Import(_) => Some("import"),
            Self::Recover => Some("recover"),
            Self::Salvage(_) => Some("salvage"),
            Self::Adopt => Some("adopt"),
            Self::Demo(_) => Some("demo"),
            Self::DemoChild(_) => Some("demo-child"),
        }
    }
}

/// Arguments of `migrate`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("move").args(["from", "tier", "source_lost"]).required(true)))]
pub(crate) struct MigrateArgs {
    /// Source: fs:PATH, cenotaph:DIR (another store), or a bucket as for --blobs.
    #[arg(long, value_name = "URI")]
    pub(crate) from: Option<String>,
    /// New blob tier of this store, in the forms of --blobs. Must be empty.
    #[arg(long, value_name = "URI")]
    pub(crate) tier: Option<String>,
    /// Only count the objects that would be moved.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Read every moved object back and verify its checksums. With --tier: scrub the whole store at
    /// the end, as `scrub` does.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Delete each object from the source once its copy is durable and verified.
    #[arg(long, conflicts_with_all = ["dry_run", "tier"])]
    pub(crate) delete_source: bool,
    /// Number of objects that are moved at once.
    #[arg(long, short, value_name = "N", value_parser = values::jobs, default_value = "8")]
    pub(crate) jobs: usize,
    /// Move at most this many bytes per second.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) bytes_per_second: Option<u64>,
    /// Seal the source although it has no objects.
    #[arg(long, conflicts_with = "tier")]
    pub(crate) allow_empty: bool,
    /// Seal the source although it has names that can't be keys, such as names that are not UTF-8.
    #[arg(long, conflicts_with = "tier")]
    pub(crate) skip_unnameable: bool,
    /// Declare that the source is lost for good: the objects that only it had are absent from now on.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) source_lost: bool,
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Do not count objects. Counting reads every row.
    #[arg(long)]
    pub(crate) no_count: bool,
}

/// Arguments of `scrub`.
#[derive(Debug, Args)]
pub(crate) struct ScrubArgs {
    /// Repair problems, but only where the repair loses no data.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Repair, and delete objects that can't be repaired: their bytes or rows are missing or
    /// damaged. Their contents are lost, even if a backup could restore them.
    #[arg(long)]
    pub(crate) drop_damaged: bool,
    /// Check only that blobs and payloads exist; do not read them.
    #[arg(long)]
    pub(crate) shallow: bool,
    /// Ignore blobs that were begun within this time.
    #[arg(long, value_name = "TIME", value_parser = values::time, default_value = "24h")]
    pub(crate) grace: Duration,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Directory of the store [default: that of --data].
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Arguments of `salvage`.
#[derive(Debug, Args)]
pub(crate) struct SalvageArgs {
    /// Directory of the damaged store.
    pub(crate) old: PathBuf,
    /// Directory of the new store: empty or absent.
    pub(crate) new: PathBuf,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Tree to import [default: the checkout].
    #[arg(long, value_name = "DIR")]
    pub(crate) tree: Option<PathBuf>,
    /// Flip a byte of a random blob after the import: the demo must find it, name the object and
    /// fail.
    #[arg(long)]
    pub(crate) corrupt: bool,
    /// Keep the temporary store and print its path.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Size of the generated file, in MiB.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        hide = true,
        value_parser = clap::value_parser!(u64).range(1..=4096)
    )]
    pub(crate) size_mib: u64,
}

/// Arguments of the hidden command `demo-child`.
#[derive(Debug, Args)]
pub(crate) struct DemoChildArgs {
    /// Tree to import.
    #[arg(long)]
    pub(crate) tree: PathBuf,
    /// Directory of the generated file.
    #[arg(long)]
    pub(crate) generated: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
