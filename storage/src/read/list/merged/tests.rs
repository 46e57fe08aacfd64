//! Merged listings against a naive model, also while objects move and are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;

use super::*;
use crate::fallback::{Fallback, FallbackMeta, FallbackObject, FallbackPage};
use crate::index::{Batch, Index};
use crate::read::fixture::{Store, id, inline};
use crate::read::{OpenAttempt, ReadLimits};
use crate::records::LastVersion;
use crate::types::{ByteRange, Error, Namespace, Timestamp, Version};

/// Change of the store and the source during a listing.
#[derive(Clone, Debug)]
enum Change {
    /// A sweep moves the object, and deletes it from the source.
    Move(String),
    /// A client deletes the object.
    Delete(String),
    /// A client deletes an object and writes another in one commit.
    Replace(&'static str, &'static str),
    /// The fallback is sealed, and the pruner drops the mask of an object.
    SealAndPrune(&'static str),
    Nothing,
}

/// A source in memory, which carries out a change after each page.
#[derive(Default)]
struct Source {
    objects: Mutex<BTreeMap<String, FallbackMeta>>,
    changes: Mutex<Vec<Change>>,
    store: Mutex<Option<Store>>,
    attached: Mutex<Option<AttachedFallback>>,
    /// Keys that were returned so far.
    listed: Mutex<usize>,
    /// Most keys of a page.
    page_max: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    fn change(&self) {
        let change = locked(&self.changes).pop();
        let store = locked(&self.store).clone();
        let (Some(change), Some(store)) = (change, store) else {
            return;
        };
        match change {
            Change::Move(key) => {
                if locked(&self.objects).contains_key(&key) && is_new(&store, &key) {
                    store.apply(&id(&key), inline(key.clone()));
                    locked(&self.objects).remove(&key);
                }
            }
            Change::Delete(key) => mask(&store, &key),
            Change::Replace(deleted, written) => {
                let mut batch = store.batch(&id(written), inline("new"));
                batch.append(masking(&store, deleted));
                store.index.apply(batch);
            }
            Change::SealAndPrune(key) => {
                locked(&self.attached)
                    .iter()
                    .for_each(AttachedFallback::seal);
                let mut batch = Batch::new();
                batch.remove(Table::Meta, last_version_key(&id(key)));
                store.index.apply(batch);
            }
            Change::Nothing => {}
        }
    }
}

impl Fallback for Source {
    fn describe(&self) -> String {
        "model".into()
    }

    fn head<'a>(&'a self, id: &'a ObjectId) -> BoxFuture<'a, Result<Option<FallbackMeta>>> {
        let found = locked(&self.objects).get(id.key()).cloned();
        self.change();
        std::future::ready(Ok(found)).boxed()
    }

    fn open<'a>(
        &'a self,
        _: &'a ObjectId,
        _: ByteRange,
    ) -> BoxFuture<'a, Result<Option<FallbackObject>>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn list<'a>(&'a self, request: &'a FallbackListRequest) -> BoxFuture<'a, Result<FallbackPage>> {
        let limit = request.limit.min(self.page_max.max(1));
        let objects = locked(&self.objects).clone();
        let mut matching = objects
            .into_iter()
            .filter(|(key, _)| key.starts_with(&request.prefix) && request.position.admits(key));
        let entries: Vec<_> = matching
            .by_ref()
            .take(limit)
            .map(|(key, meta)| FallbackEntry {
                // Some services list without heads.
                meta: (key.len() % 2 == 0).then_some(meta),
                key,
            })
            .collect();
        *locked(&self.listed) += entries.len();
        self.change();
        let page = FallbackPage {
            entries,
            is_complete: matching.next().is_none(),
            skipped: Vec::new(),
        };
        std::future::ready(Ok(page)).boxed()
    }

    fn namespaces(&self) -> BoxFuture<'_, Result<Vec<Namespace>>> {
        std::future::ready(Ok(vec![Namespace::default_namespace()])).boxed()
    }
}

/// Deletes an object: a last version masks it.
fn mask(store: &Store, key: &str) {
    store.index.apply(masking(store, key));
}

