//! Two network namespaces with a wire between them, which can be slow, lose packets, or be cut.

mod rough;

use std::process::Command;

use podmeter_tests::wait;

/// Runs a command of iproute2; whether it went well, and what it said.
fn run(line: &str) -> (bool, String) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().expect("a program")).args(words).output().expect("iproute2");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

pub(crate) fn must(line: &str) -> String {
    let (is_ok, said) = run(line);
    assert!(is_ok, "{line}: {said}");
    said
}

/// Two network namespaces and the wire between them; gone, with the wire, when dropped.
pub(crate) struct Wire {
    /// What moves packets in user space, if the wire goes through there.
    ends: Option<rough::Ends>,
    namespaces: [String; 2],
}

impl Wire {
    /// The namespaces, without a wire.
    fn unconnected() -> Self {
        let namespaces = ["a", "b"].map(|end| format!("podmeter-{}-{end}", std::process::id()));
        namespaces.iter().for_each(|namespace| _ = must(&format!("ip netns add {namespace}")));
        Self { ends: None, namespaces }
    }

    pub(crate) fn new() -> Self {
        let this = Self::unconnected();
        let [a, b] = &this.namespaces;
        must(&format!("ip -n {a} link add wire type veth peer name wire netns {b}"));
        for (end, other) in [(1, 2), (2, 1)] {
            let namespace = &this.namespaces[end - 1];
            must(&format!("ip -n {namespace} address add 10.99.0.{end}/24 dev wire"));
            must(&format!("ip -n {namespace} link set wire address 02:00:00:00:00:0{end} up"));
            // Known for good: a packet that waits for its neighbour's address is not lost when the wire is cut.
            let neighbour = format!("10.99.0.{other} lladdr 02:00:00:00:00:0{other} nud permanent dev wire");
            must(&format!("ip -n {namespace} neighbour replace {neighbour}"));
        }
        this
    }

    /// The command that runs another at one end.
    pub(crate) fn within<'a>(&'a self, end: usize, command: &[&'a str]) -> Vec<&'a str> {
        [&["ip", "netns", "exec", &self.namespaces[end]], command].concat()
    }

    /// Makes the wire slow, without a loss: what is begun takes a while.
    pub(crate) fn slow(&self) {
        for namespace in &self.namespaces {
            must(&format!(
                "tc -n {namespace} qdisc replace dev wire root tbf rate 80mbit burst 6kb limit 4mb"
            ));
        }
    }

    /// Makes both ends lose packets. Where this kernel has no netem, by a queue that is too short for what is sent.
    pub(crate) fn lose(&self) {
        for namespace in &self.namespaces {
            let netem =
                run(&format!("tc -n {namespace} qdisc replace dev wire root netem loss 2% limit 10000"));
            if !netem.0 {
                println!("no netem here ({}): a short queue loses packets instead", netem.1.trim());
                must(&format!(
                    "tc -n {namespace} qdisc replace dev wire root tbf rate 80mbit burst 6kb limit 20kb"
                ));
            }
        }
    }

    /// How many connections the first end has.
    pub(crate) fn connections(&self) -> usize {
        must(&format!("ip netns exec {} ss -Htn state established", self.namespaces[0])).lines().count()
    }

    /// Runs `ip` at one end.
    pub(crate) fn within_ip(&self, end: usize, line: &str) {
        must(&format!("ip -n {} {line}", self.namespaces[end]));
    }

    /// How many TCP segments one end has sent again: the namespace's own counter, RetransSegs.
    pub(crate) fn retransmits(&self, end: usize) -> u64 {
        let said = must(&format!("ip netns exec {} nstat -asz TcpRetransSegs", self.namespaces[end]));
        let number = said
            .lines()
            .find(|line| line.starts_with("TcpRetransSegs"))
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        number.unwrap_or_else(|| panic!("{said}"))
    }

    /// How many packets each end has lost so far.
    pub(crate) fn lost(&self) -> [u64; 2] {
        [&self.namespaces[0], &self.namespaces[1]].map(|namespace| {
            let said = must(&format!("tc -n {namespace} -s qdisc show dev wire"));
            let dropped = said.split("dropped ").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
            dropped.unwrap_or_else(|| panic!("{said}"))
        })
    }

    /// Cuts the wire at its first end, or joins it again: what is sent meanwhile is lost.
    pub(crate) fn cut(&self, is_cut: bool) {
        must(&format!("ip -n {} link set wire {}", self.namespaces[0], if is_cut { "down" } else { "up" }));
        let carrier = if is_cut { "NO-CARRIER" } else { "LOWER_UP" };
        wait::until(carrier, || {
            must(&format!("ip -n {} link show wire", self.namespaces[1])).contains(carrier).then_some(())
        });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            run(&format!("ip netns delete {namespace}"));
        }
    }
}
