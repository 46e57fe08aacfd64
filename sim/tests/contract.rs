//! The simulated indexes keep the contract of every index, under many interleavings, and the shared
//! one that of a shared index.

use std::sync::Arc;

use cenotaph::{Index, Result};
use cenotaph_sim::{Controls, Fault, Faults, Incarnation, Odds, Sim};
use cenotaph_storage::index::contract::shared::SharedSubject;
use cenotaph_storage::index::contract::{self, Subject};
use futures::future::BoxFuture;

struct InWorld(Controls);

impl Subject for InWorld {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Index>>> {
        Box::pin(self.0.open_index())
    }
}

/// Handles that are members of one index, each in a process of its own.
struct Members(Controls);

impl Members {
    fn process(&self) -> Controls {
        self.0.member("member", 600_000)
    }
}

impl Subject for Members {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Index>>> {
        Box::pin(async { self.process().open_index().await })
    }
}

impl SharedSubject for Members {
    fn declare_dead<'a>(&'a self, index: &'a dyn Index) -> BoxFuture<'a, ()> {
        Box::pin(async {
            let epoch = index.shared().unwrap().epoch();
            let other = self.process().open_index().await.unwrap();
            loop {
                let shared = other.shared().unwrap();
                let members = shared.members().await.unwrap();
                let member = members.iter().find(|member| member.epoch == epoch);
                // The member may beat in between.
                if shared
                    .declare_dead(epoch, member.unwrap().beat)
                    .await
                    .unwrap()
                {
                    break;
                }
            }
            other.close().await.unwrap();
        })
    }

    fn disturb(&self) -> Box<dyn Send> {
        let mut faults = Faults::default();
        for fault in [
            Fault::IndexCutBefore,
            Fault::IndexCutDuring,
            Fault::IndexCutAfter,
        ] {
            faults.set(fault, Odds::in_ten_thousand(1_000));
        }
        self.0.set_faults(faults);
        Box::new(Calm(self.0.clone()))
    }
}

/// Ends the faults when it is dropped.
struct Calm(Controls);

impl Drop for Calm {
    fn drop(&mut self) {
        self.0.quieten();
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
fn shared_index_keeps_both_contracts() {
    let mut seen = Vec::new();
    for seed in 0..10 {
        let mut sim = Sim::new(seed).shared();
        let life = sim.run(async |world| {
            contract::all(&Members(world.clone())).await;
            contract::shared::all(&Members(world)).await;
        });
        assert_eq!(life, Incarnation::Ended(()), "seed {seed}");
        // The entries of the contract are no objects, so that the claims about objects do not hold.
        let coverage = sim.coverage();
        seen.push(coverage.of("index: a lost commit was found"));
        assert!(
            coverage.of("index: a lost commit was refused") > 0,
            "{coverage}"
        );
        assert!(coverage.of("index: a commit was refused") > 0, "{coverage}");
        assert!(coverage.of("index: a batch had changed") > 0, "{coverage}");
    }
    assert!(seen.iter().all(|&times| times > 0), "{seen:?}");
}

#[test]
fn real_fjall_in_a_simulated_world_keeps_the_contract() {
    let life = Sim::new(0).on_fjall().unwrap().run(keeps_the_contract);
    assert_eq!(life, Incarnation::Ended(()));
}
