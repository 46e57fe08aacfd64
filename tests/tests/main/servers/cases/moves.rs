//! Copies and renames.

use cenotaph::{Engine, ErrorKind};
use cenotaph_tests::store::payload;

use super::{LARGE, MEDIUM, SMALL, assert_holds, bytes, put};

pub(super) async fn copy_is_independent_of_its_source(engine: &Engine) {
    for length in [SMALL, MEDIUM, LARGE] {
        let from = format!("from/{length}");
        let to = format!("to/{length}");
        engine
            .put(&from, payload(1, length))
            .content_type("image/png")
            .await
            .unwrap();
        assert!(
            engine
                .copy(&from, &to)
                .if_absent()
                .await
                .unwrap()
                .unwrap()
                .created
        );
        let refused = engine.copy(&from, &to).if_absent().await.unwrap_err();
        assert!(
            matches!(refused.kind(), ErrorKind::Conflict { current: Some(_) }),
            "{refused:?}"
        );
        put(engine, &from, 2, length).await;
        assert_holds(engine, &to, 1, length).await;
        assert!(!engine.copy(&from, &to).await.unwrap().unwrap().created);
        engine.delete(&from).await.unwrap();
        engine.settle().await.unwrap();
        assert_holds(engine, &to, 2, length).await;
    }
    assert_eq!(engine.copy("absent", "other").await.unwrap(), None);
    let types = engine
        .head(format!("to/{LARGE}"))
        .await
        .unwrap()
        .unwrap()
        .metadata
        .attributes
        .content_type;
    assert_eq!(types, None, "the second source has no content type");
}

pub(super) async fn renamed_object_keeps_its_content(engine: &Engine) {
    for length in [SMALL, MEDIUM, LARGE] {
        let [a, b, c] = ["a", "b", "c"].map(|name| format!("{name}/{length}"));
        engine
            .put(&a, payload(1, length))
            .content_type("image/png")
            .await
            .unwrap();
        put(engine, &c, 2, length).await;
        engine.rename(&a, &b).if_absent().await.unwrap().unwrap();
        assert_eq!(bytes(engine, &a).await, None);
        // Another object takes the old name, which is still part of the path of the renamed blobs.
        put(engine, &a, 3, length).await;
        engine.rename(&b, &c).await.unwrap().unwrap();
        engine.settle().await.unwrap();
        assert_holds(engine, &a, 3, length).await;
        assert_holds(engine, &c, 1, length).await;
        let renamed = engine.head(&c).await.unwrap().unwrap();
        assert_eq!(
            renamed.metadata.attributes.content_type.as_deref(),
            Some("image/png")
        );
    }
    assert_eq!(engine.rename("absent", "other").await.unwrap(), None);
}
