//! What a user writes of metrics: a file of them, or a query.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use libfuzzer_sys::fuzz_target;
use podmeter::adapter::{configured, metric::Metrics, query::Query, sample::Sample, window::Window};

static OURS: LazyLock<Metrics> =
    LazyLock::new(|| Metrics::new(Duration::from_secs(15)).expect("they are metrics"));

fuzz_target!(|text: &str| {
    _ = configured::add(text, &mut OURS.clone());
    match Query::parse(text, Duration::from_secs(5)) {
        Ok(query) => {
            let (from, to) = (Sample::default(), Sample::default());
            let mut gathered = query.nothing();
            let window = |_| Some(Window { from: &from, to: &to, nanos: 1_000_000_000 });
            query.add("app", window, &|_| true, &mut gathered);
            assert!(query.value(&gathered).is_none(), "nothing is known of that container");
        }
        Err(fault) => {
            assert!(text.is_char_boundary(fault.at), "a fault is somewhere");
            fault.shown(text);
        }
    }
});
