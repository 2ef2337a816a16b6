//! The agent's life and that of the cgroups: births, deaths, many of them, what a machine may lack, and the end.

mod degraded;
mod ending;
mod names;
mod tree;

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Held by tests that make agents walk the tree and by those that assert that none does.
fn alone() -> MutexGuard<'static, ()> {
    static TREE: Mutex<()> = Mutex::new(());
    TREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No scrape and no event made the agent panic.
fn assert_sound(agent: &podmeter_tests::agent::Agent) {
    let panics: Vec<_> = agent.log().into_iter().filter(|line| line.contains("panic")).collect();
    assert!(panics.is_empty(), "{panics:#?}");
}

/// Cgroups of v2 alone, removed when dropped.
struct Many(Vec<PathBuf>);

impl Drop for Many {
    fn drop(&mut self) {
        self.0.iter().for_each(|directory| _ = fs::remove_dir(directory));
    }
}
