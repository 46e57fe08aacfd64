//! Tests of stores with several blob tiers: adding, opening and releasing them.

use super::*;
use crate::blobs::BlobTiers;
use crate::records::{NextTier, NumberedTier};
use crate::types::{Reason, TierId, TierNumber};

/// A store, and the tiers that it may be opened over.
struct SeveralTiers {
    scene: Scene,
    tiers: Vec<Operator>,
}

impl SeveralTiers {
    /// Creates a store over the first of `tiers` tiers.
    async fn new(tiers: usize) -> Self {
        let this = Self {
            scene: Scene::new(),
            tiers: (0..tiers).map(|_| memory()).collect(),
        };
        this.open(0, &[]).await.unwrap();
        this
    }

    fn places(&self, current: usize, older: &[usize]) -> TierPlaces {
        let place = |&number: &usize| TierPlace::Operator(self.tiers[number].clone());
        TierPlaces {
            current: place(&current),
            older: older.iter().map(place).collect(),
            on_new: OnNewTier::Add,
        }
    }

    async fn open_with(&self, on_new: OnNewTier) -> Result<BlobTiers> {
        let places = TierPlaces {
            on_new,
            ..self.places(1, &[0])
        };
        self.scene.claim(false).take_all(places).await
    }

    async fn open(&self, current: usize, older: &[usize]) -> Result<BlobTiers> {
        let places = self.places(current, older);
        self.scene.claim(false).take_all(places).await
    }

    async fn find(&self, current: usize, older: &[usize]) -> Result<BlobTiers> {
        let places = self.places(current, older);
        self.scene.claim(false).find_all(places).await
    }

    async fn adopt(&self, current: usize, older: &[usize]) -> Result<BlobTiers> {
        let places = self.places(current, older);
        self.scene.claim(true).take_all(places).await
    }

    /// Asserts that an opening is refused with this error, and that the record and all tiers are
    /// unchanged.
    async fn refuses(&self, current: usize, older: &[usize], kind: ErrorKind, with: &str) {
        let before = (self.scene.record().await, self.files().await);
        assert!(self.find(current, older).await.is_err());
        let error = self.open(current, older).await.err().expect("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(with), "{error}");
        assert_eq!((self.scene.record().await, self.files().await), before);
    }

    async fn mark(&self, tier: usize, marker: impl Into<opendal::Buffer>) {
        self.tiers[tier].write(MARKER_PATH, marker).await.unwrap();
    }

    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        for tier in &self.tiers {
            for entry in tier.list_with("/").recursive(true).await.unwrap() {
                if entry.metadata().is_file() {
                    let bytes = tier.read(entry.path()).await.unwrap();
                    files.push((entry.path().to_owned(), bytes.to_vec()));
                }
            }
        }
        files
    }

    async fn numbers(&self) -> (u16, Vec<u16>) {
        let record = self.scene.record().await.unwrap();
        let number = |tier: &NumberedTier| tier.number.get();
        let older = record.older.iter().map(number).collect();
        (number(&record.current), older)
    }
}

#[tokio::test]
async fn store_moves_to_one_tier_after_another() {
    let store = SeveralTiers::new(3).await;
    let id = store.scene.record().await.unwrap().id;
    let tiers = store.open(1, &[0]).await.unwrap();
    assert_eq!((tiers.number().get(), tiers.older().len()), (1, 1));
    assert_eq!(store.numbers().await, (1, vec![0]));
    let record = store.scene.record().await.unwrap();
    assert_eq!(record.id, id, "the store id never changes");

    let tiers = store.open(1, &[0]).await.unwrap();
    assert_eq!((tiers.number().get(), tiers.older().len()), (1, 1));
    assert_eq!(store.scene.record().await.unwrap(), record);
    let found = store.find(1, &[0]).await.unwrap();
    assert_eq!(found.older().len(), 1);

    let tiers = store.open(2, &[0, 1]).await.unwrap();
    assert_eq!((tiers.number().get(), tiers.older().len()), (2, 2));
    assert_eq!(store.numbers().await, (2, vec![0, 1]));
    tiers.check_owner().await.unwrap();
}

