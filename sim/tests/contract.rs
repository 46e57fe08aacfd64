//! The simulated index keeps the contract of every index, under many interleavings.

use std::sync::Arc;

use cenotaph::{Index, Result};
use cenotaph_sim::{Controls, Incarnation, Sim};
use cenotaph_storage::index::contract::{self, Subject};
use futures::future::BoxFuture;

struct InWorld(Controls);

impl Subject for InWorld {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Index>>> {
        Box::pin(async { self.0.open_index() })
    }
}

async fn keeps_the_contract(world: Controls) {
    contract::all(&InWorld(world)).await;
}

#[test]
fn simulated_index_keeps_the_contract() {
    for seed in 0..20 {
        assert_eq!(
            Sim::new(seed).run(keeps_the_contract),
            Incarnation::Ended(()),
            "seed {seed}"
        );
    }
}

#[test]
fn real_fjall_in_a_simulated_world_keeps_the_contract() {
    let life = Sim::new(0).on_fjall().unwrap().run(keeps_the_contract);
    assert_eq!(life, Incarnation::Ended(()));
}
