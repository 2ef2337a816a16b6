//! A wire that loses packets, has them overtake each other, and delivers some twice: by netem where the kernel has it, else by
//! two processes between two TUN devices (`tests/src/bin/wire-end`).

use std::process::{Command, Stdio};

use podmeter_tests::{process::Gated, temp::TempDir};

use super::{Wire, must, run};

const END: &str = env!("CARGO_BIN_EXE_wire-end");

/// Of 1,000 packets in each direction: lost, held back so that others overtake them, delivered twice.
const ROUGH: [u32; 3] = [20, 50, 20];

/// The processes, and what they did.
pub(super) struct Ends {
    processes: [Gated; 2],
    _sockets: TempDir,
}

/// What happened to packets on their way to an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Happened {
    pub(crate) dropped: u64,
    /// netem does not count these two.
    pub(crate) reordered: Option<u64>,
    pub(crate) duplicated: Option<u64>,
}

impl Wire {
    /// A wire that can be rough; chance begins with the seed.
    pub(crate) fn to_be_rough(seed: u64) -> Self {
        let this = Self::new();
        let (has_netem, said) =
            run(&format!("tc -n {} qdisc replace dev wire root netem limit 10000", this.namespaces[0]));
        if has_netem {
            return this;
        }
        println!("no netem here ({}): packets go through user space", said.trim());
        drop(this);
        Self::through_user_space(seed)
    }

    fn through_user_space(seed: u64) -> Self {
        let mut this = Self::unconnected();
        let sockets = TempDir::new("wire");
        let socket = |end: usize| sockets.path().join(end.to_string()).display().to_string();
        let processes = [0, 1].map(|end| {
            let namespace = &this.namespaces[end];
            must(&format!("ip -n {namespace} tuntap add dev wire mode tun"));
            must(&format!("ip -n {namespace} address add 10.99.0.{}/24 dev wire", end + 1));
            must(&format!("ip -n {namespace} link set wire up"));
            let seed = (seed * 2 + end as u64).to_string();
            let child = Command::new("ip")
                .args(["netns", "exec", namespace, END, "wire", &socket(end), &socket(1 - end), &seed])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("iproute2");
            let mut process = Gated { child };
            assert_eq!(process.line(), "ready");
            process
        });
        this.ends = Some(Ends { processes, _sockets: sockets });
        this
    }

    /// Makes it rough.
    pub(crate) fn roughen(&mut self) {
        let [lost, reordered, duplicated] = ROUGH;
        let Some(ends) = &mut self.ends else {
            let percent = |of_1000: u32| format!("{}%", f64::from(of_1000) / 10.0);
            for namespace in &self.namespaces {
                // What is reordered goes at once, and the rest with a delay.
                must(&format!(
                    "tc -n {namespace} qdisc replace dev wire root netem delay 1ms loss {} reorder {} duplicate {} limit 10000",
                    percent(lost),
                    percent(reordered),
                    percent(duplicated)
                ));
            }
            return;
        };
        for process in &mut ends.processes {
            assert_eq!(say(process, &format!("rough {lost} {reordered} {duplicated}")), "rough");
        }
    }

    /// What happened so far on the way to each end.
    pub(crate) fn happened(&mut self) -> [Happened; 2] {
        let Some(ends) = &mut self.ends else {
            let [of_first, of_second] = self.lost();
            let of = |dropped| Happened { dropped, reordered: None, duplicated: None };
            // They are lost where they are sent.
            return [of(of_second), of(of_first)];
        };
        ends.processes.each_mut().map(|process| {
            let said = say(process, "counts");
            let numbers: Vec<u64> =
                said.split(' ').map(|word| word.parse().unwrap_or_else(|_| panic!("{said}"))).collect();
            Happened { dropped: numbers[0], reordered: Some(numbers[1]), duplicated: Some(numbers[2]) }
        })
    }
}

fn say(process: &mut Gated, line: &str) -> String {
    use std::io::Write as _;
    writeln!(process.child.stdin.as_mut().expect("piped"), "{line}").expect("it listens");
    process.line()
}
