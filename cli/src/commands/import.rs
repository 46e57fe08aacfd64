//! `import`: imports a directory tree.

use crate::args::ImportArgs;
use crate::store::OpenStore;
use crate::transfer::import::{ImportOptions, Tells, Unchanged, import};
use crate::transfer::tree::Root;
use crate::ui::clock::Stopwatch;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Runs `import`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &ImportArgs,
) -> Result<(), Failure> {
    let root = Root::new(
        &options.tree.dir,
        &options.tree.prefix,
        &options.exclude,
        &store.own_dirs,
    )?;
    let by = if options.checksum {
        Unchanged::ByContent
    } else {
        Unchanged::ByMetadata
    };
    let watch = Stopwatch::start(&store.env);
    let plan = ImportOptions {
        roots: vec![root],
        jobs: options.tree.jobs,
        by,
        tells: Tells::Everything,
    };
    let imported = import(store, report, &plan).await?;
    imported.print(report, watch.elapsed())?;
    imported.success()
}
