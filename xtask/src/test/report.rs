//! What a run says: a heading per step with its duration, and the count of tests that closes it.

use std::{
    fmt::{self, Display},
    time::Instant,
};

use anyhow::{Context as _, Result};

/// The steps so far.
#[derive(Default)]
pub(super) struct Report {
    pub(super) tally: Tally,
}

impl Report {
    /// Runs a step under its heading; a failure names the step, and counts as one if no test was to blame.
    pub(super) fn step<T>(&mut self, name: &str, work: impl FnOnce(&mut Tally) -> Result<T>) -> Result<T> {
        println!("\n==> {name}");
        let (start, failed) = (Instant::now(), self.tally.failed);
        let result = work(&mut self.tally);
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("<== {name}: {verdict} in {:.1} s", start.elapsed().as_secs_f64());
        if result.is_err() && self.tally.failed == failed {
            self.tally.failed += 1;
        }
        result.with_context(|| format!("the step `{name}` failed"))
    }
}

/// How many tests did what.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Adds what a line says, if it is one of those with which a test binary closes.
    pub(crate) fn add(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result: ") else { return };
        let count = |what: &str| {
            let parts = result.split([';', '.']).map(str::trim);
            parts.filter_map(|part| part.strip_suffix(what)?.trim().parse::<u64>().ok()).sum::<u64>()
        };
        self.passed += count("passed");
        self.failed += count("failed");
        self.skipped += count("ignored");
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 { write!(f, ", {} skipped", self.skipped) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_add_up() {
        let mut tally = Tally::default();
        assert_eq!(tally.to_string(), "0 passed, 0 failed");
        tally.add("running 3 tests");
        tally.add(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
        );
        tally.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s");
        assert_eq!(tally, Tally { passed: 15, failed: 2, skipped: 1 });
        assert_eq!(tally.to_string(), "15 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_step_that_fails_without_a_test_counts_once() {
        let mut report = Report::default();
        let error = report.step("lint", |_| -> Result<()> { anyhow::bail!("ugly") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "the step `lint` failed: ugly");
        assert_eq!(report.tally.failed, 1);
        let tests: Result<()> = report.step("tests", |tally| {
            tally.failed += 2;
            anyhow::bail!("two failed")
        });
        assert!(tests.is_err());
        assert_eq!(report.tally.failed, 3);
        assert!(report.step("fine", |_| Ok(())).is_ok());
    }
}
