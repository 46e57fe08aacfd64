//! `cp`: copies an object within the store.

use super::print_changed;
use crate::args::CopyArgs;
use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Runs `cp`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &CopyArgs,
) -> Result<(), Failure> {
    let from = store.id(&options.from)?;
    let to = store.id(&options.to)?;
    let precondition = options.condition.precondition();
    let copied = retrying(&store.env, async || {
        store
            .engine
            .copy(&from, &to)
            .precondition(precondition)
            .await
    })
    .await?;
    print_changed(report, &from, &to, copied)
}
