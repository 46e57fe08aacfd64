//! Hook of planted bugs: a world may change the plan of a swap or of a step of an upload.
//!
//! ```text
//! shard ──plan──> tamper::swap, tamper::step ──plan──> apply
//!                      └─ World::tamper: changes a DecidedSwap or a DecidedStep
//! ```
//!
//! The environment is below the decisions and can't name their types, so the world receives them as
//! [`Any`](std::any::Any). Without the feature `planted`, the plan is returned unchanged.

use crate::decide::{Plan, PutResult, Swap, SwapReply, SwapView, UploadStep, UploadView};
use crate::env::Env;
use crate::types::Timestamp;

/// A swap whose plan a world may change.
#[derive(Clone, Debug)]
pub struct DecidedSwap {
    /// Swap.
    pub swap: Swap,
    /// State that the plan was decided on.
    pub view: SwapView,
    /// Time of the decision.
    pub now: Timestamp,
    /// Plan of the swap.
    pub plan: Plan<SwapReply>,
}

/// A step of an upload whose plan a world may change.
#[derive(Clone, Debug)]
pub struct DecidedStep {
    /// Step.
    pub step: UploadStep,
    /// State that the plan was decided on.
    pub view: UploadView,
    /// Plan of the step.
    pub plan: Plan<Option<PutResult>>,
}

/// Returns the plan of a swap, as the world has changed it.
#[cfg(feature = "planted")]
pub fn swap(
    env: &Env,
    swap: &Swap,
    view: SwapView,
    now: Timestamp,
    plan: Plan<SwapReply>,
) -> Plan<SwapReply> {
    let mut decided = DecidedSwap {
        swap: swap.clone(),
        view,
        now,
        plan,
    };
    env.tamper(&mut decided);
    decided.plan
}

/// Returns the plan of a swap.
#[cfg(not(feature = "planted"))]
pub fn swap(
    _: &Env,
    _: &Swap,
    _: SwapView,
    _: Timestamp,
    plan: Plan<SwapReply>,
) -> Plan<SwapReply> {
    plan
}

/// Returns the plan of a step of an upload, as the world has changed it.
#[cfg(feature = "planted")]
pub fn step(
    env: &Env,
    step: &UploadStep,
    view: UploadView,
    plan: Plan<Option<PutResult>>,
) -> Plan<Option<PutResult>> {
    let mut decided = DecidedStep {
        step: step.clone(),
        view,
        plan,
    };
    env.tamper(&mut decided);
    decided.plan
}

/// Returns the plan of a step of an upload.
#[cfg(not(feature = "planted"))]
pub fn step(
    _: &Env,
    _: &UploadStep,
    _: UploadView,
    plan: Plan<Option<PutResult>>,
) -> Plan<Option<PutResult>> {
    plan
}
