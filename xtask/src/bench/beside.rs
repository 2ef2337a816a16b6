//! What runs beside a load whose throughput is measured.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    agent::Agent,
    container::Container,
    machine::{Process, pause},
    report::Samples,
};

/// What runs beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// Nothing: what the others are compared with.
    Nothing,
    /// A process that does nothing: shows what the noise is.
    Sleep,
    /// The agent, with its packet programs at the server's cgroup alone: as if the clients were on other nodes. Its other
    /// programs are where they always are.
    ServerSide,
    /// The agent, at all cgroups: both ends are on its node.
    BothEnds,
}

/// An order of these for each round: with four rounds each is first, second, third and last once, and follows each of the
/// others once.
const ORDERS: [[Beside; 4]; 4] = {
    use Beside::{BothEnds, Nothing, ServerSide, Sleep};
    [
        [Nothing, Sleep, BothEnds, ServerSide],
        [Sleep, ServerSide, Nothing, BothEnds],
        [ServerSide, BothEnds, Sleep, Nothing],
        [BothEnds, Nothing, ServerSide, Sleep],
    ]
};

/// It runs, until this is dropped or stopped.
#[derive(Default)]
pub(super) struct Running {
    /// The agent, if it is one.
    pub(super) agent: Option<Agent>,
    _sleep: Option<Process>,
}

impl Beside {
    /// How many there are.
    pub(super) const COUNT: usize = 4;

    /// The order of a round.
    pub(super) fn order(round: u32) -> [Self; Self::COUNT] {
        ORDERS[round as usize % ORDERS.len()]
    }

    /// How a row says it.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Nothing => "without the agent",
            Self::Sleep => "with `sleep` for an agent",
            Self::ServerSide => "with it at the server's end",
            Self::BothEnds => "with it at both ends",
        }
    }

    /// Starts it.
    pub(super) fn start(self, podmeter: &Path, server: &Container) -> Result<Running> {
        let mut running = Running::default();
        match self {
            Self::Nothing => {}
            Self::Sleep => {
                let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn();
                running._sleep = Some(Process(child.context("cannot start sleep")?));
            }
            Self::ServerSide => running.agent = Some(Agent::within(podmeter, server.v2())?),
            Self::BothEnds => running.agent = Some(Agent::start(podmeter)?),
        }
        pause(Duration::from_millis(500))?;
        Ok(running)
    }

    /// A figure of each round, divided by that without an agent.
    pub(super) fn ratio<T>(self, rounds: &[[T; Self::COUNT]], figure: fn(&T) -> f64) -> Samples {
        let of =
            |round: &[T; Self::COUNT]| figure(&round[self as usize]) / figure(&round[Self::Nothing as usize]);
        rounds.iter().map(of).collect()
    }
}

impl Running {
    /// Ends it.
    pub(super) fn stop(self) -> Result<()> {
        self.agent.map_or(Ok(()), Agent::stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_balanced() {
        let mut pairs = std::collections::HashSet::new();
        for place in 0..Beside::COUNT {
            let mut at: Vec<_> = ORDERS.iter().map(|order| order[place] as usize).collect();
            at.sort_unstable();
            assert_eq!(at, [0, 1, 2, 3], "each is in each place once");
            let next = ORDERS.iter().filter(|_| place > 0);
            pairs.extend(next.map(|order| (order[place - 1] as usize, order[place] as usize)));
        }
        assert_eq!(pairs.len(), 12, "each follows each");
    }
}
