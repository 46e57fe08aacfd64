//! Tests of the ownership of blob tiers: all states that a crash, an older build or a wrong tier
//! results in.

use opendal::services::Memory;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::blobs::marker::{MARKER_PATH, encode};
use crate::index::Batch;
use crate::read::ReadLimits;
use crate::read::fixture::{MemoryIndex, Store};
use crate::records::begin_epoch;
use crate::types::StoreId;

mod several;

/// An index and a tier that tests replace independently.
struct Scene {
    index: Arc<MemoryIndex>,
    operator: Operator,
}

fn memory() -> Operator {
    Operator::new(Memory::default()).unwrap()
}

fn id(number: u128) -> StoreId {
    StoreId::from_uuid(Uuid::from_u128(number))
}

impl Scene {
    fn new() -> Self {
        Self {
            index: Arc::default(),
            operator: memory(),
        }
    }

    fn claim(&self, adopt: bool) -> TierClaim {
        TierClaim {
            has_begun: Arc::default(),
            lease: LeaseTimes {
                interval: Duration::from_millis(10),
                lease: Duration::from_millis(100),
            },
            index: self.index.clone(),
            env: Env::real().unwrap(),
            options: BlobOptions::default(),
            timeout: std::time::Duration::from_secs(60),
            adopt,
        }
    }

    async fn open(&self) -> Result<BlobTier> {
        self.claim(false)
            .take(TierPlace::Operator(self.operator.clone()))
            .await
    }

    async fn find(&self) -> Result<BlobTier> {
        self.claim(false)
            .find(TierPlace::Operator(self.operator.clone()))
            .await
    }

    async fn adopt(&self) -> Result<BlobTier> {
        self.claim(true)
            .take(TierPlace::Operator(self.operator.clone()))
            .await
    }

    /// Asserts that the tier is refused with this error, and that index and tier are unchanged.
    async fn refused(&self, kind: ErrorKind, with: &str) {
        let record = self.record().await;
        let files = self.files().await;
        let error = self.find().await.err().expect("a reader is refused");
        assert!(
            error.kind() == kind && error.to_string().contains(with),
            "{error}"
        );
        let error = self.open().await.err().expect("an opening is refused");
        assert!(
            error.kind() == kind && error.to_string().contains(with),
            "{error}"
        );
        assert!(
            error.to_string().contains("adopt"),
            "the error names the way out: {error}"
        );
        assert_eq!(
            (self.record().await, self.files().await),
            (record, files),
            "index and tier are unchanged"
        );
    }

    async fn record(&self) -> Option<StoreRecord> {
        StoreRecord::read(&*self.index).await.unwrap()
    }

    async fn set_record(&self, record: Option<StoreRecord>) {
        let mut batch = Batch::new();
        match record {
            Some(record) => batch.put(Table::Meta, crate::records::STORE_KEY, record.encode()),
            None => batch.remove(Table::Meta, crate::records::STORE_KEY),
        }
        self.index.apply(batch);
    }

    async fn write(&self, path: &str, bytes: impl Into<opendal::Buffer>) {
        self.operator.write(path, bytes).await.unwrap();
    }

