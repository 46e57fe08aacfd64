//! `amend`: changes the metadata of an object without rewriting its bytes.

use cenotaph::Amendment;

use super::print_changed;
use crate::args::AmendArgs;
use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::report::Report;

/// Runs `amend`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: &AmendArgs,
) -> Result<(), Failure> {
    let id = store.id(&options.key)?;
    let set = options
        .set
        .iter()
        .map(|(name, value)| (name.clone(), Some(value.clone())));
    let unset = options.unset.iter().map(|name| (name.clone(), None));
    let amendment = Amendment {
        content_type: options.content_type.clone().map(Some),
        filename: options.filename.clone().map(Some),
        custom: set.chain(unset).collect(),
        expiration: options.expiration.policy(),
        ..Amendment::default()
    };
    let amended = retrying(&store.env, async || {
        store
            .engine
            .amend(&id)
            .amendment(amendment.clone())
            .precondition(options.condition.precondition())
            .await
    });
    print_changed(report, &id, &id, amended.await?)
}
