//! The end: what is left, and what the agent says when it cannot begin.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Output},
};

use aya::programs::{loaded_links, loaded_programs};
use podmeter_tests::{
    agent::{Agent, binary},
    temp::TempDir,
    wait,
};

fn programs() -> BTreeSet<u32> {
    loaded_programs().flatten().map(|program| program.id()).collect()
}

fn links() -> BTreeSet<u32> {
    loaded_links().flatten().map(|link| link.id()).collect()
}

#[test]
fn nothing_stays_attached_however_the_agent_ends() {
    for (signal, code) in [("TERM", Some(0)), ("INT", Some(0)), ("KILL", None)] {
        let agent = Agent::start(&[]);
        let (own_programs, own_links) = (agent.held("prog"), agent.held("link"));
        assert!(
            own_programs.is_subset(&programs()) && own_links.is_subset(&links()),
            "they are the kernel's too"
        );
        assert!(own_programs.len() > 5 && own_links.len() > 5, "{own_programs:?} {own_links:?}");
        let status = agent.stop(signal);
        assert_eq!((status.code(), status.signal()), (code, code.is_none().then_some(9)), "SIG{signal}");
        // The kernel lets go of them a grace period later.
        wait::until("the programs' end", || (programs().is_disjoint(&own_programs)).then_some(()));
        wait::until("the links' end", || (links().is_disjoint(&own_links)).then_some(()));
    }
}

/// Runs the binary until it ends by itself.
fn run(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(binary()).args(arguments).output().expect("the binary");
    let said = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    (output, said)
}

#[test]
fn a_port_in_use_is_one_line_that_names_the_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    for format in ["text", "json"] {
        let (output, said) = run(&["agent", "--listen", &address, "--log-format", format]);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("--listen") && said.contains(&address) && said.contains("in use"), "{said}");
    }
}

#[test]
fn a_mistake_in_a_file_of_routes_is_one_line_that_names_it() {
    let directory = TempDir::new("routes");
    let file = directory.file("routes", "/users/{id}\n/users/{id\n");
    let (output, said) = run(&["agent", "--route-file", &file, "--log-format", "text"]);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains(&file) && said.contains("line 2") && said.contains("{name...}"), "{said}");
    let (output, said) = run(&["agent", "--route-file", "/nonexistent/routes", "--log-format", "text"]);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("cannot read routes from /nonexistent/routes"), "{said}");
}

#[test]
fn a_mistake_on_the_command_line_is_one_line() {
    let mistakes: [(&[&str], &str); 6] = [
        (&["agent", "--nonsense"], "--nonsense"),
        (&["agent", "--max-cgroups", "3"], "--max-cgroups"),
        (&["agent", "--listen", "localhost"], "--listen"),
        (&["agent", "--signals", "cpu,dns"], "dns"),
        (&["agent", "--log-level", "loud"], "loud"),
        (&["agent", "--route", "/a,users/{id}"], "a pattern begins with a slash"),
    ];
    for (arguments, what) in mistakes {
        let (output, said) = run(arguments);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{arguments:?}: {said}");
        assert!(said.contains(what), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}
