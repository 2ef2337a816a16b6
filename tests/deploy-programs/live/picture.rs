//! A dashboard as a picture: where Grafana would put its panels, with what they show. For people to look at; no test reads it.

use std::fmt::Write as _;

use serde_json::Value;

/// A column of Grafana's grid, and a row of it, in pixels.
const COLUMN: f64 = 64.0;
const ROW: f64 = 32.0;
const COLOURS: [&str; 8] =
    ["#73bf69", "#5794f2", "#f2cc0c", "#ff780a", "#b877d9", "#f2495c", "#8ab8ff", "#c0d8ff"];

/// Series with their legends and points.
type Lines = Vec<(String, Vec<(f64, f64)>)>;

/// What a panel shows.
pub(crate) struct Panel<'a> {
    panel: &'a Value,
    lines: Lines,
    values: Vec<(String, f64)>,
}

impl<'a> Panel<'a> {
    pub(crate) fn new(panel: &'a Value) -> Self {
        Self { panel, lines: Vec::new(), values: Vec::new() }
    }

    /// Adds what a query gave, over time and now.
    pub(crate) fn add(&mut self, legend: &str, range: Vec<(Value, Vec<(f64, f64)>)>, now: Vec<(Value, f64)>) {
        self.lines.extend(range.into_iter().map(|(labels, points)| (named(legend, &labels), points)));
        let table = self.panel["type"] == "table";
        let name = |labels: &Value| if table { all(labels) } else { named(legend, labels) };
        self.values.extend(now.into_iter().map(|(labels, value)| (name(&labels), value)));
    }

    fn at(&self, key: &str) -> f64 {
        self.panel["gridPos"][key].as_f64().unwrap_or(0.0)
    }

    fn unit(&self) -> &str {
        self.panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or("")
    }

    fn draw(&self, out: &mut String) {
        let (x, y) = (self.at("x") * COLUMN, self.at("y") * ROW);
        let (width, height) = (self.at("w") * COLUMN - 8.0, self.at("h") * ROW - 8.0);
        let title = escape(self.panel["title"].as_str().unwrap_or(""));
        _ = write!(out, "<g transform='translate({x},{y})'>");
        if self.panel["type"] == "row" {
            _ = write!(out, "<text x='4' y='20' class='row'>{title}</text></g>");
            return;
        }
        _ = write!(
            out,
            "<rect width='{width}' height='{height}' class='panel'/><text x='8' y='18' class='title'>{title}</text>"
        );
        match self.panel["type"].as_str() {
            Some("stat") => {
                let text =
                    self.values.first().map_or("no data".into(), |(_, value)| readable(*value, self.unit()));
                _ = write!(
                    out,
                    "<text x='{}' y='{}' class='stat'>{text}</text>",
                    width / 2.0,
                    height / 2.0 + 22.0
                );
            }
            Some("table") => {
                for (index, (name, value)) in
                    self.values.iter().take(((height - 30.0) / 16.0) as usize).enumerate()
                {
                    let y = 38.0 + 16.0 * index as f64;
                    let value = readable(*value, self.unit());
                    _ = write!(
                        out,
                        "<text x='8' y='{y}'>{}</text><text x='{}' y='{y}' text-anchor='end'>{value}</text>",
                        escape(name),
                        width - 8.0
                    );
                }
            }
            Some("heatmap") => self.heatmap(out, width, height),
            _ => self.lines(out, width, height),
        }
        out.push_str("</g>");
    }

    fn lines(&self, out: &mut String, width: f64, height: f64) {
        let (left, right, top, bottom) = (70.0, width - 8.0, 28.0, height - 56.0);
        let points =
            || self.lines.iter().flat_map(|(_, points)| points).filter(|(_, value)| value.is_finite());
        let highest = points().map(|point| point.1).fold(0.0, f64::max);
        let highest = if highest > 0.0 { highest } else { 1.0 };
        let (from, to) =
            points().fold((f64::MAX, f64::MIN), |(from, to), (time, _)| (from.min(*time), to.max(*time)));
        for (part, value) in [(0.0, highest), (0.5, highest / 2.0), (1.0, 0.0)] {
            let y = top + part * (bottom - top);
            let value = readable(value, self.unit());
            _ = write!(
                out,
                "<path d='M{left},{y}H{right}' class='grid'/><text x='{}' y='{}' text-anchor='end'>{value}</text>",
                left - 4.0,
                y + 4.0
            );
        }
        for (index, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let place = |(time, value): &(f64, f64)| {
                let x = left + (time - from) / (to - from).max(1.0) * (right - left);
                format!("{x:.1},{:.1}", bottom - value / highest * (bottom - top))
            };
            let points: Vec<_> = points.iter().filter(|(_, value)| value.is_finite()).map(place).collect();
            _ = write!(out, "<polyline points='{}' stroke='{colour}'/>", points.join(" "));
            let (column, row) = (index % 2, index / 2);
            if row < 3 {
                let x = 8.0 + column as f64 * width / 2.0;
                let y = bottom + 18.0 + 14.0 * row as f64;
                let most = (width / 2.0 / 7.5) as usize;
                let name: String = name.chars().take(most).collect();
                _ = write!(out, "<text x='{x}' y='{y}' style='fill:{colour}'>{}</text>", escape(&name));
            }
        }
    }

