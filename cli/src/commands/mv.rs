//! `mv`: renames an object without copying its bytes.

use super::print_changed;
use crate::args::CopyArgs;
use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Runs `mv`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &CopyArgs,
) -> Result<(), Failure> {
    let from = store.id(&options.from)?;
    let to = store.id(&options.to)?;
    if from == to {
        return Err(Failure::Usage(format!(
            "an object can't be renamed to its own key: key={from}"
        )));
    }
    let precondition = options.condition.precondition();
    let renamed = retrying(&store.env, async || {
        store
            .engine
            .rename(&from, &to)
            .precondition(precondition)
            .await
    });
    print_changed(report, &from, &to, renamed.await?)
}
