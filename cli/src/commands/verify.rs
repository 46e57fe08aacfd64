//! `verify`: compares the store with a directory tree.

use crate::args::VerifyArgs;
use crate::store::OpenStore;
use crate::transfer::tree::Root;
use crate::transfer::verify::verify;
use crate::ui::clock::Stopwatch;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Runs `verify`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &VerifyArgs,
) -> Result<(), Failure> {
    let root = Root::new(
        &options.tree.dir,
        &options.tree.prefix,
        &options.exclude,
        &store.own_dirs,
    )?;
    let watch = Stopwatch::start(&store.env);
    let verified = verify(store, report, &[root], options.tree.jobs).await?;
    verified.print(report, watch.elapsed())?;
    verified.success()
}