    fn heatmap(&self, out: &mut String, width: f64, height: f64) {
        let mut rows: Vec<_> =
            self.lines.iter().filter_map(|(le, points)| Some((le.parse::<f64>().ok()?, points))).collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (left, top, bottom) = (70.0, 28.0, height - 10.0);
        let tall = (bottom - top) / rows.len().max(1) as f64;
        let mut below: Vec<f64> = Vec::new();
        let highest =
            self.lines.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(1.0, f64::max);
        for (index, (le, points)) in rows.iter().enumerate() {
            let y = bottom - (index + 1) as f64 * tall;
            _ = write!(
                out,
                "<text x='{}' y='{}' text-anchor='end'>{}</text>",
                left - 4.0,
                y + tall - 2.0,
                readable(*le, "s")
            );
            below.resize(points.len(), 0.0);
            let wide = (width - left - 8.0) / points.len().max(1) as f64;
            for (column, (_, value)) in points.iter().enumerate() {
                let own = (value - below[column]).max(0.0);
                below[column] = *value;
                let x = left + column as f64 * wide;
                let opacity = (own / highest).sqrt();
                _ = write!(
                    out,
                    "<rect x='{x:.1}' y='{y:.1}' width='{wide:.1}' height='{tall:.1}' fill='#ff780a' opacity='{opacity:.2}'/>"
                );
            }
        }
    }
}

/// A picture under way.
pub(crate) struct Drawing {
    title: String,
    body: String,
    height: f64,
}

impl Drawing {
    pub(crate) fn new(title: &str) -> Self {
        Self { title: escape(title), body: String::new(), height: 0.0 }
    }

    pub(crate) fn add(&mut self, panel: &Panel<'_>) {
        panel.draw(&mut self.body);
        self.height = self.height.max((panel.at("y") + panel.at("h")) * ROW);
    }

    /// The picture, as SVG.
    pub(crate) fn finish(self) -> String {
        let (width, height) = (24.0 * COLUMN + 8.0, self.height + 48.0);
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}'><style>\
             text{{font:11px sans-serif;fill:#ccccdc}}.title{{font-weight:bold}}.row{{font-size:15px}}\
             .stat{{font-size:30px;text-anchor:middle;fill:#73bf69}}.panel{{fill:#181b1f;stroke:#2c3235}}\
             .grid{{stroke:#2c3235}}polyline{{fill:none;stroke-width:1.5}}</style>\
             <rect width='100%' height='100%' fill='#111217'/><text x='8' y='28' class='row'>{}</text>\
             <g transform='translate(8,44)'>{}</g></svg>\n",
            self.title, self.body
        )
    }
}

/// A legend with its labels filled in.
fn named(legend: &str, labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    let filled = labels.fold(legend.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{{{name}}}}}"), value.as_str().unwrap_or(""))
    });
    // What a series does not have.
    let mut parts = filled.split("{{");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once("}}").map_or(part, |(_, after)| after))
}

fn all(labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    labels.map(|(name, value)| format!("{name}={} ", value.as_str().unwrap_or(""))).collect()
}

fn readable(value: f64, unit: &str) -> String {
    let scaled = |value: f64, step: f64, names: &[&str]| {
        let power =
            names.iter().enumerate().rposition(|(power, _)| value >= step.powi(power as i32)).unwrap_or(0);
        format!("{:.3} {}", value / step.powi(power as i32), names[power])
    };
    match unit {
        "bytes" => scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB"]),
        "Bps" => scaled(value, 1000.0, &["B/s", "kB/s", "MB/s", "GB/s"]),
        "s" => scaled(value * 1e6, 1000.0, &["µs", "ms", "s"]),
        "percentunit" => format!("{:.1} %", value * 100.0),
        _ => format!("{value:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
