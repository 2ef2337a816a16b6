//! The README's table of kernels and signals, from the results of the last run.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use anyhow::{Context as _, Result, bail};

use super::matrix::{Found, RESULTS, Support};
use crate::command::root;

const START: &str =
    "<!-- kernels: `cargo xtask vm table` writes this from the results of `cargo xtask vm run` -->\n";
const END: &str = "<!-- the end of kernels -->\n";

/// Writes it, or checks that it is what it would be.
pub(super) fn run(check: bool) -> Result<()> {
    let root = root()?;
    let text = fs::read_to_string(root.join(RESULTS)).context("no results: `cargo xtask vm run` first")?;
    let found: Vec<Found> = serde_json::from_str(&text).context(RESULTS)?;
    let table = render(&found, &Support::read()?);
    let readme = root.join("README.md");
    let old = fs::read_to_string(&readme).context("README.md")?;
    let new = replace(&old, &table)?;
    if new == old {
        return Ok(());
    }
    if check {
        bail!("README.md does not say what was found:\n{table}\nrun `cargo xtask vm table` and commit it");
    }
    Ok(fs::write(readme, new)?)
}

fn replace(text: &str, table: &str) -> Result<String> {
    let (before, rest) = text.split_once(START).with_context(|| format!("README.md has no {START}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("README.md has no {END}"))?;
    Ok(format!("{before}{START}{table}{END}{after}"))
}

fn render(found: &[Found], support: &Support) -> String {
    let plain: Vec<_> = found.iter().filter(|one| one.leg == "plain" && !one.signals.is_empty()).collect();
    let mut text = String::from("\n| |");
    plain.iter().for_each(|one| _ = write!(text, " {} |", one.kernel));
    text += "\n| --- |";
    plain.iter().for_each(|_| text += " --- |");
    text += "\n";
    let names = plain.first().map(|one| one.signals.iter().map(|signal| &signal.name)).into_iter().flatten();
    for name in names {
        _ = write!(text, "| `{name}` |");
        for one in &plain {
            let health =
                one.signals.iter().find(|signal| signal.name == *name).map_or("", |signal| &signal.health);
            _ = write!(text, " {health} |");
        }
        text += "\n";
    }
    text += "\n";
    let kernels: BTreeSet<_> = plain.iter().map(|one| one.kernel.as_str()).collect();
    for (of, note) in support.notes(&kernels) {
        _ = writeln!(text, "* {of}: {note}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::matrix::Signal;

    #[test]
    fn a_column_for_each_kernel() {
        let mut found = Found::new("6.12", "linux-image", "plain");
        let signal = |name: &str, health: &str| Signal {
            name: name.into(),
            health: health.into(),
            reasons: String::new(),
        };
        found.signals = vec![signal("cpu", "works"), signal("http", "cannot")];
        let other =
            Found { signals: vec![signal("cpu", "degraded")], ..Found::new("5.10", "linux-image", "hybrid") };
        let table = render(&[found, other], &Support::read().expect("the table"));
        assert_eq!(table, "\n| | 6.12 |\n| --- | --- |\n| `cpu` | works |\n| `http` | cannot |\n\n");
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("a\n{START}old\n{END}b\n");
        assert_eq!(replace(&text, "new\n").expect("marks"), format!("a\n{START}new\n{END}b\n"));
        assert!(replace("none", "new").is_err());
    }
}
