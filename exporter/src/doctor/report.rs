//! What the doctor found, for people.

use std::fmt::Write as _;

use super::{
    container::Explanation,
    machine::Machine,
    signal::{Health, Judgement},
};

/// The machine.
pub fn machine(machine: &Machine) -> String {
    let missing = machine.missing_capabilities();
    let btf = match &machine.btf {
        Ok(types) => format!("{types} types"),
        Err(error) => format!("none: {error}"),
    };
    let mut cgroups = machine.layout().to_owned();
    if let Some(root) = &machine.v2 {
        _ = write!(cgroups, ", v2 at {}", root.display());
        if !machine.v2_controllers.is_empty() {
            _ = write!(cgroups, " with {}", machine.v2_controllers.join(" "));
        }
    }
    if !machine.v1_controllers.is_empty() {
        _ = write!(cgroups, "; on v1: {}", machine.v1_controllers.join(" "));
    }
    let foreign = match &machine.foreign {
        Ok(programs) if programs.is_empty() => "none".to_owned(),
        Ok(programs) => programs.join("; "),
        Err(error) => format!("cannot be asked for: {error}"),
    };
    let rows = [
        ("kernel", format!("{} ({})", machine.kernel, machine.architecture)),
        ("BTF", btf),
        ("cgroups", cgroups),
        (
            "capabilities",
            if missing.is_empty() {
                "all that it needs".to_owned()
            } else {
                format!("without {}", missing.join(", "))
            },
        ),
        ("lockdown", machine.lockdown.clone().unwrap_or_else(|| "not told".to_owned())),
        ("packet programs at the root", foreign),
    ];
    table(&rows.map(|(name, text)| vec![name.to_owned(), text]))
}

/// The signals, one row each, and below it what is wrong with it.
pub fn signals(judgements: &[Judgement]) -> String {
    let mut rows = Vec::new();
    for judgement in judgements {
        let what = if judgement.health == Health::Works { judgement.summary } else { "" };
        rows.push(vec![judgement.signal.to_owned(), judgement.health.as_str().to_owned(), what.to_owned()]);
        // Programs that lack the same for the same reason share a line.
        let mut told: Vec<(Vec<&str>, String)> = Vec::new();
        for finding in &judgement.findings {
            let remedy = finding.remedy.as_ref().map(|remedy| format!(" -> {remedy}")).unwrap_or_default();
            let text = format!("{}: {}{remedy}", finding.state.as_str(), finding.reason);
            match told.iter_mut().find(|(_, known)| *known == text) {
                Some((programs, _)) => programs.push(finding.program),
                None => told.push((vec![finding.program], text)),
            }
        }
        let lines = told.into_iter().map(|(programs, text)| format!("{} {text}", programs.join(", ")));
        rows.extend(lines.map(|line| vec![String::new(), String::new(), line]));
    }
    table(&rows)
}

/// A container.
pub fn container(explanation: &Explanation) -> String {
    let [received, sent, accepted, opened] = explanation.tcp;
    let (served, made) = explanation.requests;
    let mut text = format!(
        "{}\n{served} requests served, {made} made; TCP: {received} bytes received, {sent} sent, {accepted} connections \
         accepted, {opened} opened, since the agent started\n",
        explanation.ids.join("\n")
    );
    let intro = if explanation.has_requests() {
        "It has request data. What it may not show:"
    } else {
        "No request data, because:"
    };
    match (explanation.reasons.is_empty(), explanation.has_requests()) {
        (true, true) => text += "It has request data, and nothing hints at more.\n",
        (true, false) => {
            text += "No request data, and nothing that would explain it: none of its connections spoke HTTP/1 to its end yet.\n"
        }
        _ => _ = writeln!(text, "{intro}"),
    }
    explanation.reasons.iter().for_each(|reason| _ = writeln!(text, "- {}", reason.text));
    text
}

/// Columns, as wide as they have to be.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|at| width(at).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "one".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&rows), "a     one\nlong\n");
    }
}
