//! Names that nobody in his senses gives to a cgroup, and that anyone can.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _};

use podmeter_tests::{agent::Agent, cgroup::Cgroup, process::Gated, wait};

use super::{Many, alone, assert_sound};

const USAGE: &str = "container_cpu_usage_seconds_total";

fn sleeper(cgroup: &Cgroup) -> Gated {
    let mut process = cgroup.spawn(&["sleep", "1000"]);
    process.go();
    process.asleep();
    process
}

/// An event carries no more than 512 bytes of it: the rest is found by walking.
#[test]
fn a_path_of_thousands_of_bytes_is_found() {
    let _alone = alone();
    let agent = Agent::start(&["--signals", "cpu,memory"]);
    let names: Vec<_> = (0..14).map(|level| format!("{level:0>250}")).collect();
    let cgroup = Cgroup::new(&names.join("/"));
    assert!(cgroup.path().len() > 3500);
    let process = sleeper(&cgroup);
    let labels = [("id", cgroup.path())];
    let scrape = agent.scrape();
    assert!(scrape.value(USAGE, &labels) > Some(0.0), "it is charged");
    assert!(scrape.value("container_memory_usage_bytes", &labels) > Some(0.0), "its files are read");
    // Not at once: others on this machine may be about to be known.
    agent.scrape_until("a tree in which every path is known", |scrape| {
        scrape.value("podmeter_cgroups_unresolved", &[]) == Some(0.0)
    });
    let path = cgroup.path().to_owned();
    drop(process);
    cgroup.remove();
    assert!(agent.scrape().value(USAGE, &[("id", &path)]).is_some(), "once more");
    assert_eq!(agent.scrape().value(USAGE, &[("id", &path)]), None);
    assert_sound(&agent);
}

/// A process that takes away what it made when nobody waits for it any more, however the test goes: no other can.
struct Digger(Option<Gated>);

impl Drop for Digger {
    fn drop(&mut self) {
        _ = self.0.take().map(Gated::end);
    }
}

/// Deeper than any path can be written: nobody can open it by name, only step by step.
#[test]
fn a_tree_that_is_too_deep_to_be_named_is_counted_as_unreadable() {
    let _alone = alone();
    let base = Cgroup::new("deep");
    // It is itself in another cgroup: one that has a process cannot be removed.
    let script = "$| = 1; $name = 'd' x 200; chdir shift or die; \
                  for (1..40) { mkdir $name or die $!; chdir $name or die $! } print qq(made\\n); <STDIN>; \
                  for (1..40) { chdir '..' or die $!; rmdir $name or die $! }";
    let outside = Cgroup::new("digger");
    let agent = Agent::start(&["--signals", "cpu"]);
    let mut digger = Digger(Some(outside.spawn(&["perl", "-e", script, &base.v2().display().to_string()])));
    let said = digger.0.as_mut().map(|process| process.go().line());
    assert_eq!(said.as_deref(), Some("made"));
    let scrape = agent.scrape();
    assert!(scrape.value("podmeter_cgroup_unreadable_total", &[]) > Some(0.0), "it is said");
    assert!(scrape.value(USAGE, &[("id", outside.path())]).is_some(), "others are measured");
    digger.0.take().into_iter().for_each(Gated::finish);
    agent.scrape();
    let scrape = agent.scrape();
    let below = format!("{}/d", base.path());
    assert!(!scrape.0.contains(&below), "it is gone");
    assert!(scrape.value(USAGE, &[("id", outside.path())]).is_some(), "others are measured");
    assert_sound(&agent);
}

#[test]
fn names_that_are_not_text_are_shown_as_far_as_they_are() {
    let base = Cgroup::new("names");
    let agent = Agent::start(&["--signals", "cpu"]);
    let names: [(&[u8], &str); 4] = [
        (b"caf\xe9", "caf\u{fffd}"),
        (b"\xff\xfe\xfd", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"a\"b\\c} 1", "a\\\"b\\\\c} 1"),
        ("snowman \u{2603}".as_bytes(), "snowman \u{2603}"),
    ];
    for (name, shown) in names {
        let directory = base.v2().join(OsStr::from_bytes(name));
        fs::create_dir(&directory).expect("cgroupfs takes it");
        let made = Many(vec![directory]);
        let id = format!("{}/{shown}", base.path());
        let (by_event, by_walk) = (agent.scrape(), Agent::start(&["--signals", "cpu"]).scrape());
        drop(made);
        assert_eq!(by_event.value(USAGE, &[("id", &id)]), Some(0.0), "{shown}");
        assert_eq!(by_walk.value(USAGE, &[("id", &id)]), Some(0.0), "{shown}");
        wait::until("its end", || agent.scrape().value(USAGE, &[("id", &id)]).is_none().then_some(()));
    }
    assert_sound(&agent);
}
