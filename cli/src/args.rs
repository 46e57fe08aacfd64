//! What may be said on the command line, and what it means: the commands, and the arguments of
//! those that are about the whole store. `objects.rs`, `uploads.rs` and `trees.rs` have those of
//! the others, `values.rs` how single values are spelled. Deliberately not here: doing any of it.

mod objects;
mod trees;
mod uploads;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

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
Exit codes: 0 ok, 1 failed, 2 usage, 3 not found (get, stat, cp, mv, extend, amend, abort, put --resume=..),
4 an --if-.. condition does not hold, 5 something is lost (salvage).

Times are given as 90s, 15m, 12h, 30d, or several of them together.

--blobs is needed once: where the blob tier is, is remembered in the data directory, without credentials. Another --blobs
is refused later on; `adopt` takes a blob tier that was moved. Its forms:
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
    /// Where large objects lie, the first time; see below.
    #[arg(long, global = true, value_name = "URI")]
    pub(crate) blobs: Option<String>,
    /// Namespace of the objects: a use case and its scopes.
    #[arg(long, global = true, value_name = "USECASE/SCOPE=VALUE/..")]
    pub(crate) namespace: Option<String>,
    /// Longest payload in bytes that stays in the index. May differ from call to call.
    #[arg(long, global = true, value_name = "BYTES", default_value_t = cenotaph::INLINE_BYTES_MAX)]
    pub(crate) inline_max: usize,
    /// Change nothing of the store, not even by opening it: no right to write to it is needed. For
    /// commands that only read.
    #[arg(long, global = true)]
    pub(crate) read_only: bool,
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
    /// Write one object, from a file or standard input. An interrupted upload of a large file is
    /// resumed with --resume.
    ///
    /// A regular file of more than 256 MiB is uploaded in parts, several at once; a smaller one is
    /// if --parallel, --part-size or --resume is given. Such an upload is named by an id, which is
    /// shown when it begins. However the command ends without success, killed even, the upload
    /// stays open for 7 days with the parts that were sent, and nothing of it is seen by readers:
    /// --resume goes on with it, `uploads` lists it, `abort` gives it up. A file that changes while
    /// it is uploaded is an error; --resume then sends the parts that have become others.
    Put(PutArgs),
    /// Read one object, to standard output or a file.
    Get(GetArgs),
    /// List objects in the order of their keys.
    Ls(LsArgs),
    /// Show what is known about an object.
    Stat(StatArgs),
    /// Delete objects. Deleting what is not there is fine.
    Rm(RmArgs),
    /// List the uploads that are open: begun by `put`, and neither completed nor aborted.
    Uploads(UploadsArgs),
    /// Give an open upload up, and delete its parts.
    Abort(AbortArgs),
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
    /// Every regular file becomes an object, its path the key, its mode and modification time
    /// custom entries `cenotaph.mode` and `cenotaph.mtime`. A file is skipped if its object has the
    /// same size, time and mode, so that an interrupted import is resumed by running it again.
    /// Symbolic links, special files and the store's own directories are skipped, and empty
    /// directories are not kept.
    Import(ImportArgs),
    /// Write all objects to a directory tree. Run it again to resume.
    ///
    /// Files get the mode and modification time that an import kept, but no setuid, setgid or
    /// sticky bit unless --special-bits is given. A file that has its object's size, time and mode,
    /// or its size and bytes, is taken for done; any other that is there is left alone and
    /// reported, unless --overwrite is given. Files named `.cenotaph-XXXXXX.part` that a killed
    /// export left are removed, and no import takes them.
    Export(ExportArgs),
    /// Compare the store with a directory tree, byte by byte.
    ///
    /// Names every file without its object (missing), every object without its file (extra), and
    /// every pair that differs or whose object is damaged.
    Verify(VerifyArgs),
    /// Show what is stored, in all namespaces, what the engine has done and what is left to do.
    Stats(StatsArgs),
    /// Verify everything against everything, in both tiers and all namespaces; repair on request.
    ///
    /// Finds rows that can't be read, blobs and payloads that are missing or damaged, what nothing
    /// names, and expiry entries that do not fit. Ends with 1 if anything is left.
    Scrub(ScrubArgs),
    /// Explain the state of a store's index without opening or changing it.
    ///
    /// Reads every file of the index. For each problem it names the file, what is damaged, and what
    /// each way out would lose. Ends with 0 if no damage was found, and with 1 if there is some or
    /// the store is open. The blob tier is not looked at; see `scrub`.
    Doctor(DoctorArgs),
    /// Open the store, settle what a crash left behind, and report it.
    Recover,
    /// Copy everything that can be read of a damaged store into a new one.
    ///
    /// The way out where a file of the index is damaged: such an index stops writing at its next
    /// compaction, again after each opening. The old store is not changed, and must not be open. It
    /// takes space for two copies of its index for a while. Large objects are not copied: the new
    /// store goes on with the blob tier of the old one, which --blobs names if it is neither
    /// remembered nor `blobs` under OLD. Reports what could not be read, and the names of lost
    /// objects where blobs tell them. Ends with 0 if everything was copied, with 5 if everything
    /// that can be read was copied and something is lost, and with 1 if there is no new store.
    Salvage(SalvageArgs),
    /// Take the blob tier that --blobs names as this store's, whatever mark it has, and remember
    /// it.
    ///
    /// For a tier that was moved, or restored without its mark. The blobs are not moved: they must
    /// be there already. An object whose blob is not there is damaged from then on, and a store
    /// that the tier belonged to does not open over it any more. See with `scrub` what is missing.
    Adopt,
    /// Import, crash, recover, verify: see it work, in a temporary store.
    ///
    /// Needs about three times the generated file's 256 MiB under the directory for temporary files
    /// (TMPDIR), and removes what it made there. The tree is read where it is: files edited
    /// meanwhile differ, and the demo says so.
    Demo(DemoArgs),
    /// The process that the demo kills.
    #[command(hide = true)]
    DemoChild(DemoChildArgs),
}

impl Command {
    /// The name of a command that writes to a store; none of one that only reads.
    pub(crate) fn writes(&self) -> Option<&'static str> {
        match self {
            Self::Get(_)
            | Self::Ls(_)
            | Self::Stat(_)
            | Self::Uploads(_)
            | Self::Export(_)
            | Self::Verify(_)
            | Self::Stats(_)
            | Self::Doctor(_) => None,
            Self::Scrub(options) => (options.repair || options.drop_damaged)
                .then_some("scrub with --repair or --drop-damaged"),
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
    /// Repair, and delete the objects that can't be: whose bytes or rows are missing or damaged.
    /// What they held is lost, also where a backup could bring it back.
    #[arg(long)]
    pub(crate) drop_damaged: bool,
    /// See whether blobs and payloads are there, and do not read them.
    #[arg(long)]
    pub(crate) shallow: bool,
    /// Pass over blobs that were begun within this time.
    #[arg(long, value_name = "TIME", value_parser = values::time, default_value = "24h")]
    pub(crate) grace: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The directory of the store; that of --data unless told.
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SalvageArgs {
    /// Directory of the damaged store.
    pub(crate) old: PathBuf,
    /// Directory of the new store: one that is empty or not there.
    pub(crate) new: PathBuf,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
