//! Listings of uploads and parts with unreadable keys.

use std::collections::BTreeSet;

use cenotaph::MultipartUpload;

use super::*;

const UPLOADS: u64 = 120;
const PARTS: u16 = 120;
/// Keyspace of the table of uploads and parts.
const SESSIONS: u32 = 5;

fn film(number: u64) -> String {
    format!("film{number:04}")
}

/// Creates a store with open uploads, the last of which has many parts. Two blocks of their table
/// are damaged: one contains uploads, the other parts.
async fn with_damaged_uploads(data: &Path) -> cenotaph::UploadId {
    let store = open(data, small()).await;
    for number in 0..UPLOADS {
        store
            .engine
            .multipart(film(number))
            .content_type("video/mp4")
            .await
            .unwrap();
    }
    let upload = store.engine.multipart("parts").await.unwrap();
    for number in 1..=PARTS {
        upload
            .part(u32::from(number), payload(u64::from(number), 10))
            .await
            .unwrap();
    }
    store.flush().await;
    let upload_id = upload.upload_id();
    store.close().await;
    let table = largest(data, SESSIONS, "tables");
    flip(&table, 20);
    flip(&table, 65);
    upload_id
}

/// Lists the parts page by page. Returns the numbers of the readable parts and the number of
/// unreadable ranges.
async fn listed_parts(upload: &MultipartUpload, limit: usize) -> (BTreeSet<u16>, usize) {
    let mut numbers = BTreeSet::new();
    let mut ranges = 0;
    let mut list = upload.parts().limit(limit).step_over_damage();
    loop {
        let page = list.clone().await.unwrap();
        numbers.extend(page.parts.iter().map(|part| part.number.get()));
        ranges += page.unreadable.len();
        let Some(next) = page.next else {
            return (numbers, ranges);
        };
        list = list.start_after(next);
    }
}

/// Lists the uploads page by page. Returns the number of readable uploads and the number of
/// unreadable ranges.
async fn listed_uploads(engine: &Engine, limit: usize) -> (u64, usize) {
    let mut list = engine.list_uploads("film").limit(limit).step_over_damage();
    let mut count = 0;
    let mut ranges = 0;
    loop {
        let page = list.clone().await.unwrap();
        count += page.uploads.len() as u64;
        ranges += page.unreadable.len();
        let Some(next) = page.next else {
            return (count, ranges);
        };
        list = list.start_after(next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_of_uploads_and_parts_step_over_unreadable_keys() {
    let data = TempDir::new().unwrap();
    let upload_id = with_damaged_uploads(data.path()).await;
    let engine = open(data.path(), small()).await.engine;

    let error = engine.list_uploads("").await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Corrupt && error.to_string().contains("table=sessions"),
        "{error}"
    );
    let items: Vec<_> = engine
        .list_uploads("film")
        .limit(20)
        .stream()
        .collect()
        .await;
    let (uploads, errors): (Vec<_>, Vec<_>) = items.into_iter().partition(Result::is_ok);
    assert_eq!(errors.len(), 1);
    assert!(
        (UPLOADS as usize - 60..UPLOADS as usize).contains(&uploads.len()),
        "{} uploads",
        uploads.len()
    );
    let mut missing: BTreeSet<u64> = (0..UPLOADS).collect();
    for upload in uploads {
        let key = upload.unwrap().id.key().to_owned();
        assert!(
            missing.remove(&key["film".len()..].parse().unwrap()),
            "{key} is listed twice"
        );
    }
    let first = *missing.first().unwrap();
    let last = *missing.last().unwrap();
    assert_eq!(
        last - first + 1,
        missing.len() as u64,
        "a single block is missing: {missing:?}"
    );
    for limit in [1, 7, 1000] {
        assert_eq!(
            listed_uploads(&engine, limit).await,
            (UPLOADS - missing.len() as u64, 1),
            "limit={limit}"
        );
    }

    let upload = engine.upload("parts", upload_id).unwrap();
    let error = upload.parts().await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Corrupt && error.to_string().contains("table=sessions"),
        "{error}"
    );
    let (expected, ranges) = listed_parts(&upload, 1000).await;
    assert!(
        ranges == 1 && (PARTS as usize - 80..PARTS as usize).contains(&expected.len()),
        "{expected:?}"
    );
    for limit in [1, 7] {
        assert_eq!(
            listed_parts(&upload, limit).await,
            (expected.clone(), 1),
            "limit={limit}"
        );
    }
    engine.close().await.unwrap();
}
