//! The user's own routes: `--route` and `--route-file`. The kernel half is `exporter-ebpf/src/http/pattern.rs`.

mod kernel;
mod pattern;
mod scope;
mod table;
#[cfg(test)]
mod tests;

use std::{fs, path::Path, str::FromStr};

use anyhow::Context as _;
use exporter_ebpf::http::pattern::MAX_PATTERNS;

pub use self::{kernel::Routes, pattern::Pattern, scope::Scope, table::Table};

/// What the user wrote: a pattern, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The containers that have the pattern; every one without.
    pub scope: Option<Scope>,
    /// The pattern.
    pub pattern: Pattern,
}

impl FromStr for Rule {
    type Err = pattern::Error;

    /// `/PATTERN`, or `CONTAINER: /PATTERN`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scope, pattern) = match text.split_once(": ") {
            Some((scope, pattern)) => (Some(scope), pattern),
            None => (None, text),
        };
        Ok(Self { scope: scope.map(Scope::new), pattern: pattern.trim().parse()? })
    }
}

/// The rules of a file: one a line, but for empty lines and those that begin with `#`.
///
/// # Errors
/// When it cannot be read, or with the first line that is no rule.
pub fn read(path: &Path) -> anyhow::Result<Vec<Rule>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read routes from {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

/// See [`read`].
fn parse(text: &str) -> anyhow::Result<Vec<Rule>> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| line.parse().with_context(|| format!("line {number}: `{line}`"))).collect()
}

/// Refuses more rules than there can be.
///
/// # Errors
/// When there are too many.
pub fn check(rules: &[Rule]) -> anyhow::Result<()> {
    let count = rules.len();
    anyhow::ensure!(count <= MAX_PATTERNS, "there are {count} routes; {MAX_PATTERNS} are allowed");
    Ok(())
}
