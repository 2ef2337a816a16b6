//! A scrape, as text, to be asked for values.

use std::collections::BTreeMap;

/// What the agent answered.
#[derive(Clone, Debug)]
pub struct Scrape(pub String);

impl Scrape {
    /// The value of the only series of this name that has all these labels; `None` if there is none.
    ///
    /// # Panics
    /// When there is more than one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found: Vec<f64> = self.matching(name, labels).collect();
        assert!(found.len() <= 1, "{name} {labels:?} is not one series but {}", found.len());
        found.first().copied()
    }

    /// The sum over every series of this name that has all these labels; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).sum()
    }

    /// The values of every series of this name that has all these labels.
    pub fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = f64> + 'a {
        self.lines(name).filter(|(own, _)| has(own, labels)).map(|(_, value)| value)
    }

    /// The values of a label over every series of this name that has all these labels, sorted, each once.
    pub fn label_values(&self, name: &str, label: &str, labels: &[(&str, &str)]) -> Vec<String> {
        let start = format!("{label}=\"");
        let found = self.lines(name).filter(|(own, _)| has(own, labels)).filter_map(|(own, _)| {
            let rest = own.split(&start).nth(1)?;
            Some(rest.split('"').next()?.to_owned())
        });
        let mut found: Vec<_> = found.collect();
        found.sort();
        found.dedup();
        found
    }

    /// The state that each probe is in, by program.
    pub fn probes(&self) -> BTreeMap<String, String> {
        let state = |program: String| {
            let labels = [("program", &*program)];
            let states = self.label_values("podmeter_probe_state", "state", &labels);
            let is = |state: &String| {
                self.value("podmeter_probe_state", &[labels[0], ("state", state)]) == Some(1.0)
            };
            let state = states.into_iter().find(is).unwrap_or_else(|| "none".to_owned());
            (program, state)
        };
        self.label_values("podmeter_probe_state", "program", &[]).into_iter().map(state).collect()
    }

    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> + 'a {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.trim().parse().ok()?))
        })
    }
}

fn has(own: &str, labels: &[(&str, &str)]) -> bool {
    labels.iter().all(|(name, value)| {
        let wanted = format!("{name}=\"{value}\"");
        own.match_indices(&wanted).any(|(at, _)| at == 0 || own.as_bytes()[at - 1] == b',')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_series() {
        let scrape = Scrape("# HELP a x\na{id=\"/x\",cpu=\"total\"} 1.5\na{id=\"/y\"} 2\nab 7\nb 3\n".into());
        assert_eq!(scrape.value("a", &[("id", "/x")]), Some(1.5));
        assert_eq!(scrape.value("a", &[("id", "/z")]), None);
        assert_eq!(scrape.sum("a", &[]), 3.5);
        assert_eq!(scrape.value("b", &[]), Some(3.0));
        assert_eq!(scrape.label_values("a", "id", &[]), ["/x", "/y"]);
        assert_eq!(scrape.value("a", &[("d", "/x")]), None, "whole label names only");
    }
}
