//! What a run says: a table of figures, each a median with its range, beside the aim and the peers.

use std::fmt::Write as _;

/// The figures of the rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// Adds the figure of a round, unless it is none (a ratio of nothing to nothing).
    pub(super) fn push(&mut self, figure: f64) {
        if figure.is_finite() {
            self.0.push(figure);
            self.0.sort_by(f64::total_cmp);
        }
    }

    /// The figure in the middle; `None` without any.
    pub(super) fn median(&self) -> Option<f64> {
        let (len, at) = (self.0.len(), self.0.len() / 2);
        match len {
            0 => None,
            _ if len % 2 == 1 => Some(self.0[at]),
            _ => Some((self.0[at - 1] + self.0[at]) / 2.0),
        }
    }

    /// The median and, if they differ in what is shown, the lowest and the highest, with so many digits after the point.
    pub(super) fn show(&self, digits: usize, unit: &str) -> String {
        let (Some(median), Some(low), Some(high)) = (self.median(), self.0.first(), self.0.last()) else {
            return "not measured".to_owned();
        };
        let text = |figure: f64| format!("{figure:.digits$}");
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let (median, low, high) = (text(median), text(*low), text(*high));
        if low == high { format!("{median}{unit}") } else { format!("{median}{unit} ({low} to {high})") }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        let mut this = Self::default();
        figures.into_iter().for_each(|figure| this.push(figure));
        this
    }
}

/// A line of the table.
struct Row {
    measure: String,
    podmeter: String,
    aim: &'static str,
    peers: &'static str,
}

impl Row {
    fn cells(&self) -> [&str; 4] {
        [&self.measure, &self.podmeter, self.aim, self.peers]
    }
}

const HEAD: [&str; 4] = ["measure", "podmeter", "aim", "peers"];

/// The table, as it grows.
pub(super) struct Report {
    machine: String,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// An empty one, of this machine.
    pub(super) fn new(machine: String) -> Self {
        Self { machine, rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a figure; without an aim or peers to compare with, their text is empty.
    pub(super) fn row(
        &mut self,
        measure: impl Into<String>,
        podmeter: String,
        aim: &'static str,
        peers: &'static str,
    ) {
        self.rows.push(Row { measure: measure.into(), podmeter, aim, peers });
    }

    /// Adds a remark below the table.
    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row.cells()[column].chars().count());
            cells.chain([HEAD[column].len()]).max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2), width(3)];
        let line = |cells: [&str; 4]| {
            let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
        };
        let rule = widths.map(|width| "-".repeat(width));
        let mut text =
            format!("\n{}\n\n{}{}", self.machine, line(HEAD), line(rule.each_ref().map(String::as_str)));
        for row in &self.rows {
            text += &line(row.cells());
        }
        text += "\n";
        for note in &self.notes {
            _ = writeln!(text, "{note}");
        }
        text
    }

    /// For the README.
    pub(super) fn markdown(&self) -> String {
        let line =
            |cells: [&str; 4]| format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
        let mut text = format!("{}\n\n{}| --- | --- | --- | --- |\n", self.machine, line(HEAD));
        for row in &self.rows {
            text += &line(row.cells());
        }
        for note in &self.notes {
            _ = write!(text, "\n{note}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let samples = |figures: &[f64]| figures.iter().copied().collect::<Samples>();
        assert_eq!(samples(&[]).median(), None);
        assert_eq!(samples(&[3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(samples(&[f64::NAN, 1.0]).median(), Some(1.0), "what is no number is left out");
        assert_eq!(samples(&[1.0, 2.25]).show(1, "ms"), "1.6 ms (1.0 to 2.2)");
        assert_eq!(samples(&[2.0, 2.0]).show(0, ""), "2");
        assert_eq!(samples(&[]).show(0, "ms"), "not measured");
    }

    #[test]
    fn tables_have_all_rows() {
        let mut report = Report::new("a machine".to_owned());
        report.row("cost", "1 ns".to_owned(), "2 ns", "");
        report.note("a note".to_owned());
        assert_eq!(
            report.markdown(),
            "a machine\n\n| measure | podmeter | aim | peers |\n| --- | --- | --- | --- |\n| cost | 1 ns | 2 ns |  |\n\na note\n"
        );
        assert!(report.text().contains("\ncost     1 ns      2 ns\n"), "{}", report.text());
    }
}
