//! A step of the load, and what is seen of it.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use super::plane::Plane;

/// After which nothing more is expected.
const LIMIT: Duration = Duration::from_secs(150);

/// Where the load goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    Up(f64),
    Down(f64),
}

/// After how many seconds something was seen; none within the limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The API's number has left what it was by a tenth of the step.
    moved: Option<f64>,
    /// It is within a tenth of the step of what it will be.
    arrived: Option<f64>,
    /// The autoscaler wants another number of replicas.
    decided: Option<f64>,
    /// How often the API had no number, of five times a second.
    silences: usize,
}

impl Level {
    /// From nothing to so many cores.
    pub(super) fn up(cores: f64) -> Self {
        Self::Up(cores)
    }

    /// From so many cores to nothing.
    pub(super) fn down(cores: f64) -> Self {
        Self::Down(cores)
    }

    /// Waits until everyone has seen it.
    pub(super) fn wait(self, begin: Instant, planes: &[Plane; 3]) -> Vec<Seen> {
        let look = |plane: &Plane| {
            let since = |at: Option<Instant>| at.map(|at| (at - begin).as_secs_f64());
            let (Self::Up(cores) | Self::Down(cores)) = self;
            let (end, replicas) = if matches!(self, Self::Up(_)) { (cores, 2) } else { (0.0, 1) };
            let (before, after) = plane.said(begin);
            let first =
                |is_it: &dyn Fn(f64) -> bool| after.iter().find(|(_, used)| is_it(*used)).map(|(at, _)| *at);
            let is_far = |from: f64, to: f64| (from - to).abs() > cores / 10.0;
            Seen {
                moved: since(first(&|used| before.is_some_and(|before| is_far(before, used)))),
                arrived: since(first(&|used| !is_far(used, end))),
                decided: since(plane.decided(begin, replicas)),
                silences: plane.silences(begin),
            }
        };
        loop {
            let seen: Vec<_> = planes.iter().map(look).collect();
            let is_whole = |seen: &Seen| seen.arrived.is_some() && seen.decided.is_some();
            if seen.iter().all(is_whole) || begin.elapsed() > LIMIT {
                for (plane, _) in planes.iter().zip(&seen).filter(|(_, seen)| !is_whole(seen)) {
                    println!("{} has not seen it: {}", plane.name, plane.says());
                }
                return seen;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The medians and the longest, as a table for people.
pub(super) fn table(names: &[&str; 3], seen: &[Vec<Seen>; 3]) -> String {
    let mut text =
        format!("| {} steps, seconds: median / 90 % / longest | {} |\n", seen[0].len(), names.join(" | "));
    _ = writeln!(text, "|---|---|---|---|");
    let rows: [(&str, fn(&Seen) -> Option<f64>); 3] = [
        ("the API's number moves", |seen| seen.moved),
        ("it has arrived", |seen| seen.arrived),
        ("the HPA decides", |seen| seen.decided),
    ];
    for (name, of) in rows {
        let cells = seen.each_ref().map(|seen| {
            let known: Vec<_> = seen.iter().filter_map(of).collect();
            let never = if known.len() == seen.len() {
                String::new()
            } else {
                format!(", {} never", seen.len() - known.len())
            };
            format!("{}{never}", cell(known))
        });
        _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    let silences =
        seen.each_ref().map(|seen| seen.iter().map(|seen| seen.silences).sum::<usize>().to_string());
    _ = writeln!(text, "| answers without a number, of five a second | {} |", silences.join(" | "));
    text
}

/// The median, what nine of ten are within, and the longest.
pub(super) fn cell(mut seconds: Vec<f64>) -> String {
    seconds.sort_by(f64::total_cmp);
    let at = |part: f64| seconds.get(((seconds.len() as f64 * part).ceil() as usize).saturating_sub(1));
    let (Some(median), Some(most), Some(longest)) = (at(0.5), at(0.9), seconds.last()) else {
        return "never".to_owned();
    };
    format!("{median:.1} / {most:.1} / {longest:.1}")
}