fn masking(store: &Store, key: &str) -> Batch {
    let mut batch = Batch::new();
    batch.remove(Table::Rows, id(key).encoded().clone());
    let last = LastVersion::at(Version::new(1), store.env.steady_now());
    batch.put(Table::Meta, last_version_key(&id(key)), last.encode());
    batch
}

fn is_new(store: &Store, key: &str) -> bool {
    let ids = [id(key)];
    let snapshot = store.index.snapshot().unwrap();
    let new = are_new(&*snapshot, &ids, OnDamage::Fail).now_or_never();
    new.unwrap().unwrap()[0]
}

/// Creates a store over a source. Must be called within a runtime.
fn store_over(source: &Arc<Source>) -> Store {
    let limits = ReadLimits {
        list_page_max: 1000,
        ..ReadLimits::default()
    };
    let source: Arc<dyn Fallback> = source.clone();
    Store::new(limits).over(AttachedFallback::new(source))
}

fn meta(expires_at: Option<Timestamp>) -> FallbackMeta {
    FallbackMeta {
        size: 3,
        expires_at,
        ..FallbackMeta::default()
    }
}

fn request(prefix: &str, delimiter: Option<char>, limit: usize) -> ListRequest {
    ListRequest {
        namespace: Namespace::default_namespace(),
        prefix: prefix.to_owned(),
        delimiter,
        start_after: None,
        limit,
        on_damage: OnDamage::Fail,
    }
}

/// Reads all pages. Returns the names, with true for groups.
async fn walk(
    store: &Store,
    mut request: ListRequest,
) -> Result<(Vec<(String, bool)>, Vec<Entry>), Error> {
    let mut walked = Vec::new();
    let mut entries = Vec::new();
    loop {
        let page = store.reads.list(request.clone()).await?;
        assert!(page.entries.len() <= request.limit);
        let named = |entry: &Entry| (entry.name().to_owned(), matches!(entry, Entry::Prefix(_)));
        walked.extend(page.entries.iter().map(named));
        let last = page.entries.last().map(|entry| entry.name().to_owned());
        entries.extend(page.entries);
        match page.next {
            Some(next) => {
                assert_eq!(
                    Some(&next),
                    last.as_ref(),
                    "a page that is not the last is full"
                );
                request.start_after = Some(next);
            }
            None => return Ok((walked, entries)),
        }
    }
}

/// Returns the names of these keys in a listing.
fn names(
    keys: &BTreeSet<String>,
    prefix: &str,
    delimiter: Option<char>,
    start_after: Option<&str>,
) -> Vec<(String, bool)> {
    let request = request(prefix, delimiter, 1);
    let named = keys.iter().filter(|key| key.starts_with(prefix));
    let named: BTreeSet<_> = named
        .map(|key| match group(&request, key) {
            Some(group) => (group, true),
            None => (key.clone(), false),
        })
        .collect();
    let is_behind = |name: &str| start_after.is_none_or(|after| name > after);
    named
        .into_iter()
        .filter(|(name, _)| is_behind(name))
        .collect()
}

fn runtime() -> tokio::runtime::Runtime {
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

fn keys() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set("[a-b/é]{1,4}", 0..25)
}

