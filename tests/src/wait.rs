//! Waiting for what the kernel or another process does in its own time: asked again until it is so, with an end.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::support::Place;

/// How long anything may take on a machine that is busy with other things, and on one that is emulated.
fn patience() -> Duration {
    Duration::from_secs(if Place::here().is_guest() { 120 } else { 30 })
}

/// Asks until there is an answer.
///
/// # Panics
/// When there is none for half a minute, in a guest for two.
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    perhaps(ask).unwrap_or_else(|| panic!("waited in vain: {what}"))
}

/// Asks until there is an answer; `None` as long after as [`until`] panics.
pub fn perhaps<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience();
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= deadline {
            return answer;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
