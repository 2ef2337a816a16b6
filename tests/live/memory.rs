//! Memory: against the memory controller's own files.

use std::{fs, os::unix::process::ExitStatusExt as _};

use podmeter_tests::{agent::Agent, cgroup::Cgroup, process::Gated, scrape::Scrape, temp::TempDir, wait};

const MIB: u64 = 1 << 20;

/// Holds anonymous memory, and 16 MiB of page cache and more of which some is mapped: of a copy of the program that runs.
fn hold(cgroup: &Cgroup, directory: &TempDir, mebibytes: u64) -> Gated {
    let copy = directory.path().join(format!("perl{mebibytes}")).display().to_string();
    let script = "cp \"$(command -v perl)\" \"$0\" && dd if=/dev/zero of=\"$0.data\" bs=1M count=16 status=none && \
                  sync \"$0\" \"$0.data\" && exec \"$0\" -e \"$1\"";
    let hold = format!("$| = 1; vec($x, ({mebibytes} << 20) - 1, 8) = 1; print qq(held\\n); sleep 1000");
    let mut process = cgroup.spawn(&["/bin/sh", "-c", script, &copy, &hold]);
    process.go();
    assert_eq!(process.line(), "held");
    process.asleep();
    process
}

/// A metric, its own labels, and its value.
type Expected = (&'static str, Vec<(&'static str, &'static str)>, u64);

/// What the files say.
fn files(cgroup: &Cgroup) -> Vec<Expected> {
    let is_v2 = cgroup.is_on_v2("memory");
    let stat = |v1: &str, v2: &str| cgroup.stat("memory", "memory.stat", if is_v2 { v2 } else { v1 });
    let usage = cgroup.memory_usage();
    let inactive = stat("total_inactive_file", "inactive_file");
    let mut all = vec![
        ("container_memory_usage_bytes", vec![], usage),
        ("container_memory_working_set_bytes", vec![], usage.saturating_sub(inactive)),
        ("container_memory_rss", vec![], stat("total_rss", "anon")),
        ("container_memory_cache", vec![], stat("total_cache", "file")),
        ("container_memory_mapped_file", vec![], stat("total_mapped_file", "file_mapped")),
        ("container_memory_total_active_file_bytes", vec![], stat("total_active_file", "active_file")),
        ("container_memory_total_inactive_file_bytes", vec![], inactive),
        ("container_oom_events_total", vec![], cgroup.oom_kills()),
    ];
    all.extend(if is_v2 { v2_files(cgroup) } else { v1_files(cgroup) });
    for scope in ["container", "hierarchy"] {
        for (kind, name) in [("pgfault", "total_pgfault"), ("pgmajfault", "total_pgmajfault")] {
            let labels = vec![("failure_type", kind), ("scope", scope)];
            all.push(("container_memory_failures_total", labels, stat(name, kind)));
        }
    }
    all
}

fn v1_files(cgroup: &Cgroup) -> Vec<Expected> {
    let file = |name| cgroup.number("memory", name);
    // The largest multiple of a page is no limit, which is 0 in a scrape.
    let limit = Some(file("memory.limit_in_bytes")).filter(|limit| *limit < 1 << 62).unwrap_or(0);
    vec![
        ("container_memory_max_usage_bytes", vec![], file("memory.max_usage_in_bytes")),
        ("container_memory_failcnt", vec![], file("memory.failcnt")),
        ("container_spec_memory_limit_bytes", vec![], limit),
    ]
}

fn v2_files(cgroup: &Cgroup) -> Vec<Expected> {
    // `max` is no limit.
    let limit = cgroup.read("memory", "memory.max").trim().parse().unwrap_or(0);
    let mut all = vec![("container_spec_memory_limit_bytes", vec![], limit)];
    // The one since 5.19; the other with swap accounting only.
    let rest = [
        ("container_memory_max_usage_bytes", "memory.peak"),
        ("container_memory_swap", "memory.swap.current"),
    ];
    for (name, file) in rest {
        if cgroup.controller("memory").join(file).exists() {
            all.push((name, vec![], cgroup.number("memory", file)));
        }
    }
    all
}

/// Waits until a scrape says of the cgroup what its files say before and after, all of it.
fn agree(agent: &Agent, cgroup: &Cgroup) -> Scrape {
    let mut differences = Vec::new();
    let asked = |differences: &mut Vec<String>| {
        let (before, scrape, after) = (files(cgroup), agent.scrape(), files(cgroup));
        *differences = Vec::new();
        for (name, labels, value) in &before {
            let labels = [&[("id", cgroup.path())], &labels[..]].concat();
            let own = scrape.value(name, &labels);
            if own != Some(*value as f64) {
                differences.push(format!("{name}: {own:?}, and the file says {value}"));
            }
        }
        (before == after && differences.is_empty()).then_some(scrape)
    };
    let scrape = wait::perhaps(|| asked(&mut differences));
    scrape.unwrap_or_else(|| panic!("{}: {differences:#?}", cgroup.path()))
}

fn source(scrape: &Scrape, name: &str) -> f64 {
    scrape.value("podmeter_memory_source", &[("source", name)]).expect("the source")
}

#[test]
fn the_iterator_and_the_files_say_what_the_kernel_says() {
    let directory = TempDir::on_disk("memory");
    let cgroups: Vec<_> = (0..3).map(|number| Cgroup::new(&format!("quiet{number}"))).collect();
    // The first has a limit that it hits: page cache goes, and the failures count.
    cgroups[0].limit_memory(72 * MIB);
    let sizes = [64, 16, 32];
    let held: Vec<_> =
        cgroups.iter().zip(sizes).map(|(cgroup, size)| hold(cgroup, &directory, size)).collect();
    let iterating = Agent::start(&["--signals", "memory"]);
    // Without BTF there is no iterator.
    let sysfs = TempDir::new("sysfs");
    let reading = Agent::start(&["--signals", "memory", "--sysfs", &sysfs.path().display().to_string()]);
    iterating.scrape_until("order of the kernel's statistics", |scrape| source(scrape, "iterator") == 1.0);
    for (cgroup, mebibytes) in cgroups.iter().zip(sizes) {
        let (first, second) = (agree(&iterating, cgroup), agree(&reading, cgroup));
        assert_eq!((source(&first, "iterator"), source(&first, "files")), (1.0, 0.0));
        assert_eq!((source(&second, "iterator"), source(&second, "files")), (0.0, 1.0));
        let own = |name| first.value(name, &[("id", cgroup.path())]).expect("its series");
        assert!(own("container_memory_rss") >= (mebibytes * MIB) as f64, "anonymous memory is there");
        assert!(
            own("container_memory_cache") > 0.0 && own("container_memory_mapped_file") > 0.0,
            "page cache is there"
        );
        let is_v2 = cgroup.is_on_v2("memory");
        for (name, there) in [("container_memory_swap", is_v2), ("container_memory_failcnt", !is_v2)] {
            let own = first.value(name, &[("id", cgroup.path())]);
            assert_eq!(own.is_some(), there, "{name}: of one version only");
        }
    }
    let value = |cgroup: &Cgroup, name| agree(&iterating, cgroup).value(name, &[("id", cgroup.path())]);
    let limit = |cgroup: &Cgroup| value(cgroup, "container_spec_memory_limit_bytes");
    assert_eq!(limit(&cgroups[0]), Some((72 * MIB) as f64));
    assert_eq!(limit(&cgroups[1]), Some(0.0), "no limit");
    let hits = if cgroups[0].is_on_v2("memory") {
        cgroups[0].stat("memory", "memory.events", "max")
    } else {
        cgroups[0].number("memory", "memory.failcnt")
    };
    assert!(hits > 0, "it hit its limit");
    // It changes while the agent runs.
    cgroups[1].limit_memory(100 * MIB);
    assert_eq!(limit(&cgroups[1]), Some((100 * MIB) as f64));
    drop(held);
    for cgroup in &cgroups {
        agree(&iterating, cgroup);
    }
}

/// Has a process killed that wants more than the cgroup may have.
fn kill_by_oom(cgroup: &Cgroup) {
    cgroup.limit_memory(16 * MIB);
    let mut process = cgroup.spawn(&["perl", "-e", "$x = 'x' x (64 << 20); sleep 1000"]);
    process.go();
    let status = process.end();
    assert_eq!(status.signal(), Some(9), "the kernel kills it: {status}");
    assert_eq!(cgroup.oom_kills(), 1);
}

fn oom_series<'a>(scrape: &'a Scrape, path: &str) -> Option<&'a str> {
    let id = format!("{{id=\"{path}\",");
    scrape.0.lines().find(|line| {
        line.strip_prefix("container_oom_events_total").is_some_and(|rest| rest.starts_with(&id))
    })
}

