//! `members`: lists the processes that have a shared store open, by the clock of its index.

use std::time::Duration;

use cenotaph::{MemberInfo, WallTime};
use serde_json::{Value, json};

use crate::store::OpenStore;
use crate::ui::failure::Failure;
use crate::ui::human::{self, Align};
use crate::ui::report::Report;

/// Runs `members`.
pub(crate) async fn run(store: &OpenStore, report: &Report) -> Result<(), Failure> {
    if !store.is_shared {
        return Err(Failure::Failed(
            "the store is not shared: its index is in the data directory, which one process at a \
             time has open; --index names a shared index"
                .to_owned(),
        ));
    }
    let (members, now) = store.engine.members().await?;
    if report.is_json() {
        return members
            .iter()
            .try_for_each(|member| report.json(&in_json(member, now)));
    }
    let mut rows = vec![["epoch", "name", "since", "heartbeat", "pins", ""].map(str::to_owned)];
    rows.extend(members.iter().map(|member| in_row(member, now)));
    let [left, right] = [Align::Left, Align::Right];
    report.text(&human::table(
        [right, left, left, right, right, left],
        &rows,
    ))
}

/// Returns the time since the last heartbeat of a member.
fn heartbeat_age(member: &MemberInfo, now: WallTime) -> Duration {
    Duration::from_millis(now.as_millis().saturating_sub(member.beaten.as_millis()))
}

/// Returns a member for scripts.
fn in_json(member: &MemberInfo, now: WallTime) -> Value {
    let age = heartbeat_age(member, now);
    json!({
        "epoch": member.epoch.get(),
        "name": member.name,
        "since_ms": member.since.as_millis(),
        "heartbeat_ms": member.beaten.as_millis(),
        "heartbeat_age_ms": u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        "pins": member.pins,
        "is_self": member.is_self,
    })
}

/// Returns a member for people.
fn in_row(member: &MemberInfo, now: WallTime) -> [String; 6] {
    let since = cenotaph::Timestamp::from_millis(member.since.as_millis());
    [
        human::grouped(member.epoch.get()),
        human::key(&member.name),
        human::moment(since),
        format!("{} ago", human::duration(heartbeat_age(member, now))),
        human::grouped(member.pins),
        if member.is_self { "this process" } else { "" }.to_owned(),
    ]
}