fn delimiters() -> impl Strategy<Value = Option<char>> {
    prop_oneof![
        Just(None),
        Just(Some('/')),
        Just(Some('a')),
        Just(Some('é'))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn merged_pages_of_any_size_match_the_model(
        (own, foreign, masked, expired) in (keys(), keys(), keys(), keys()),
        prefix in "[a-b/é]{0,2}",
        delimiter in delimiters(),
        start_after in proptest::option::of("[a-b/éz]{0,3}"),
        limit in 1..6usize,
        page_max in 1..8usize,
    ) {
        let source = Arc::new(Source { page_max, ..Source::default() });
        let walked = runtime().block_on(async {
            let store = store_over(&source);
            let past = Some(Timestamp::from_millis(1));
            for key in &foreign {
                let expires_at = past.filter(|_| expired.contains(key));
                locked(&source.objects).insert(key.clone(), meta(expires_at));
            }
            own.iter().for_each(|key| store.apply(&id(key), inline(key.clone())));
            masked.iter().filter(|key| !own.contains(*key)).for_each(|key| mask(&store, key));
            let request = ListRequest {
                start_after: start_after.clone(),
                ..request(&prefix, delimiter, limit)
            };
            walk(&store, request).await.unwrap()
        });
        let visible = foreign.iter().filter(|key| {
            !masked.contains(*key) && !expired.contains(*key) && !own.contains(*key)
        });
        let all: BTreeSet<String> = own.iter().chain(visible).cloned().collect();
        prop_assert_eq!(&walked.0, &names(&all, &prefix, delimiter, start_after.as_deref()));
        for entry in &walked.1 {
            if let Entry::Object(head) = entry {
                // Ours is preferred, and a version of the fallback is never surfaced.
                prop_assert_eq!(head.version.is_some(), own.contains(head.id.key()));
            }
        }
    }

    #[test]
    fn listing_misses_no_object_that_moves_and_lists_none_that_was_deleted_before(
        (own, foreign) in (keys(), keys()),
        changes in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..20),
        deleted in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        delimiter in delimiters(),
        limit in 1..6usize,
        page_max in 1..4usize,
    ) {
        let all: Vec<String> = own.union(&foreign).cloned().collect();
        let pick = |index: &prop::sample::Index| all[index.index(all.len())].clone();
        let changes: Vec<Change> = changes
            .iter()
            .filter(|_| !all.is_empty())
            .map(|(is_move, index)| match is_move {
                true => Change::Move(pick(index)),
                false => Change::Delete(pick(index)),
            })
            .collect();
        let deleted: BTreeSet<String> = deleted.iter().filter(|_| !all.is_empty()).map(pick).collect();
        let may_vanish: BTreeSet<String> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Delete(key) => Some(key.clone()),
                Change::Move(_)
                | Change::Replace(..)
                | Change::SealAndPrune(_)
                | Change::Nothing => None,
            })
            .collect();
        let source = Arc::new(Source { page_max, ..Source::default() });
        let (walked, _) = runtime().block_on(async {
            let store = store_over(&source);
            for key in &foreign {
                locked(&source.objects).insert(key.clone(), meta(None));
            }
            own.iter().for_each(|key| store.apply(&id(key), inline(key.clone())));
            deleted.iter().for_each(|key| mask(&store, key));
            *locked(&source.changes) = changes;
            *locked(&source.store) = Some(store.clone());
            let walked = walk(&store, request("", delimiter, limit)).await.unwrap();
            locked(&source.store).take();
            walked
        });
        let present: BTreeSet<String> =
            all.into_iter().filter(|key| !deleted.contains(key)).collect();
        let lasting = present.difference(&may_vanish).cloned().collect();
        let must: BTreeSet<_> = names(&lasting, "", delimiter, None).into_iter().collect();
        let may: BTreeSet<_> = names(&present, "", delimiter, None).into_iter().collect();
        let listed: BTreeSet<_> = walked.iter().cloned().collect();
        prop_assert!(walked.is_sorted(), "{walked:?}");
        prop_assert_eq!(listed.len(), walked.len(), "an entry is listed twice");
        prop_assert!(must.is_subset(&listed), "missing: {:?}", must.difference(&listed));
        prop_assert!(listed.is_subset(&may), "deleted: {:?}", listed.difference(&may));
    }
}

#[tokio::test]
async fn read_that_began_before_the_seal_returns_no_object_that_was_deleted() {
    let source = Arc::new(Source::default());
    let shared: Arc<dyn Fallback> = source.clone();
    let attached = AttachedFallback::new(shared);
    let store = Store::new(ReadLimits::default()).over(attached.clone());
    locked(&source.objects).insert("a".into(), meta(None));
    let head = store.reads.head_in_fallback(&id("a"), &attached).await;
    assert!(head.unwrap().is_some(), "the source has the object");
    // The object was deleted, the fallback was sealed, and its mask was dropped.
    attached.seal();
    let head = store.reads.head_in_fallback(&id("a"), &attached).await;
    assert_eq!(head.unwrap(), None);
    let opened = store
        .reads
        .open_in_fallback(&id("a"), ByteRange::Full, &attached)
        .await;
    assert!(
        matches!(opened.unwrap(), OpenAttempt::Replaced),
        "the read starts over without the fallback"
    );
}