/// Without BTF nobody reports the death, and nobody can be asked any more: what the last scrape read stays.
#[test]
fn an_oom_kill_stays_when_the_death_is_found_by_walking() {
    let sysfs = TempDir::new("no-btf");
    let agent = Agent::start(&["--signals", "memory", "--sysfs", &sysfs.path().display().to_string()]);
    let cgroup = Cgroup::new("greedy");
    let path = cgroup.path().to_owned();
    kill_by_oom(&cgroup);
    let kills = |scrape: &Scrape| scrape.value("container_oom_events_total", &[("id", &path)]);
    assert_eq!(kills(&agent.scrape()), Some(1.0));
    cgroup.remove();
    for scrape in 0..5 {
        assert_eq!(kills(&agent.scrape()), Some(1.0), "scrape {scrape} after its death");
    }
}

#[test]
fn an_oom_kill_outlives_its_cgroup() {
    let agent = Agent::start(&["--signals", "memory"]);
    for seen in [true, false] {
        let cgroup = Cgroup::new("greedy");
        let path = cgroup.path().to_owned();
        let alive = agent.scrape();
        assert_eq!(alive.value("container_oom_events_total", &[("id", &path)]), Some(0.0));
        kill_by_oom(&cgroup);
        if seen {
            assert_eq!(
                agree(&agent, &cgroup).value("container_oom_events_total", &[("id", &path)]),
                Some(1.0)
            );
        }
        cgroup.remove();
        let expected = oom_series(&alive, &path).map(|line| line.replace(" 0", " 1")).expect("its series");
        for scrape in 0..5 {
            assert_eq!(
                oom_series(&agent.scrape(), &path),
                Some(&*expected),
                "scrape {scrape}, seen before: {seen}"
            );
        }
        let left = agent.scrape();
        assert_eq!(left.value("container_memory_usage_bytes", &[("id", &path)]), None, "only the kills stay");
        // What has the path that it had goes on with its count.
        let again = Cgroup::at(&path);
        assert_eq!(oom_series(&agent.scrape(), &path), Some(&*expected), "the same path again");
        kill_by_oom(&again);
        let twice = agent.scrape().value("container_oom_events_total", &[("id", &path)]);
        assert_eq!(twice, Some(2.0));
    }
}

