//! Random histories of an upload: no part is lost, and none is left.

use super::upload_steps::{
    LIFETIME_MS, abort, completion, filing, number, session, session_after, step, upload,
};
use super::*;
use crate::decide::{Selection, UploadMutation, UploadView};
use crate::records::{UploadPhase, read_expiry_key, upload_expiry_key};
use crate::types::PartEtag;

/// Next step of a random history.
#[derive(Clone, Debug)]
enum Act {
    Part(u32),
    Complete(Vec<u32>),
    CompleteAll,
    Abort,
    Overwrite,
    Wait(u64),
    Expire,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (1..4u32).prop_map(Act::Part),
        2 => proptest::sample::subsequence(vec![1, 2, 3], 1..4).prop_map(Act::Complete),
        1 => Just(Act::CompleteAll),
        1 => Just(Act::Abort),
        1 => Just(Act::Overwrite),
        1 => (1..80u64).prop_map(Act::Wait),
        1 => Just(Act::Expire),
    ];
    proptest::collection::vec(act, 1..25)
}

proptest! {
    /// After steps in any order, each revision that was ever brought is named by the row
    /// or by a part of the open session, or is an orphan, and never both; and one upload commits
    /// once.
    #[test]
    fn no_part_is_lost_and_none_is_left(acts in acts()) {
        let begin = step(1, UploadMutation::Initiate(session(UploadPhase::Open)));
        let mut view = UploadView { session: None, parts: Default::default(), row_state: never(), lost: BTreeSet::new(), change_is_live: true, is_pending: false };
        view = session_after(&view, &begin, 1);
        let mut brought = BTreeSet::new();
        let mut orphans = BTreeSet::new();
        let mut entries = BTreeSet::from([upload_expiry_key(at(LIFETIME_MS), &id(), &upload())]);
        let mut now = 2;
        let mut commits = 0;
        for (nth, act) in (100u128..).zip(acts) {
            let etag = |at: &u32| view.parts.get(&number(*at)).map_or(PartEtag::new(0), |part| part.etag);
            let swap = match &act {
                Act::Part(number) => filing(nth, *number, 1),
                Act::Complete(parts) => {
                    let listed = parts.iter().map(|at| (number(*at), etag(at))).collect();
                    completion(nth, Selection::Listed(listed), &view.row_state)
                }
                Act::CompleteAll => completion(nth, Selection::All, &view.row_state),
                Act::Abort => abort(nth),
                Act::Expire => step(nth, UploadMutation::Expire),
                Act::Wait(ms) => {
                    now += ms;
                    continue;
                }
                Act::Overwrite => {
                    let swap = inline(nth, 1);
                    if let Decision::Commit { next, orphans: queued, .. } = decision(&swap, &view.row_state, true, at(now)) {
                        orphans.extend(queued.into_iter().map(|key| key.revision));
                        view.row_state = next;
                    }
                    continue;
                }
            };
            if let UploadMutation::Part { part, .. } = &swap.mutation {
                brought.insert(part.extent.revision);
            }
            let found = verdict(&swap, &view, at(now));
            commits += u32::from(matches!(found, Verdict::Complete { .. }));
            for (table, key, value) in swap.decide(&view, at(now)).batch.ops() {
                match (table, value) {
                    (Table::Orphans, Some(_)) => drop(orphans.insert(RevisionId::from_slice(key).unwrap())),
                    (Table::Expiry, Some(_)) => drop(entries.insert(key.clone())),
                    (Table::Expiry, None) => prop_assert!(entries.remove(key), "an entry is removed once"),
                    _ => {}
                }
            }
            view = session_after(&view, &swap, now);
            let of_row = view.row_state.row().map(Row::revisions).unwrap_or_default();
            let named: BTreeSet<_> =
                of_row.into_iter().chain(view.parts.values().map(|part| part.extent.revision)).collect();
            prop_assert!(named.is_disjoint(&orphans), "{act:?}");
            prop_assert_eq!(named.union(&orphans).copied().collect::<BTreeSet<_>>(), brought.clone(), "{:?}", act);
            prop_assert!(commits <= 1);
            let is_open = view.session.as_ref().is_some_and(|session| session.phase == UploadPhase::Open);
            prop_assert!(is_open || view.parts.is_empty(), "parts are of open uploads only");
            prop_assert_eq!(entries.len(), usize::from(view.session.is_some()));
            for entry in &entries {
                let due = read_expiry_key(entry).unwrap().0;
                prop_assert_eq!(Some(due), view.session.as_ref().map(|session| session.expires_at));
            }
        }
    }
}
