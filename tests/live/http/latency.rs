//! Latency: between what the server waits for certain and what the client measures itself, request by request.

use podmeter_tests::scrape::Scrape;

use super::lab::{CLIENT, Lab, SERVER};

/// How many requests of each delay.
const N: usize = 20;

/// The upper bounds of the buckets and their cumulative counts, `+Inf` included.
pub(crate) fn buckets(scrape: &Scrape, side: &str, labels: &[(&str, &str)]) -> Vec<(f64, u64)> {
    let name = format!("{side}_bucket");
    let mut buckets: Vec<_> = scrape
        .label_values(&name, "le", labels)
        .into_iter()
        .map(|le| {
            let count = scrape.sum(&name, &[labels, &[("le", &le)]].concat()) as u64;
            (le.parse().expect("a bound"), count)
        })
        .collect();
    buckets.sort_by(|a: &(f64, u64), b| a.0.total_cmp(&b.0));
    buckets
}

/// In which bucket a quantile is, by index.
fn quantile(buckets: &[(f64, u64)], quantile: f64) -> usize {
    let (_, total) = buckets[buckets.len() - 1];
    buckets.iter().position(|(_, count)| *count as f64 >= quantile * total as f64).expect("+Inf has all")
}

/// In which bucket a time is, by index.
pub(crate) fn bucket(buckets: &[(f64, u64)], seconds: f64) -> usize {
    buckets.iter().position(|(bound, _)| seconds <= *bound).expect("+Inf")
}

/// Checks what was counted for requests that the server answered `delay` seconds late and that took the client `took`.
///
/// Whatever else the machine does, what the kernel measured lies between the two, and so does the number of requests at or
/// below each bound.
fn check(lab: &Lab, scrape: &Scrape, labels: &[(&str, &str)], delay: f64, took: &[f64]) {
    for (side, id) in [(SERVER, &lab.server_id), (CLIENT, &lab.client_id)] {
        let labels = [&[("id", id.as_str())], labels].concat();
        let buckets = buckets(scrape, side, &labels);
        assert_eq!(buckets.last().map(|last| last.1), Some(took.len() as u64), "{side} {labels:?}");
        for &(bound, count) in &buckets {
            let least = took.iter().filter(|took| **took <= bound).count() as u64;
            let most = if delay <= bound { took.len() as u64 } else { 0 };
            let context =
                || format!("{side}, {delay} s, le {bound}: {count}, not {least} to {most}; {took:?}");
            assert!((least..=most).contains(&count), "{}", context());
        }
        let sum = scrape.sum(&format!("{side}_sum"), &labels);
        let (least, most) = (delay * took.len() as f64, took.iter().sum::<f64>());
        assert!(
            (least..=most).contains(&sum),
            "{side}, {delay} s: the sum {sum} is not within {least} to {most}"
        );
        let mut sorted = took.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (found, from) = (quantile(&buckets, 0.5), bucket(&buckets, delay));
        let to = bucket(&buckets, sorted[took.len().div_ceil(2) - 1]);
        assert!(
            (from..=to).contains(&found),
            "{side}: the median is in bucket {found}, not {from} to {to}: {buckets:?}"
        );
    }
}

fn seconds(said: &str) -> Vec<f64> {
    said.split(' ').map(|nanos| nanos.parse::<f64>().expect("a number") / 1e9).collect()
}

#[test]
fn the_median_is_in_the_bucket_of_the_delay() {
    let lab = Lab::new(&[]);
    let server = lab.serve("127.0.0.1:0");
    let mut talk = lab.talk();
    talk.say(&format!("open {}", server.v4()));
    let delays = [("a", 7), ("b", 30), ("c", 60), ("d", 150), ("e", 400)];
    let took = delays.map(|(route, millis)| seconds(&talk.say(&format!("time {N} /delay/{route}/{millis}"))));
    let total = (delays.len() * N) as u64;
    let scrape = lab.settled(total, total);
    for ((route, millis), took) in delays.into_iter().zip(took) {
        let route = format!("/delay/{route}/{{id}}");
        check(&lab, &scrape, &[("http_route", &route)], f64::from(millis) / 1e3, &took);
    }
}

/// The time goes on to the last byte of the answer, and no further.
#[test]
fn an_answer_ends_with_its_last_byte() {
    let lab = Lab::new(&[]);
    let server = lab.serve("127.0.0.1:0");
    let mut talk = lab.talk();
    talk.say(&format!("open {}", server.v4()));
    let took = seconds(&talk.say("time 5 /trickle/120"));
    let scrape = lab.settled(5, 5);
    check(&lab, &scrape, &[], 0.12, &took);
}
