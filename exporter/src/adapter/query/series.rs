//! The series that agents stream: what of a scrape a query can ask for, by the names that it has there.

use crate::{
    adapter::sample::Sample,
    collector::{block_io, cpu, http, memory, pressure},
};

/// What a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What grows: its rate can be asked for.
    Counter,
    /// What is so in a moment.
    Gauge,
    /// A histogram's buckets: quantiles of them can be asked for.
    Buckets,
}

/// Where it is in a sample.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// A number of the container's, in units of which `per` are one of the series'.
    Number {
        /// Which.
        of: fn(&Sample) -> Option<u64>,
        /// Nanoseconds are 1e9 in a second.
        per: f64,
        /// Whether each container has it: that it has not, then, means that nobody knows.
        is_everywhere: bool,
    },
    /// The latency of block requests.
    BlockIo,
    /// The requests that were answered.
    Requests,
    /// How long they took.
    Durations,
    /// Those that wait.
    Active,
}

/// A series.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// The metric's name, and what follows it of a part of a histogram.
    name: [&'static str; 2],
    /// What it is.
    pub kind: Kind,
    /// Where it is in a sample.
    pub place: Place,
}

impl Series {
    /// Whether this is its name.
    fn is_called(&self, name: &str) -> bool {
        name.strip_prefix(self.name[0]) == Some(self.name[1])
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.name.concat()
    }

    /// The labels by which it can be told apart.
    pub fn labels(&self) -> &'static [&'static str] {
        match self.place {
            Place::Requests => &[CONTAINER, ROUTE, STATUS],
            Place::Durations => &[CONTAINER, ROUTE],
            _ => &[CONTAINER],
        }
    }

    /// Whether it is of HTTP requests by route.
    pub fn has_routes(&self) -> bool {
        self.labels().contains(&ROUTE)
    }
}

/// The container's name.
pub const CONTAINER: &str = "container";
/// The route, as it is in a scrape.
pub const ROUTE: &str = "http_route";
/// The status: agents tell only whether a request failed.
pub const STATUS: &str = "http_response_status_code";

/// The series of this name.
pub fn find(name: &str) -> Option<Series> {
    all().into_iter().find(|series| series.is_called(name))
}

/// All of them.
pub fn all() -> [Series; 14] {
    const SECONDS: f64 = 1e9;
    let number = |kind: Kind, name: [&'static str; 2], of: fn(&Sample) -> Option<u64>, per: f64| Series {
        name,
        kind,
        place: Place::Number { of, per, is_everywhere: true },
    };
    let with_quota = |name: &'static str, of: fn(&Sample) -> Option<u64>| Series {
        name: [name, ""],
        kind: Kind::Counter,
        place: Place::Number { of, per: 1.0, is_everywhere: false },
    };
    let (durations, active) = (http::served()[0].name, http::served()[1].name);
    let counter = Kind::Counter;
    [
        Series { name: [durations, "_count"], kind: counter, place: Place::Requests },
        Series { name: [durations, "_bucket"], kind: Kind::Buckets, place: Place::Durations },
        Series { name: [active, ""], kind: Kind::Gauge, place: Place::Active },
        Series {
            name: [http::UNPARSED.name, ""],
            kind: counter,
            place: Place::Number {
                of: |sample| Some(sample.http()?.unparsed),
                per: 1.0,
                is_everywhere: false,
            },
        },
        number(counter, [cpu::USAGE.name, ""], |sample| sample.cpu.get(), SECONDS),
        number(counter, [cpu::WAIT.name, "_sum"], |sample| sample.queued.get(), SECONDS),
        with_quota(cpu::PERIODS.name, |sample| sample.periods.get()),
        with_quota(cpu::THROTTLED_PERIODS.name, |sample| sample.throttled.get()),
        number(Kind::Gauge, [memory::WORKING_SET.name, ""], |sample| sample.memory.get(), 1.0),
        number(counter, [pressure::CPU_WAITING.name, ""], |sample| sample.pressure[0].get(), SECONDS),
        number(counter, [pressure::MEMORY_WAITING.name, ""], |sample| sample.pressure[1].get(), SECONDS),
        number(counter, [pressure::IO_WAITING.name, ""], |sample| sample.pressure[2].get(), SECONDS),
        Series { name: [block_io::LATENCY.name, "_count"], kind: counter, place: Place::BlockIo },
        Series { name: [block_io::LATENCY.name, "_bucket"], kind: Kind::Buckets, place: Place::BlockIo },
    ]
}
