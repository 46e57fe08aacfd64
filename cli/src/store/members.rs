//! Other members of a shared store: processes that have it open beside this one.

use std::collections::BTreeMap;
use std::time::Duration;

use cenotaph::{Engine, Env, MemberInfo};

use crate::ui::failure::Failure;

/// Interval between two looks at the members.
const LOOK: Duration = Duration::from_millis(250);
/// Time after which a member counts as alive although neither its heartbeat nor its death was seen.
/// Several times longer than the lease of a member.
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until each other member has sent a heartbeat or is gone, and returns the names of those that
/// live. The engine declares a member dead whose heartbeat stands still, so that this takes a moment
/// if all of them live, and the lease of a member if one of them was killed.
///
/// # Errors
/// The errors of reading the members.
pub(crate) async fn live_others(engine: &Engine, env: &Env) -> Result<Vec<String>, Failure> {
    let mut first = BTreeMap::new();
    let mut waited = Duration::ZERO;
    loop {
        let (members, _) = engine.members().await?;
        let others = || members.iter().filter(|member| !member.is_self);
        let mut has_beaten = |member: &&MemberInfo| {
            let beaten = *first.entry(member.epoch).or_insert(member.beaten);
            beaten != member.beaten
        };
        // Of every member, so that each has a first heartbeat to compare with.
        let live = others().filter(|member| has_beaten(member)).count();
        if live == others().count() || waited >= PATIENCE {
            return Ok(others().map(|member| member.name.clone()).collect());
        }
        env.sleep(LOOK).await;
        waited += LOOK;
    }
}

/// Returns the names of members as a list for people.
pub(crate) fn listed(names: &[String]) -> String {
    names.join("; ")
}
