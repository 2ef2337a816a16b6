//! Prints METRICS.md: `cargo xtask doc` runs this.

use podmeter::{
    Section, catalogue,
    snapshot::{Kind, Metric},
};

const HEAD: &str = "# Metrics

Written by `cargo xtask doc` from what the collectors declare; change it there.

A metric of a container carries the labels `id name image namespace pod container`, as cAdvisor's do, and its own
after them. `id` is the cgroup's path and always there; labels that would be empty are left out, so outside Kubernetes
there is no `namespace` or `pod`. A series ends with its container.
";

fn main() {
    print!("{}", page(&catalogue()));
}

fn page(sections: &[Section]) -> String {
    sections.iter().fold(HEAD.to_owned(), |page, section| page + &chapter(section))
}

fn chapter(section: &Section) -> String {
    let head = format!(
        "\n## {}\n\n{}\n\n| Metric | Type | Labels | Meaning |\n| --- | --- | --- | --- |\n",
        section.signal, section.summary
    );
    section.metrics.iter().fold(head, |chapter, metric| chapter + &row(metric))
}

fn row(metric: &Metric) -> String {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let container = metric.per_container.then(|| "the container's".to_owned());
    let own = metric.labels.iter().map(|label| format!("`{label}`"));
    let labels = container.into_iter().chain(own).collect::<Vec<_>>().join(", ");
    format!("| `{}` | {kind} | {labels} | {} |\n", metric.name, metric.help.replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    static METRIC: Metric = Metric {
        name: "container_things_total",
        kind: Kind::Counter,
        help: "Things, big | small.",
        labels: &["size"],
        per_container: true,
    };

    #[test]
    fn a_metric_is_a_row() {
        assert_eq!(
            row(&METRIC),
            "| `container_things_total` | counter | the container's, `size` | Things, big \\| small. |\n"
        );
        assert_eq!(row(&Metric { labels: &[], per_container: false, ..METRIC }).matches("|  |").count(), 1);
    }

    #[test]
    fn every_section_is_a_chapter() {
        let page = page(&catalogue());
        for section in catalogue() {
            assert!(page.contains(&format!("\n## {}\n", section.signal)), "{}", section.signal);
            for metric in section.metrics {
                assert!(page.contains(&format!("| `{}` |", metric.name)), "{}", metric.name);
            }
        }
    }
}