#[tokio::test]
async fn page_that_began_before_the_seal_lists_no_object_that_was_deleted() {
    let source = Arc::new(Source::default());
    let shared: Arc<dyn Fallback> = source.clone();
    let attached = AttachedFallback::new(shared);
    let limits = ReadLimits {
        list_page_max: 1000,
        ..ReadLimits::default()
    };
    let store = Store::new(limits).over(attached.clone());
    locked(&source.objects).insert("a".into(), meta(None));
    mask(&store, "a");
    *locked(&source.changes) = vec![Change::SealAndPrune("a")];
    *locked(&source.attached) = Some(attached);
    *locked(&source.store) = Some(store.clone());
    let page = store.reads.list(request("", None, 10)).await.unwrap();
    locked(&source.store).take();
    assert_eq!(page.entries, [], "the mask was dropped after the seal");
}

#[tokio::test]
async fn page_shows_a_commit_over_both_as_a_whole() {
    for (deleted, delimiter) in [("a", None), ("a/b", Some('/'))] {
        let source = Arc::new(Source {
            page_max: 10,
            ..Source::default()
        });
        let store = store_over(&source);
        for key in [deleted, "c"] {
            locked(&source.objects).insert(key.to_owned(), meta(None));
        }
        // Carried out from the last: nothing after the page of keys, then beside the first head.
        *locked(&source.changes) = vec![Change::Replace(deleted, "b"), Change::Nothing];
        *locked(&source.store) = Some(store.clone());
        let (walked, _) = walk(&store, request("", delimiter, 10)).await.unwrap();
        locked(&source.store).take();
        let names: Vec<_> = walked.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b", "c"]);
    }
}

#[tokio::test]
async fn page_costs_no_more_keys_of_the_fallback_than_it_has_entries() {
    let source = Arc::new(Source {
        page_max: 1000,
        ..Source::default()
    });
    let store = store_over(&source);
    for number in 0..5000 {
        let key = format!("{}/{number:04}", number / 100);
        // A sweep has moved half of the groups and has not deleted them from the source.
        if number / 100 % 2 == 0 {
            store.apply(&id(&key), inline(key.clone()));
        }
        locked(&source.objects).insert(key, meta(None));
    }
    let page = store.reads.list(request("", None, 100)).await.unwrap();
    assert_eq!(page.entries.len(), 100);
    let flat = std::mem::take(&mut *locked(&source.listed));
    assert!(flat <= 2 * 101, "{flat} keys for a page of 100");
    let page = store.reads.list(request("", Some('/'), 10)).await.unwrap();
    assert_eq!(page.entries.len(), 10);
    let grouped = *locked(&source.listed);
    assert!(
        grouped <= 11 * KEYS_OF_GROUPS,
        "{grouped} keys for a page of 10 groups"
    );
}

#[tokio::test]
async fn failing_or_disordered_source_fails_the_page_and_never_ends_it() {
    struct Broken(Option<FallbackPage>);

    impl Fallback for Broken {
        fn describe(&self) -> String {
            "broken".into()
        }
        fn head<'a>(&'a self, _: &'a ObjectId) -> BoxFuture<'a, Result<Option<FallbackMeta>>> {
            std::future::ready(Ok(None)).boxed()
        }
        fn open<'a>(
            &'a self,
            _: &'a ObjectId,
            _: ByteRange,
        ) -> BoxFuture<'a, Result<Option<FallbackObject>>> {
            std::future::ready(Ok(None)).boxed()
        }
        fn list<'a>(&'a self, _: &'a FallbackListRequest) -> BoxFuture<'a, Result<FallbackPage>> {
            let broken = Error::new(ErrorKind::Unavailable, "list", "broken");
            std::future::ready(self.0.clone().ok_or(broken)).boxed()
        }
        fn namespaces(&self) -> BoxFuture<'_, Result<Vec<Namespace>>> {
            std::future::ready(Ok(Vec::new())).boxed()
        }
    }

    let truncated = Some(FallbackPage::default());
    for (page, kind) in [
        (None, ErrorKind::Unavailable),
        (truncated, ErrorKind::Invalid),
    ] {
        let source: Arc<dyn Fallback> = Arc::new(Broken(page));
        let store = Store::new(ReadLimits::default()).over(AttachedFallback::new(source));
        store.apply(&id("a"), inline("a"));
        let error = store.reads.list(request("", None, 1000)).await.unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}
