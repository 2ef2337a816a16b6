//! What an agent tells an adapter: every container's counters, about once a second, and of those only what changed.
//!
//! The protocol is one gRPC method, `/podmeter.v1.Agent/Watch`, on the address and under the rules of `/metrics`: over TLS and
//! with a token where the agent wants them, as HTTP/2 by ALPN or by prior knowledge. The adapter asks with a [`message::Watch`];
//! the agent answers with [`message::Update`]s until one of them hangs up. The first is full; each later one has what is new,
//! what changed and what ended since the one before, and the time by the agent's own clock, which only ever goes on. A container
//! that is not in an update is as it was: that is exact, not an assumption.
//!
//! Numbers are cumulative, as the kernel counts them; whoever receives them makes rates of them, over a window of its own. A new
//! `instance` means that the agent counts from anew. A field that is missing is not known, and never zero. A receiver that is
//! slow gets fewer updates and none that is old: nothing waits in a queue.
//!
//! What may change within a version: fields are added, and a receiver passes over those that it does not know.

pub mod delta;
pub mod frame;
pub mod message;
pub mod publish;
pub mod serve;

/// The version that is spoken here. An adapter that speaks another is told so.
pub const VERSION: u32 = 1;

/// The path of the only method.
pub const WATCH: &str = "/podmeter.v1.Agent/Watch";
