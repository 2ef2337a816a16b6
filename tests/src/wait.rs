//! Waiting for what the kernel or another process does in its own time: asked again until it is so, with an end.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
///
/// # Panics
/// When there is none for half a minute.
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    perhaps(ask).unwrap_or_else(|| panic!("waited in vain: {what}"))
}

/// Asks until there is an answer; `None` when there is none for half a minute.
pub fn perhaps<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= deadline {
            return answer;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
