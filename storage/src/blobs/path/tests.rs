//! Tests of blob paths.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::{PATH_BYTES_MAX, from_path, is_long, older_path, path, revision_at};
use crate::types::{ErrorKind, KEY_BYTES_MAX, Namespace, ObjectId, RevisionId, RevisionKey};

const UUID: u128 = 0x0198_c5a2_1f00_7abc_8def_0000_0000_007f;

fn revision_of(namespace: &Namespace, key: &str, uuid: u128) -> RevisionKey {
    let object = ObjectId::new(namespace, key).unwrap();
    RevisionKey {
        object,
        revision: RevisionId::from_uuid(Uuid::from_u128(uuid)),
    }
}

fn revision(key: &str) -> RevisionKey {
    revision_of(&Namespace::default_namespace(), key, UUID)
}

fn namespaces() -> impl Strategy<Value = Namespace> {
    let part = "[A-Za-z0-9._-]{1,128}";
    (part, proptest::collection::vec((part, part), 0..=8)).prop_map(|(usecase, scopes)| {
        let namespace = Namespace::new(&usecase).unwrap();
        scopes.iter().fold(namespace, |namespace, (scope, value)| {
            namespace.with_scope(scope, value).unwrap()
        })
    })
}

fn keys() -> impl Strategy<Value = String> {
    let any_text = proptest::collection::vec(any::<char>(), 1..=KEY_BYTES_MAX).prop_map(|chars| {
        let mut key = String::new();
        for c in chars {
            if key.len() + c.len_utf8() <= KEY_BYTES_MAX {
                key.push(c);
            }
        }
        key
    });
    // A small alphabet yields keys that differ by case, by dots and slashes, and by the characters
    // that escaping and cutting add.
    prop_oneof![any_text, "[aA./!@%2f=-]{1,12}", "[a-c./]{150,200}"]
}

proptest! {
    #[test]
    fn path_identifies_its_revision(namespace in namespaces(), key in keys(), uuid: u128) {
        let revision = revision_of(&namespace, &key, uuid);
        let path = path(&revision);
        prop_assert_eq!(revision_at(&path), Some(revision.revision));
        match older_path(&revision) {
            None => prop_assert_eq!(from_path(&path).unwrap(), revision),
            Some(older) => {
                prop_assert!(is_long(&revision.object));
                prop_assert_eq!(from_path(&path).unwrap_err().kind(), ErrorKind::Invalid);
                prop_assert_eq!(revision_at(&older), Some(revision.revision));
                prop_assert_eq!(from_path(&older).unwrap(), revision);
            }
        }
    }

    #[test]
    fn path_has_a_fan_out_and_safe_characters(
        namespace in namespaces(),
        key in keys(),
        uuid: u128,
    ) {
        let path = path(&revision_of(&namespace, &key, uuid));
        let is_safe = |c: char| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.=%!@~".contains(c)
        };
        let (fan, file) = path.split_once('/').unwrap();
        prop_assert!(path.len() <= PATH_BYTES_MAX && PATH_BYTES_MAX == 219);
        prop_assert_eq!(fan.len(), 2);
        prop_assert!((37..=216).contains(&file.len()));
        prop_assert_eq!(file.matches('@').count(), 1);
        prop_assert!(file.chars().all(is_safe));
    }

    #[test]
    fn long_name_is_cut_between_two_characters(
        key in "\\PC{170,300}|[aé漢😀/]{100,300}",
        uuid: u128,
    ) {
        let revision = revision_of(&Namespace::default_namespace(), &key, uuid);
        prop_assume!(is_long(&revision.object));
        let path = path(&revision);
        let (beginning, _) = path["ff/default!".len()..].split_once("~@").unwrap();
        let whole = older_path(&revision).unwrap()["ff/default!".len()..].replace('/', "");
        prop_assert!(whole.starts_with(beginning));
        let plain = unescaped(beginning);
        prop_assert!(key.starts_with(std::str::from_utf8(&plain).unwrap()), "{:?}", plain);
        // The beginning has as many characters as fit.
        let next = key[plain.len()..].chars().next().unwrap();
        prop_assert!("default!".len() + beginning.len() + 3 * next.len_utf8() >= 178);
    }

    #[test]
    fn paths_differ_even_if_case_is_folded(
        revisions in proptest::collection::vec((keys(), 0_u128..3), 2..20)
    ) {
        let mut owners = BTreeMap::new();
        for (key, uuid) in revisions {
            let revision = revision_of(&Namespace::default_namespace(), &key, uuid);
            let folded = path(&revision).to_ascii_lowercase();
            let owner = owners.entry(folded).or_insert(revision.clone());
            prop_assert_eq!(owner, &revision);
        }
    }

    #[test]
    fn decoded_paths_encode_to_themselves(
        text in "[0-9a-f]{2}/[a-f/!@%0-9.]{0,40}@[0-9a-f-]{36}|\\PC{0,80}",
    ) {
        match from_path(&text) {
            Ok(key) => prop_assert_eq!(older_path(&key).unwrap_or_else(|| path(&key)), text),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid),
        }
    }

    #[test]
    fn damaged_path_is_another_path_or_none(
        key in keys(),
        at: proptest::sample::Index,
        with in any::<char>(),
    ) {
        let whole = path(&revision(&key));
        let mut chars: Vec<char> = whole.chars().collect();
        let place = at.index(chars.len());
        chars[place] = with;
        let damaged: String = chars.into_iter().collect();
        match from_path(&damaged) {
            Ok(key) => prop_assert_eq!(older_path(&key).unwrap_or_else(|| path(&key)), damaged),
            // The result may be the beginning of another long name.
            Err(_) if damaged.contains("~@") => {}
            Err(_) => prop_assert_eq!(revision_at(&damaged), None),
        }
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut pieces = text.split('%');
    let mut plain = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        plain.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        plain.extend_from_slice(&piece.as_bytes()[2..]);
    }
    plain
}

