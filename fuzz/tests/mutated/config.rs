//! The configuration of an engine, with its namespaces: JSON from outside.

use cenotaph::{Config, Env, Namespace, NamespaceLimits};
use cenotaph_actors::Namespaces;
use cenotaph_fuzz::Target;

use super::contract::assert_typed;

/// Buffers of the parser, and a whole configuration, which has no size in its text.
const BUFFERS: u64 = 128 * 1024;

#[test]
fn configuration() {
    let whole = serde_json::to_string(&Config::default()).unwrap();
    let some = r#"{ "inline_bytes_max": 65536, "limits": { "uploads_at_once": 8 },
        "namespaces": { "exports/org=17": { "operations_at_once": 4, "bytes_per_second": 10000000,
        "operations_per_second": 50, "disabled": false }, "default": { "disabled": true } } }"#;
    let target = Target::new("configuration", [whole, some.to_owned()]).buffers(BUFFERS);
    target.run_text(|text| {
        let Ok(config) = serde_json::from_str::<Config>(text) else {
            return false;
        };
        let again = serde_json::to_string(&config).expect("a configuration is text");
        assert_eq!(serde_json::from_str::<Config>(&again).unwrap(), config);
        match config.check() {
            Ok(()) => {
                for namespace in config.namespaces.keys() {
                    namespace.parse::<Namespace>().expect("checked");
                }
            }
            Err(error) => assert_typed(&error),
        }
        true
    });
}

#[test]
fn limits_of_a_namespace() {
    let limits =
        r#"{ "operations_at_once": 4, "operations_per_second": 50, "bytes_per_second": 1 }"#;
    let default = serde_json::to_string(&NamespaceLimits::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _context = runtime.enter();
    let namespaces = Namespaces::new(Env::real().unwrap());
    let exports = Namespace::new("exports").unwrap();
    let target = Target::new("limits of a namespace", [limits.to_owned(), default]);
    target.buffers(BUFFERS).run_text(|text| {
        let Ok(limits) = serde_json::from_str::<NamespaceLimits>(text) else {
            return false;
        };
        match namespaces.set(&exports, limits.clone()) {
            Ok(()) => {
                assert_eq!(namespaces.get(&exports), limits);
                // Each amount passes or is refused.
                for bytes in [0, 1, u64::MAX] {
                    let permit = namespaces.begin(&exports, "put");
                    drop(permit.and_then(|permit| permit.charge(bytes)));
                }
            }
            Err(error) => assert_typed(&error),
        }
        true
    });
}