#[tokio::test]
async fn tiers_of_a_store_are_not_confused() {
    let store = SeveralTiers::new(3).await;
    store.open(1, &[0]).await.unwrap();
    let refuses = async |current, older: &[usize], kind, with| {
        store.refuses(current, older, kind, with).await;
    };
    let invalid = ErrorKind::Invalid;
    refuses(1, &[], invalid, "older blob tier, which was not given").await;
    refuses(0, &[], invalid, "another tier of this store").await;
    refuses(0, &[1], invalid, "in use").await;
    refuses(1, &[1], invalid, "in use").await;
    refuses(2, &[0], ErrorKind::Unavailable, "is missing or is another").await;
    // The tier of another store as the new one, or as an older one.
    store.mark(2, encode(id(9))).await;
    refuses(2, &[1, 0], invalid, "belongs to another store").await;
    refuses(1, &[2], invalid, "which was not given").await;
}

#[tokio::test]
async fn older_tier_is_not_adopted_as_the_current_one() {
    let store = SeveralTiers::new(2).await;
    store.open(1, &[0]).await.unwrap();
    let before = store.files().await;
    let error = store.adopt(0, &[]).await.err().expect("refused");
    assert!(error.to_string().contains("can't be adopted"), "{error}");
    assert_eq!(store.files().await, before);
    // The current tier can, without its marker.
    store.tiers[1].delete(MARKER_PATH).await.unwrap();
    let kind = ErrorKind::Unavailable;
    store.refuses(1, &[0], kind, "found=none").await;
    store.adopt(1, &[0]).await.unwrap();
    assert_eq!(store.files().await, before);
    store.open(1, &[0]).await.unwrap();
}

#[tokio::test]
async fn only_an_empty_tier_becomes_the_current_one() {
    let store = SeveralTiers::new(2).await;
    store.tiers[1].write("notes.txt", "mine").await.unwrap();
    let with = "moves to an empty tier: file=notes.txt";
    let error = store.open(1, &[0]).await.err().expect("refused");
    assert!(error.to_string().contains(with), "{error}");
    store.refuses(1, &[0], ErrorKind::Invalid, with).await;
    store.tiers[1].delete("notes.txt").await.unwrap();
    store.open(1, &[0]).await.unwrap();
}

#[tokio::test]
async fn interrupted_addition_of_a_tier_is_repeated() {
    let store = SeveralTiers::new(2).await;
    let before = store.scene.record().await.unwrap();
    store.open(1, &[0]).await.unwrap();
    let after = store.scene.record().await.unwrap();
    let marker = encode(after.mark(after.current));
    let place = BlobTier::new(
        store.tiers[1].clone(),
        Env::real().unwrap(),
        BlobOptions::default(),
    )
    .place();
    let adding = StoreRecord {
        next: Some(NextTier {
            tier: after.current,
            place,
        }),
        ..before
    };
    // The marker is whole, torn or absent; the last record is missing.
    for left in [&marker[..], &marker[..20], &[0; 49][..], &[][..]] {
        store.mark(1, left.to_vec()).await;
        store.scene.set_record(Some(adding.clone())).await;
        // The store still opens as before.
        let tiers = store.open(0, &[]).await.unwrap();
        assert_eq!(tiers.number(), TierNumber::FIRST);
        store.open(1, &[0]).await.unwrap();
        assert_eq!(store.scene.record().await, Some(after.clone()));
    }
    store.tiers[1].delete(MARKER_PATH).await.unwrap();
    store.scene.set_record(Some(adding.clone())).await;
    store.open(1, &[0]).await.unwrap();
    // The marker of the first attempt may appear late. It is the same.
    assert_eq!(store.scene.record().await, Some(after));
}

#[tokio::test]
async fn two_places_never_get_the_same_mark() {
    let store = SeveralTiers::new(2).await;
    let dir = TempDir::new().unwrap();
    let elsewhere = TierPlaces {
        current: TierPlace::Directory(dir.path().join("blobs")),
        ..store.places(1, &[0])
    };
    let before = store.scene.record().await.unwrap();
    let adding = |record: StoreRecord, current, place: &str| StoreRecord {
        next: Some(NextTier {
            tier: current,
            place: place.to_owned(),
        }),
        ..record
    };
    let claim = store.scene.claim(false);
    claim.take_all(elsewhere).await.unwrap();
    let first = store.scene.record().await.unwrap();
    // That attempt ended before its last step, and the next one is for another place.
    let place = dir.path().join("blobs").display().to_string();
    let interrupted = adding(before, first.current, &place);
    store.scene.set_record(Some(interrupted)).await;
    store.open(1, &[0]).await.unwrap();
    let second = store.scene.record().await.unwrap();
    assert_eq!(second.current.number, first.current.number);
    assert_ne!(second.current.id, first.current.id);
}