#[test]
fn stored_form_of_paths_is_stable() {
    let scoped = Namespace::new("Photos")
        .unwrap()
        .with_scope("org", "17")
        .unwrap();
    let fixtures = [
        (
            revision("a"),
            "7f/default!a@0198c5a2-1f00-7abc-8def-00000000007f".to_owned(),
        ),
        (
            revision("../..//Ä b\n@!%.txt"),
            "7f/default!..%2f..%2f%2f%c3%84%20b%0a%40%21%25.txt\
             @0198c5a2-1f00-7abc-8def-00000000007f"
                .to_owned(),
        ),
        (
            revision_of(&scoped, "holidays/2026/Beach.jpg", UUID - 1),
            "7e/%50hotos%2forg=17!holidays%2f2026%2f%42each.jpg\
             @0198c5a2-1f00-7abc-8def-00000000007e"
                .to_owned(),
        ),
    ];
    for (key, literal) in fixtures {
        assert_eq!(path(&key), literal);
        assert_eq!(from_path(&literal).unwrap(), key);
    }
}

#[test]
fn stored_form_of_long_paths_is_stable() {
    let uuid = "0198c5a2-1f00-7abc-8def-00000000007f";
    let fixtures = [
        // A byte longer than the longest name that is not long.
        (
            "k".repeat(172),
            format!("7f/default!{}~@{uuid}", "k".repeat(170)),
            format!("7f/default!{}/@{uuid}", "k".repeat(172)),
        ),
        (
            format!("{}Z", "k".repeat(360)),
            format!("7f/default!{}~@{uuid}", "k".repeat(170)),
            format!(
                "7f/default!{}/{}/kkkkkkkk%5a@{uuid}",
                "k".repeat(172),
                "k".repeat(180)
            ),
        ),
        (
            format!("k{}", "é".repeat(40)),
            format!("7f/default!k{}~@{uuid}", "%c3%a9".repeat(28)),
            format!(
                "7f/default!k{}%c3/%a9{}@{uuid}",
                "%c3%a9".repeat(28),
                "%c3%a9".repeat(11)
            ),
        ),
    ];
    for (key, cut, older) in fixtures {
        let key = revision(&key);
        assert_eq!(path(&key), cut);
        assert_eq!(older_path(&key).unwrap(), older);
        assert_eq!(revision_at(&cut), Some(key.revision));
        assert_eq!(from_path(&older).unwrap(), key);
    }
    let longest = revision(&"k".repeat(171));
    assert_eq!(
        path(&longest),
        format!("7f/default!{}@{uuid}", "k".repeat(171))
    );
    assert_eq!(older_path(&longest), None);
}

#[test]
fn other_spellings_of_a_long_path_are_invalid() {
    let good = path(&revision(&"k".repeat(200)));
    assert!(revision_at(&good).is_some());
    let spellings = [
        good.replace("7f/", "7e/"),
        good.replace("7f/", "7F/"),
        good.replace("7f/", "7f/a/"),
        good.replace('~', "~~"),
        good.replace('~', "k~"),
        good.replace("kkkkkkkkkkkkk~", "~"),
        good.replace("kkk~", "%6b~"),
        good.replace("kkk~", "%c3%~"),
        good.replace("kkk~", "%C3~"),
        good.replace("kkk~", "k!k~"),
        good.replace("kkk~", "k/k~"),
        good.replace("-1f00-", ""),
        good.to_uppercase(),
    ];
    for spelling in spellings {
        assert_eq!(revision_at(&spelling), None, "{spelling:?}");
    }
}

#[test]
fn other_spellings_of_a_path_are_invalid() {
    let good = path(&revision("a"));
    let spellings = [
        String::new(),
        "/".to_owned(),
        format!("/{good}"),
        format!("{good}/"),
        good.to_uppercase(),
        good.replace("7f/", "7e/"),
        good.replace("7f/", ""),
        good.replace("!a", "!%61"),
        good.replace("!a", "!"),
        good.replace("!a", "!a%"),
        good.replace("!a", "!/a"),
        good.replace("!a", "!A"),
        good.replace("default!", "default%00x!"),
        good.replace("default!", "!"),
        good.replace("default!", "x y!"),
        good.replace("-1f00-", ""),
        good.replace('@', ""),
    ];
    for spelling in spellings {
        assert_eq!(
            from_path(&spelling).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{spelling:?}"
        );
    }
}
