//! The status page, for people: what is measured, what is not and why.

use std::fmt::Write as _;

use crate::registry::Registry;

/// Renders the page.
pub fn page(registry: &Registry) -> String {
    let mut rows = String::new();
    for verdict in registry.probes.verdicts() {
        _ = writeln!(
            rows,
            "<tr><td>{}<td>{}<td class={state}>{state}<td>{}",
            verdict.signal,
            verdict.program,
            escape(&verdict.reason),
            state = verdict.state.as_str(),
        );
    }
    let containers = registry.tree.all().filter(|(_, workload)| workload.container_id.is_some()).count();
    let shown = registry.tree.shown().count();
    let losses: String = registry
        .health
        .losses()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("<li>{reason}: {count}\n"))
        .collect();
    let pods = registry.pods.as_ref().map_or_else(String::new, |shared| {
        let pods = shared.lock();
        let trouble = match pods.message() {
            "" => String::new(),
            message => format!(" No news of them: {}.", escape(message)),
        };
        format!("<p>{} pods are known by name.{trouble}\n", pods.len())
    });
    let losses = if losses.is_empty() { "<p>Nothing.".to_owned() } else { format!("<ul>{losses}</ul>") };
    format!(
        "<!doctype html><meta charset=utf-8><title>podmeter</title>\n\
         <style>body{{font:15px sans-serif;margin:2em;max-width:70em}}td,th{{text-align:left;padding:.2em .8em}}\
         .attached{{color:#070}}.failed,.unsupported{{color:#a00}}.degraded{{color:#960}}</style>\n\
         <h1>podmeter {}</h1>\n<p><a href=/metrics>/metrics</a> <a href=/livez>/livez</a> <a href=/readyz>/readyz</a>\n\
         <p>{shown} workloads, {containers} of them containers; {} cgroups.\n{pods}\
         <h2>Probes</h2>\n<table><tr><th>signal<th>program<th>state<th>why\n{rows}</table>\n\
         <h2>Not counted where it belongs</h2>\n{losses}\n",
        env!("CARGO_PKG_VERSION"),
        registry.tree.len(),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
