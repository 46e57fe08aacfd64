//! Arguments of commands on directory trees.

use std::path::PathBuf;

use clap::Args;

use super::values;

/// Directory tree and the prefix of its keys.
#[derive(Clone, Debug, Args)]
pub(crate) struct TreeArgs {
    /// Directory of the tree.
    pub(crate) dir: PathBuf,
    /// Prefix of the keys. A key is the prefix, `/`, and the path within the directory.
    #[arg(
        long,
        value_name = "PREFIX",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) prefix: String,
    /// Number of files that are processed at once.
    #[arg(long, short, value_name = "N", default_value_t = 16, value_parser = values::jobs)]
    pub(crate) jobs: usize,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Skip files and directories of this name at any depth; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude: Vec<String>,
    /// Compare every byte, not size and time, to find files that are already imported.
    #[arg(long)]
    pub(crate) checksum: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Replace existing files that differ.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Set the setuid, setgid and sticky bits that an import stored. Only for stores that nobody
    /// else can write to.
    #[arg(long)]
    pub(crate) special_bits: bool,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) tree: TreeArgs,
    /// Skip files and directories of this name at any depth, and objects under such names; may be
    /// repeated.
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude: Vec<String>,
}
