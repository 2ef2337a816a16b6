//! Prints METRICS.md: `cargo xtask doc` runs this.

use podmeter::{
    Section, catalogue,
    collector::cadvisor::{DIFFERENCES, Difference, How, MISSING, Of, With},
    snapshot::{Kind, Metric},
};

const HEAD: &str = "# Metrics

Written by `cargo xtask doc` from what the collectors declare; change it there.

A metric of a container carries the labels `id name image namespace pod container`, as cAdvisor's do, and its own
after them. `id` is the cgroup's path and always there; labels that would be empty are left out, so outside Kubernetes
there is no `namespace` or `pod`. A series ends with its container.

A pod's own series lack `container`. Of the metrics that cAdvisor has too they are about all that is in the pod, as cAdvisor's are; of
the others only about what is in none of its containers, as the pause container is, so that nothing is in a sum twice.
";

fn main() {
    print!("{}", page(&catalogue()));
}

fn page(sections: &[Section]) -> String {
    sections.iter().fold(HEAD.to_owned(), |page, section| page + &chapter(section)) + &beside()
}

const BESIDE: &str = "
## Beside cAdvisor

A test runs pods under a real kubelet and compares what both have, all series and labels (but for `node`, which is ours), and each of
cAdvisor's values with what podmeter says before and after. They differ in this, and in nothing else:

";

/// Where we do not say what a kubelet's cAdvisor says.
fn beside() -> String {
    let page = DIFFERENCES.iter().fold(BESIDE.to_owned(), |page, difference| page + &differs(difference));
    MISSING.iter().fold(page + "\nWhat only cAdvisor has:\n\n", |page, (metrics, reason)| {
        page + &format!("* {}: {reason}\n", quoted(metrics))
    })
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ")
}

fn differs(difference: &Difference) -> String {
    let of = difference.of.iter().map(|of| match of {
        Of::Node => "the node",
        Of::Slice => "slices",
        Of::Pod => "pods",
        Of::Pause => "pause containers",
        Of::Container => "containers",
    });
    let of = of.collect::<Vec<_>>().join(", ");
    let how = match difference.how {
        How::OnlyTheirs => "only cAdvisor",
        How::OnlyOurs => "only podmeter",
        How::Values => "values",
    };
    let with = match difference.with {
        With::Any => "",
        With::V1 => ", with cgroup v1",
        With::V2 => ", with cgroup v2",
    };
    let what = if difference.metrics.is_empty() { "everything".into() } else { quoted(difference.metrics) };
    format!("* {how}, of {of}{with}: {what}. {}\n", difference.reason)
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
