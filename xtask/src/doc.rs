//! `cargo xtask doc`: METRICS.md, from the metrics as the collectors declare them.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::command::{cargo, output, root};

/// Write METRICS.md from the declared metrics.
///
/// Names, types, labels and meanings come from the collectors, so the page cannot differ from what is exported.
#[derive(Args)]
pub(crate) struct Options {
    /// Write nothing: fail when METRICS.md is not what would be written.
    #[arg(long)]
    pub(crate) check: bool,
}

/// Writes or compares.
pub(crate) fn run(options: &Options) -> Result<()> {
    let text = output(&mut cargo(["run", "--quiet", "--package=xtask", "--example=metrics"])?)?;
    let path = root()?.join("METRICS.md");
    if !options.check {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: written", path.display());
        return Ok(());
    }
    let old =
        fs::read_to_string(&path).context("cannot read METRICS.md: run `cargo xtask doc` and commit it")?;
    if let Some(line) = difference(&old, &text) {
        bail!("METRICS.md is stale from line {line} on: run `cargo xtask doc` and commit it");
    }
    println!("METRICS.md is up to date");
    Ok(())
}

/// The first line in which two texts differ.
fn difference(old: &str, new: &str) -> Option<usize> {
    let same = old.split('\n').zip(new.split('\n')).take_while(|(old, new)| old == new).count();
    (old != new).then_some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(difference("a\n", "a\nb\n"), Some(2));
        assert_eq!(difference("", "a\n"), Some(1));
    }
}
