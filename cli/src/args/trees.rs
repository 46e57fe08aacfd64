//! The arguments of commands on directory trees.

use std::path::PathBuf;

use clap::Args;

use super::values;

/// Which part of a tree meets which part of the store.
#[derive(Clone, Debug, Args)]
pub(crate) struct TreeArgs {
    /// The directory.
    pub(crate) dir: PathBuf,
    /// Keys are this, `/`, and the path within the directory.
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) prefix: String,
    /// How many files at once.
    #[arg(long, short, value_name = "N", default_value_t = 16, value_parser = values::jobs)]
    pub(crate) jobs: usize,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Leave out files and directories of this name, wherever they are; may be given more than
    /// once.
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
    /// Set the setuid, setgid and sticky bits that an import kept. Only for stores that nobody else
    /// writes to.
    #[arg(long)]
    pub(crate) special_bits: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Leave out files and directories of this name, wherever they are, and objects under such
    /// names.
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude: Vec<String>,
}