#[tokio::test]
async fn marker_identifies_the_next_tier_under_another_path() {
    let store = SeveralTiers::new(2).await;
    let next = NextTier {
        tier: NumberedTier {
            number: TierNumber::new(1).unwrap(),
            id: Some(TierId::from_uuid(Uuid::from_u128(5))),
        },
        place: "a link to the tier".to_owned(),
    };
    let record = store.scene.record().await.unwrap();
    store.mark(1, encode(record.mark(next.tier))).await;
    let adding = StoreRecord {
        next: Some(next.clone()),
        ..record
    };
    store.scene.set_record(Some(adding)).await;
    store.find(1, &[0]).await.unwrap();
    store.open(1, &[0]).await.unwrap();
    let record = store.scene.record().await.unwrap();
    assert_eq!((record.current, record.next), (next.tier, None));
}

#[tokio::test]
async fn older_tier_without_its_mark_is_unavailable() {
    let store = SeveralTiers::new(2).await;
    store.open(1, &[0]).await.unwrap();
    store.tiers[0].delete(MARKER_PATH).await.unwrap();
    let kind = ErrorKind::Unavailable;
    store
        .refuses(1, &[0], kind, "an older one without its mark")
        .await;
    // Between the steps of an addition, too.
    let after = store.scene.record().await.unwrap();
    let adding = StoreRecord {
        older: Vec::new(),
        current: NumberedTier::FIRST,
        next: Some(NextTier {
            tier: after.current,
            place: "elsewhere".to_owned(),
        }),
        ..after.clone()
    };
    store.scene.set_record(Some(adding)).await;
    store
        .refuses(1, &[0], kind, "an older one without its mark")
        .await;
    store.scene.set_record(Some(after)).await;
    let places = TierPlaces {
        older: vec![TierPlace::Directory("/absent/blobs".into())],
        ..store.places(1, &[])
    };
    let claim = store.scene.claim(false);
    let error = claim.take_all(places).await.err().expect("refused");
    assert_eq!(error.kind(), kind);
}

#[tokio::test]
async fn released_tier_may_still_be_given() {
    let store = SeveralTiers::new(2).await;
    store.open(1, &[0]).await.unwrap();
    let record = store.scene.record().await.unwrap();
    let released = StoreRecord {
        older: Vec::new(),
        ..record
    };
    store.scene.set_record(Some(released)).await;
    for _ in 0..2 {
        let tiers = store.open(1, &[0]).await.unwrap();
        assert!(tiers.older().is_empty());
        // A crash may have kept the marker of the released tier.
        store.tiers[0].delete(MARKER_PATH).await.unwrap();
    }
    store.open(1, &[]).await.unwrap();
}

#[tokio::test]
async fn reader_opens_a_store_as_if_it_had_moved() {
    let store = SeveralTiers::new(2).await;
    let before = (store.scene.record().await, store.files().await);
    let tiers = store.find(1, &[0]).await.unwrap();
    assert_eq!((tiers.number().get(), tiers.older().len()), (1, 1));
    assert_eq!((store.scene.record().await, store.files().await), before);
    store.tiers[1].write("notes.txt", "mine").await.unwrap();
    let error = store.find(1, &[0]).await.err().expect("refused");
    assert!(error.to_string().contains("empty tier"), "{error}");
}

#[tokio::test]
async fn step_before_the_switch_sees_the_marker_and_may_refuse() {
    let store = SeveralTiers::new(2).await;
    let files = store.files().await;
    let error = store.open_with(OnNewTier::Refuse).await.err();
    let error = error.expect("refused").to_string();
    assert!(error.contains("moves no store"), "{error}");
    assert_eq!(store.files().await, files);

    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let failing = OnNewTier::AddAfter(Arc::new(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Err(Error::new(ErrorKind::Unavailable, "open", "full"))
    }));
    let error = store.open_with(failing).await.err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(store.numbers().await, (0, vec![]));
    assert_eq!(store.files().await.len(), files.len() + 1, "a marker");
    let passing = OnNewTier::AddAfter(Arc::new(|| Ok(())));
    store.open_with(passing).await.unwrap();
    assert_eq!(store.numbers().await, (1, vec![0]));
    let unused = OnNewTier::AddAfter(Arc::new(|| panic!("the tier is there")));
    store.open_with(unused).await.unwrap();
    store.open_with(OnNewTier::Refuse).await.unwrap();
    assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn lost_older_tier_is_trouble() {
    let store = SeveralTiers::new(2).await;
    let tiers = store.open(1, &[0]).await.unwrap();
    assert!(tiers.trouble().is_none());
    store.tiers[0].delete(MARKER_PATH).await.unwrap();
    let error = tiers.check_owner().await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::BlobTier));
    assert!(tiers.trouble().is_some());
}