    async fn files(&self) -> Vec<String> {
        let entries = self.operator.list_with("/").recursive(true).await.unwrap();
        entries
            .into_iter()
            .filter(|entry| entry.metadata().is_file())
            .map(|entry| entry.path().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn new_store_marks_its_tier_and_reopens_it() {
    let scene = Scene::new();
    let tier = scene.open().await.unwrap();
    let record = scene.record().await.unwrap();
    assert_eq!(record.tier, TierState::Claimed);
    assert!(
        matches!(tier.read_marker().await.unwrap(), Marker::Of(found) if found == record.id.into())
    );
    assert_eq!(scene.files().await, [MARKER_PATH]);
    scene.open().await.unwrap();
    assert_eq!(
        scene.record().await.unwrap(),
        record,
        "the store id never changes"
    );
    use futures::TryStreamExt;
    assert!(
        tier.list()
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
            .is_empty(),
        "the marker is not listed as a blob"
    );
}

#[tokio::test]
async fn interrupted_creation_is_finished() {
    let store = id(7);
    let leftovers = [
        vec![],
        encode(store)[..10].to_vec(),
        vec![0; 33],
        encode(store).to_vec(),
    ];
    for left in [None].into_iter().chain(leftovers.map(Some)) {
        let scene = Scene::new();
        scene
            .set_record(Some(StoreRecord::new(store, TierState::Pending)))
            .await;
        if let Some(left) = left {
            scene.write(MARKER_PATH, left).await;
        }
        let record = scene.record().await;
        let files = scene.files().await;
        scene.find().await.unwrap();
        assert_eq!(
            (scene.record().await, scene.files().await),
            (record, files),
            "a reader writes nothing"
        );
        scene.open().await.unwrap();
        assert_eq!(
            scene.record().await,
            Some(StoreRecord::new(store, TierState::Claimed))
        );
        scene.open().await.unwrap();
    }
}

#[tokio::test]
async fn reader_creates_no_directory_for_a_tier() {
    use futures::TryStreamExt;
    let scene = Scene::new();
    let dir = TempDir::new().unwrap();
    let absent = dir.path().join("blobs");
    let find = || async {
        scene
            .claim(false)
            .find(TierPlace::Directory(absent.clone()))
            .await
    };
    let tier = find().await.unwrap();
    assert!(
        tier.list()
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(scene.record().await, None);
    scene
        .set_record(Some(StoreRecord::new(id(7), TierState::Claimed)))
        .await;
    assert_eq!(find().await.err().unwrap().kind(), ErrorKind::Unavailable);
    assert!(!absent.exists());
}

#[tokio::test]
async fn tier_without_its_marker_is_refused() {
    let scene = Scene::new();
    scene.open().await.unwrap();
    scene.operator.delete(MARKER_PATH).await.unwrap();
    scene.refused(ErrorKind::Unavailable, "found=none").await;
    scene.adopt().await.unwrap();
    scene.open().await.unwrap();
}

#[tokio::test]
async fn tier_of_another_store_is_refused() {
    for record in [None, Some(TierState::Pending), Some(TierState::Claimed)] {
        let scene = Scene::new();
        scene
            .set_record(record.map(|tier| StoreRecord::new(id(1), tier)))
            .await;
        scene.write(MARKER_PATH, encode(id(2))).await;
        scene
            .refused(ErrorKind::Invalid, &format!("found={}", id(2)))
            .await;
        scene.adopt().await.unwrap();
        scene.open().await.unwrap();
    }
}

#[tokio::test]
async fn damaged_marker_is_refused() {
    let scene = Scene::new();
    let tier = scene.open().await.unwrap();
    let mut marker = encode(scene.record().await.unwrap().id).to_vec();
    marker[12] ^= 1;
    scene.write(MARKER_PATH, marker.clone()).await;
    scene.refused(ErrorKind::Corrupt, "unreadable marker").await;
    assert_eq!(
        tier.check_owner().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    marker[8] = 9;
    scene.write(MARKER_PATH, marker).await;
    scene
        .refused(ErrorKind::UnknownFormat, "unreadable marker")
        .await;
    scene.adopt().await.unwrap();
    tier.check_owner().await.unwrap();
}

#[tokio::test]
async fn new_index_is_not_opened_over_unknown_blobs() {
    for record in [None, Some(StoreRecord::new(id(1), TierState::Pending))] {
        let scene = Scene::new();
        scene.set_record(record).await;
        scene
            .write("7f/default!k@0198c5a2-1f00-7abc-8def-00000000007f", "x")
            .await;
        scene
            .refused(ErrorKind::Invalid, "file=7f/default!k@")
            .await;
        scene.adopt().await.unwrap();
        assert_eq!(scene.record().await.unwrap().tier, TierState::Claimed);
        scene.open().await.unwrap();
    }
}

#[tokio::test]
async fn store_without_an_id_takes_only_its_own_tier() {
    let scene = Scene::new();
    let store = Store::on(scene.operator.clone(), ReadLimits::default());
    let scene = Scene {
        index: store.index.clone(),
        ..scene
    };
    let object = crate::ObjectId::try_from("k").unwrap();
    store.put_parts(&object, &["some bytes".into()]).await;
    let index: Arc<dyn Index> = scene.index.clone();
    begin_epoch(&index).await.unwrap();
    let elsewhere = Scene {
        index: scene.index.clone(),
        operator: memory(),
    };
    elsewhere
        .refused(ErrorKind::Unavailable, "is empty or missing")
        .await;
    elsewhere
        .write("7f/default!k@0198c5a2-1f00-7abc-8def-00000000007f", "x")
        .await;
    elsewhere
        .refused(ErrorKind::Invalid, "no blob that the index names")
        .await;
    scene.open().await.unwrap();
    assert!(scene.files().await.contains(&MARKER_PATH.to_owned()));
    scene.open().await.unwrap();
}

#[tokio::test]
async fn store_without_id_and_blobs_takes_an_empty_tier() {
    let scene = Scene::new();
    let index: Arc<dyn Index> = scene.index.clone();
    begin_epoch(&index).await.unwrap();
    scene.open().await.unwrap();
    scene.open().await.unwrap();
}

#[tokio::test]
async fn no_directory_is_created_in_place_of_a_missing_tier() {
    let scene = Scene::new();
    let root = TempDir::new().unwrap();
    let path = root.path().join("blobs");
    let away = root.path().join("away");
    let open = async || {
        scene
            .claim(false)
            .take(TierPlace::Directory(path.clone()))
            .await
    };
    let tier = open().await.unwrap();
    tier.check_owner().await.unwrap();
    std::fs::rename(&path, &away).unwrap();
    assert_eq!(open().await.err().unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(
        tier.check_owner().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert!(tier.trouble().is_some());
    assert!(!path.exists(), "no directory is created");
    std::fs::create_dir(&path).unwrap();
    assert_eq!(
        open().await.err().unwrap().kind(),
        ErrorKind::Unavailable,
        "an empty directory"
    );
    assert_eq!(
        tier.check_owner().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    // Another directory of the same name is refused even with a copy of the marker: the path must
    // name the directory that was opened.
    std::fs::copy(away.join(MARKER_PATH), path.join(MARKER_PATH)).unwrap();
    assert_eq!(
        tier.check_owner().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::rename(&away, &path).unwrap();
    open().await.unwrap();
    tier.check_owner().await.unwrap();
    assert!(tier.trouble().is_none());
}

#[tokio::test]
async fn root_of_a_fresh_file_system_is_an_empty_tier() {
    let scene = Scene::new();
    let root = TempDir::new().unwrap();
    std::fs::create_dir(root.path().join("lost+found")).unwrap();
    std::fs::write(root.path().join("lost+found/x"), "unreadable").unwrap();
    scene
        .claim(false)
        .take(TierPlace::Directory(root.path().to_owned()))
        .await
        .unwrap();
}

#[tokio::test]
async fn blob_written_outside_the_tier_is_not_finished() {
    let scene = Scene::new();
    let root = TempDir::new().unwrap();
    let path = root.path().join("blobs");
    let away = root.path().join("away");
    let tier = scene
        .claim(false)
        .take(TierPlace::Directory(path.clone()))
        .await
        .unwrap();
    let key = || crate::RevisionKey {
        object: crate::ObjectId::try_from("k").unwrap(),
        revision: Env::real().unwrap().revision_id(),
    };
    let key_of_begun = key();
    let mut begun = tier.writer(&key_of_begun);
    begun.write(vec![1; 5 << 20].into()).await.unwrap();
    std::fs::rename(&path, &away).unwrap();
    let mut late = tier.writer(&key());
    let failed = late.write(vec![1; 5 << 20].into()).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable);
    assert!(
        !path.exists(),
        "nothing is created at the old path of the tier"
    );
    // A blob that was begun before the move is in the moved tier.
    begun.finish().await.unwrap();
    assert!(away.join(crate::blobs::path::path(&key_of_begun)).exists());
    std::fs::create_dir(&path).unwrap();
    assert_eq!(
        tier.writer(&key()).finish().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

#[tokio::test]
async fn blob_deleted_outside_the_tier_is_not_deleted() {
    let scene = Scene::new();
    let root = TempDir::new().unwrap();
    let path = root.path().join("blobs");
    let away = root.path().join("away");
    let tier = scene
        .claim(false)
        .take(TierPlace::Directory(path.clone()))
        .await
        .unwrap();
    let object = crate::ObjectId::try_from("k").unwrap();
    let key = crate::RevisionKey {
        object,
        revision: Env::real().unwrap().revision_id(),
    };
    tier.writer(&key).finish().await.unwrap();
    std::fs::rename(&path, &away).unwrap();
    tier.delete(&key).await.unwrap();
    std::fs::rename(&away, &path).unwrap();
    // The tier is back in its place before the next check of its marker.
    tier.check_owner().await.unwrap();
    assert_eq!(
        tier.settle_deletes(std::slice::from_ref(&key))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Unavailable
    );
    tier.delete(&key).await.unwrap();
    tier.settle_deletes(&[key]).await.unwrap();
}

#[test]
fn adopting_replaces_every_refusal() {
    let unreadable = || Marker::Unreadable(vec![1], Error::new(ErrorKind::Corrupt, "open", "x"));
    let records =
        [TierState::Pending, TierState::Claimed].map(|tier| TierRecord::Tier(id(1).into(), tier));
    for known in records.into_iter().chain([TierRecord::Nothing]) {
        for marker in [
            Marker::Absent,
            Marker::Of(id(1).into()),
            Marker::Of(id(2).into()),
            unreadable(),
        ] {
            let plain = decide(known, &marker, false, "here");
            let adopted = decide(known, &marker, true, "here");
            match plain {
                Decision::Open(_) | Decision::Note(_) => {
                    assert!(!matches!(adopted, Decision::Adopt), "{plain:?}");
                }
                Decision::IfPlausible | Decision::Refuse(_) => {
                    assert!(matches!(adopted, Decision::Adopt), "{plain:?}");
                }
                Decision::Adopt => panic!("adopted without a request: {known:?} {marker:?}"),
            }
        }
    }
}
