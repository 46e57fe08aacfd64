//! The parts that a completion lists.

use std::collections::BTreeMap;

use cenotaph::PartEtag;

use crate::plan::Choice;

/// Returns the parts that a completion lists, or `None` if it lists none.
pub(super) fn listed(
    parts: &BTreeMap<u32, PartEtag>,
    choice: Choice,
) -> Option<Vec<(u32, PartEtag)>> {
    let mut all: Vec<(u32, PartEtag)> = parts
        .iter()
        .map(|(number, etag)| (*number, *etag))
        .collect();
    match choice {
        Choice::Unlisted => return None,
        Choice::Listed => {}
        Choice::Half => all = all.into_iter().step_by(2).collect(),
        Choice::WrongEtag => all
            .iter_mut()
            .rev()
            .take(1)
            .for_each(|(_, etag)| *etag = PartEtag::of(b"something else")),
        Choice::Backwards => all.reverse(),
        Choice::Missing => all.push((9_999, PartEtag::of(b"something else"))),
    }
    Some(all)
}
