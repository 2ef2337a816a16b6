//! A container of a pod: what it does from one time to the next, and what its agent tells of that.

use podmeter::stream::message::{self, Http, Route, Usage};
use podmeter_tests::random::Random;
use serde_json::{Value, json};

/// When agents tell, by their clocks, in seconds: five apart, as long as the shortest window that there is.
pub(crate) const TIMES: [u64; 6] = [90, 95, 100, 105, 110, 115];
/// The time at which the questions are put.
pub(crate) const LAST: usize = TIMES.len() - 1;
/// The time at which a window of fifteen seconds begins that ends then.
const BEGIN: usize = 2;

/// The routes of every server, and what they are as a label's value.
pub(crate) const ROUTES: [(&str, &str); 2] = [("/users/{id}/links", "users-id-links"), ("/", "root")];

/// What of its connections can be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Traffic {
    /// Requests.
    Requests,
    /// It has none.
    None,
    /// Not what they carry.
    Unreadable,
    /// Nobody looks.
    Unseen,
}

/// What it does in the five seconds before a time; its memory and its active requests are those of that moment.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    millis: u64,
    memory: u64,
    requests: [u64; 2],
    active: u64,
}

/// A container.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: &'static str,
    /// What it requests, in parts of a thousand: cores and bytes.
    pub(crate) cores: Option<i64>,
    pub(crate) bytes: Option<i64>,
    id: String,
    /// The time from which on it is told of in its present run; before that it ran before.
    since: usize,
    /// Whether the agent has found its cgroup.
    pub(crate) is_found: bool,
    pub(crate) traffic: Traffic,
    steps: [Step; TIMES.len()],
}

/// How busy containers of a case are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy {
    pub(crate) millis: usize,
    pub(crate) requests: usize,
}

impl Container {
    /// A container that is like others of its case.
    pub(crate) fn new(random: &mut Random, name: &'static str, busy: Busy) -> Self {
        let request = 10 + random.below(1000) as i64;
        let memory = (random.below(64) as u64 + 1) << 22;
        let is_idle = random.below(8) == 0;
        let mut step = || Step {
            millis: random.below(busy.millis * 10) as u64,
            memory: memory + 4096 * random.below(256) as u64,
            requests: [random.below(busy.requests), random.below(busy.requests)].map(|count| count as u64),
            active: random.below(12) as u64,
        };
        let mut steps = [(); TIMES.len()].map(|()| step());
        if is_idle {
            // From some time on it does nothing, and then nothing is told of it.
            let from = random.below(TIMES.len());
            let last = steps[from];
            steps[from..].fill(Step { millis: 0, requests: [0; 2], ..last });
        }
        Self {
            name,
            cores: Some(request),
            bytes: Some((memory as i64 + 4096) * 1000),
            id: format!("{:016x}{:016x}", random.word(), random.word()),
            since: 0,
            is_found: true,
            traffic: Traffic::Requests,
            steps,
        }
    }

    /// It was started once more, just before a time.
    pub(crate) fn restart(&mut self, at: usize) {
        self.since = at;
    }

    /// The seconds that its window has, if everything before the time `from` is forgotten; 0 if it has none.
    pub(crate) fn window(&self, from: usize) -> u64 {
        TIMES[LAST] - TIMES[self.begin(from)]
    }

    fn begin(&self, from: usize) -> usize {
        BEGIN.max(self.since).max(from)
    }

    fn grown(&self, from: usize, of: impl Fn(&Step) -> u64) -> i64 {
        self.steps[self.begin(from) + 1..].iter().map(of).sum::<u64>() as i64
    }

    /// CPU time within its window, in nanocores.
    pub(crate) fn nanocores(&self, from: usize) -> i64 {
        self.grown(from, |step| step.millis * 1_000_000) / self.window(from) as i64
    }

    /// The same in parts of a thousand, as who reads the API takes it: no less than it is.
    pub(crate) fn millicores(&self, from: usize) -> i64 {
        divided(self.grown(from, |step| step.millis), self.window(from) as i64)
    }

    /// Bytes.
    pub(crate) fn memory(&self) -> i64 {
        self.steps[LAST].memory as i64
    }

    /// Requests per second on a route, or on all, in parts of thirty thousand: so that they can be added.
    pub(crate) fn requests(&self, from: usize, route: Option<usize>) -> i64 {
        let grown = self.grown(from, |step| match route {
            Some(route) => step.requests[route],
            None => step.requests.iter().sum(),
        });
        grown * (30_000 / self.window(from) as i64)
    }

    /// Those that are active.
    pub(crate) fn active(&self) -> i64 {
        self.steps[LAST].active as i64
    }

    /// As its agent describes it at a time.
    pub(crate) fn described(&self, at: usize) -> message::Container {
        message::Container {
            name: self.name.to_owned(),
            id: if self.is_found { self.run(at) } else { String::new() },
            requested_cores: self.cores.map(|cores| cores as f64 / 1e3),
            requested_bytes: self.bytes.map(|bytes| bytes as f64 / 1e3),
            ..message::Container::default()
        }
    }

    fn run(&self, at: usize) -> String {
        format!("{}{}", self.id, u8::from(at >= self.since))
    }

    /// What it has used up to a time, and the id under which its agent says so.
    pub(crate) fn usage(&self, at: usize) -> (String, Usage) {
        let begin = if at >= self.since { self.since } else { 0 };
        let sum = |of: &dyn Fn(&Step) -> u64| self.steps[begin..=at].iter().map(of).sum::<u64>();
        let route = |number: usize| Route {
            route: ROUTES[number].0.to_owned(),
            requests: sum(&|step| step.requests[number]),
            ..Route::default()
        };
        let none = Http { active: Some(0), ..Http::default() };
        let http = match self.traffic {
            Traffic::Requests => Some(Http {
                routes: vec![route(1), route(0)],
                active: Some(self.steps[at].active),
                unparsed: 0,
            }),
            Traffic::None => Some(none),
            Traffic::Unreadable => Some(Http { unparsed: 1 + at as u64, ..none }),
            Traffic::Unseen => None,
        };
        let cpu = Some(sum(&|step| step.millis * 1_000_000));
        (self.run(at), Usage { cpu, memory: Some(self.steps[at].memory), http, ..Usage::default() })
    }

    /// As the API server has it.
    pub(crate) fn spec(&self) -> Value {
        let mut requests = json!({});
        if let Some(cores) = self.cores {
            requests["cpu"] = format!("{cores}m").into();
        }
        if let Some(bytes) = self.bytes {
            requests["memory"] = (bytes / 1000).to_string().into();
        }
        json!({"name": self.name, "resources": {"requests": requests}})
    }
}

/// Rounded up.
pub(crate) fn divided(number: i64, by: i64) -> i64 {
    (number + by - 1) / by
}
