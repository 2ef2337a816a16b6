//! Processes of a test's own: started in a cgroup and held at a gate; killed when dropped.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
};

use crate::wait;

/// A program that is in its cgroup and waits to be started; killed when dropped.
#[derive(Debug)]
pub struct Gated {
    /// The process.
    pub child: Child,
}

impl Gated {
    /// Starts a shell that moves itself into the cgroups whose `cgroup.procs` are given, waits, and becomes the program.
    ///
    /// # Panics
    /// When there is no shell, or the kernel refuses the move.
    pub(crate) fn new(procs: &[String], program: &[&str]) -> Self {
        let moves: String = procs.iter().map(|procs| format!("echo $$ > '{procs}' || exit 97; ")).collect();
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("{moves} echo ready; read go; exec \"$@\""), "sh"])
            .args(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut this = Self { child };
        let said = this.line();
        assert_eq!(said, "ready", "could not move into the cgroup: {:?}", this.child.wait());
        this
    }

    /// Its process id, before the gate and after.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets the program start.
    ///
    /// # Panics
    /// When it is gone.
    pub fn go(&mut self) -> &mut Self {
        self.child.stdin.as_mut().expect("piped").write_all(b"go\n").expect("the shell waits");
        self
    }

    /// The next line that it prints; cut short where its output ends.
    ///
    /// # Panics
    /// When its output cannot be read.
    pub fn line(&mut self) -> String {
        let out = self.child.stdout.as_mut().expect("piped");
        let (mut line, mut byte) = (Vec::new(), [0]);
        // Byte by byte: what comes after the line stays in the pipe, for whoever reads next.
        while out.read(&mut byte).expect("a pipe") == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Waits until it sleeps, so that its accounts stand still.
    ///
    /// # Panics
    /// When it does not.
    pub fn asleep(&self) -> &Self {
        wait::until("a process that sleeps", || (self.state() == Some('S')).then_some(()));
        self
    }

    /// Stops it, and waits until it is off its CPU.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn pause(&self) -> &Self {
        signal(self.pid(), "STOP");
        wait::until("a process that is stopped", || (self.state() == Some('T')).then_some(()));
        self
    }

    /// Lets it run on after [`Self::pause`].
    pub fn resume(&self) -> &Self {
        signal(self.pid(), "CONT");
        self
    }

    /// Its state, as in /proc/PID/stat: `R`, `S`, `T`, …; none when it is gone.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        // The name before it is in parentheses, and may hold some of its own.
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    }

    /// How long it has waited in run queues, ns: the kernel's own account.
    ///
    /// # Panics
    /// When it is gone, or the kernel keeps no such account.
    pub fn run_delay(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.pid())).expect("CONFIG_SCHED_INFO");
        text.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("three numbers")
    }

    /// How often it was switched out: the kernel's own count.
    ///
    /// # Panics
    /// When it is gone.
    pub fn switches(&self) -> u64 {
        switches(self.pid())
    }

    /// Bytes that it had devices read and write so far; also once it has ended, until that is waited for.
    ///
    /// # Panics
    /// When it is gone.
    pub fn io(&self) -> [u64; 2] {
        let text = fs::read_to_string(format!("/proc/{}/io", self.pid())).expect("CONFIG_TASK_IO_ACCOUNTING");
        ["read_bytes: ", "write_bytes: "].map(|name| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
            value.unwrap_or_else(|| panic!("no {name}in {text}"))
        })
    }

    /// Waits for the program to end, and leaves its accounts where they are.
    ///
    /// # Panics
    /// When it does not.
    pub fn ended(&self) -> &Self {
        wait::until("the end of a process", || (self.state() == Some('Z')).then_some(()));
        self
    }

    /// Waits for the program to end, however it does.
    ///
    /// # Panics
    /// Never: it is our own child.
    pub fn end(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().expect("our own child")
    }

    /// Waits for the program to end well.
    ///
    /// # Panics
    /// When it fails.
    pub fn finish(self) {
        let status = self.end();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// How often the threads of a process were switched out, of their own accord and not: the kernel's own count.
///
/// # Panics
/// When the process is gone.
pub fn switches(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it is there");
    let texts = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let of_thread = |text: String| {
        let lines = text.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        lines.map(|(_, count)| count.trim().parse::<u64>().expect("a number")).sum::<u64>()
    };
    texts.map(of_thread).sum()
}

/// Sends a signal, named without SIG.
///
/// # Panics
/// When the process is gone.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("/bin/sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]).status();
    assert!(sent.expect("a shell").success(), "SIG{name} for process {pid}");
}
