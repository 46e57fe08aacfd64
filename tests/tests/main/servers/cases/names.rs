//! Names that a server may escape, fold, split or sign differently.

use cenotaph::{Engine, KEY_BYTES_MAX, Namespace, ObjectId};
use cenotaph_tests::store::payload;

use super::{LARGE, MEDIUM, assert_holds, put};

pub(super) async fn awkward_names_are_distinct_blobs(engine: &Engine) {
    let [long, longest, longest_escaped] = [
        "x".repeat(800),
        "é".repeat(KEY_BYTES_MAX / 2),
        "A".repeat(KEY_BYTES_MAX),
    ];
    let keys = [
        "a",
        "A",
        "a/",
        "/a",
        "..",
        "../a",
        "./a",
        "a//b",
        "a\\b",
        "\u{0}",
        "con",
        "é",
        "e\u{301}",
        "a b",
        "a+b",
        "%61",
        "a%2Fb",
        "a@b",
        "a?b=c&d",
        "a#b",
        "a:b",
        "<a>",
        "\"'`",
        "*",
        "~",
        "日本語",
        "🪦",
        " ",
        "\r\n",
        &long,
        &longest,
        &longest_escaped,
    ];
    for (seed, key) in (0..).zip(keys) {
        put(engine, key, seed, MEDIUM).await;
    }
    for (seed, key) in (0..).zip(keys) {
        assert_holds(engine, key, seed, MEDIUM).await;
    }
    assert_eq!(
        engine.usage().await.unwrap().blob_objects,
        keys.len() as u64
    );
    // Blobs in parts: each request repeats the name.
    for (seed, key) in (100..).zip(["a?b=c&d", "日本語", &longest]) {
        put(engine, key, seed, LARGE).await;
        assert_holds(engine, key, seed, LARGE).await;
    }
}

pub(super) async fn namespaces_separate_objects(engine: &Engine) {
    let photos = Namespace::new("photos")
        .unwrap()
        .with_scope("org", "17")
        .unwrap();
    let other = Namespace::new("photos")
        .unwrap()
        .with_scope("org", "18")
        .unwrap();
    let ids = [&photos, &other].map(|namespace| ObjectId::new(namespace, "k").unwrap());
    put(engine, "k", 0, MEDIUM).await;
    for (seed, id) in (1..).zip(&ids) {
        engine.put(id, payload(seed, MEDIUM)).await.unwrap();
    }
    for (seed, id) in (1..).zip(&ids) {
        let found = engine
            .get(id)
            .await
            .unwrap()
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert!(found == payload(seed, MEDIUM), "{id}");
    }
    assert!(engine.delete(&ids[0]).await.unwrap().existed);
    assert_eq!(
        engine
            .delete_prefix("")
            .namespace(other)
            .await
            .unwrap()
            .deleted,
        1
    );
    assert_holds(engine, "k", 0, MEDIUM).await;
}