#[test]
fn pressure_is_what_the_files_say() {
    let cgroup = Cgroup::new("pressed");
    let directory = TempDir::on_disk("pressure");
    let input = format!("if={}", directory.file("file", vec![1; 4 << 20]));
    let agent = Agent::start(&["--signals", "pressure"]);
    let sysfs = TempDir::new("sysfs");
    let reading = Agent::start(&["--signals", "pressure", "--sysfs", &sysfs.path().display().to_string()]);
    // Two on one CPU wait for it, and reads past the page cache wait for the device.
    let spin = "taskset -pc 0 $$ > /dev/null; while :; do :; done";
    let read = "while :; do dd \"$0\" iflag=direct bs=64k of=/dev/null status=none; done";
    let mut processes = [spin, spin, read].map(|script| cgroup.spawn(&["/bin/sh", "-c", script, &input]));
    processes.iter_mut().for_each(|process| _ = process.go());
    // Before anything reads the files, which makes the kernel add up.
    let own = |scrape: &Scrape, name: &str| scrape.value(name, &[("id", cgroup.path())]);
    agent.scrape_until("pressure", |scrape| {
        ["cpu", "io"]
            .iter()
            .all(|of| own(scrape, &format!("container_pressure_{of}_waiting_seconds_total")) > Some(0.0))
    });
    drop(processes);
    let total = |file: &str, kind: &str| {
        let text = fs::read_to_string(cgroup.v2().join(file)).expect("CONFIG_PSI");
        // Before 5.13 there is no account of stalls for want of CPU.
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.rsplit_once("total=").and_then(|(_, micros)| micros.parse::<u64>().ok())
    };
    let expected = || {
        ["cpu", "memory", "io"].map(|resource| {
            [("waiting", "some"), ("stalled", "full")].map(|(what, kind)| {
                let name = format!("container_pressure_{resource}_{what}_seconds_total");
                (name, total(&format!("{resource}.pressure"), kind).map(|micros| micros as f64 / 1e6))
            })
        })
    };
    for agent in [&agent, &reading] {
        let mut last = None;
        let agree = wait::perhaps(|| {
            let (before, scrape, after) = (expected(), agent.scrape(), expected());
            let found =
                before.each_ref().map(|of| of.each_ref().map(|(name, _)| (name.clone(), own(&scrape, name))));
            let agree = before == after && found == after;
            last = Some((found, after));
            agree.then_some(())
        });
        assert!(agree.is_some(), "the scrape and the files: {last:#?}");
    }
}
