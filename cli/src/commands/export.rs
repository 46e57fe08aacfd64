//! `export`: writes all objects to a directory tree.

use crate::args::ExportArgs;
use crate::store::OpenStore;
use crate::transfer::export::export;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Runs `export`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &ExportArgs,
) -> Result<(), Failure> {
    export(store, report, options).await
}
