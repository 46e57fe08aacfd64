//! `extend`: changes the deadline of an object.

use cenotaph::Deadline;

use super::print_changed;
use crate::args::ExtendArgs;
use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Runs `extend`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &ExtendArgs,
) -> Result<(), Failure> {
    let id = store.id(&options.key)?;
    let deadline = options.time.map_or(Deadline::Never, Deadline::AfterNow);
    let extended = retrying(&store.env, async || {
        let extension = store
            .engine
            .extend_expiry(&id)
            .deadline(deadline)
            .precondition(options.condition.precondition());
        if options.shorten {
            extension.may_shorten().await
        } else {
            extension.await
        }
    });
    print_changed(report, &id, &id, extended.await?)
}
