//! Whether the replicas that Kubernetes' autoscaler wants by our API are those that it should want: its own code, asked of what the
//! adapter says of simulated agents, and the documentation's formula, of what the simulation did. `cargo xtask test` builds the program
//! with the autoscaler's code, and says where it is.
//!
//! `PODMETER_SEED=N` makes other cases than those of every day, `PODMETER_CASES=N` as many of them.

mod calculator;
mod case;
mod cluster;
mod container;
mod formula;
mod lists;
mod pod;

use std::collections::BTreeMap;

use podmeter_tests::random::Random;

use self::{case::Case, cluster::Cluster, formula::Decision};

/// A number that a person may give.
fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn cases(count: u64) -> Vec<Case> {
    let (seed, count) = (variable("PODMETER_SEED", 1), variable("PODMETER_CASES", count));
    println!("PODMETER_SEED={seed} PODMETER_CASES={count}");
    (0..count)
        .map(|number| {
            // The first numbers of seeds that are near are near.
            let mut random = Random::new((seed << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            _ = random.word();
            Case::generate(&mut random, number as usize)
        })
        .collect()
}

#[test]
fn replicas_are_what_the_documentation_says() {
    let cases = cases(800);
    let mut cluster = Cluster::start(&cases);
    let (mut more, mut fewer, mut same, mut none) = (0, 0, 0, BTreeMap::new());
    let mut failures = Vec::new();
    for case in &cases {
        let (question, decision) = (case.question(), case.decision());
        let answer = cluster.calculator.scale(&question);
        let is_right = match (&decision, &answer) {
            (Decision::Replicas { wanted, usage, utilization }, Ok(answer)) => {
                (*wanted, *usage, *utilization) == (answer.replicas, answer.usage, answer.utilization)
            }
            // Of an error with an external metric the calculator keeps the text alone.
            (Decision::Nothing(why), Err(failure)) => {
                failure.text.contains(why)
                    && (case.is_external() || failure.not_found == why.contains("could not find"))
            }
            _ => false,
        };
        match decision {
            Decision::Nothing(why) => *none.entry(why).or_insert(0) += 1,
            Decision::Replicas { wanted, .. } if wanted > case.current() => more += 1,
            Decision::Replicas { wanted, .. } if wanted < case.current() => fewer += 1,
            Decision::Replicas { .. } => same += 1,
        }
        if !is_right {
            failures.push(format!("{question}\n{:?}\nshould be {decision:?}, and is {answer:?}", case.pods));
        }
    }
    println!("{more} times more, {fewer} times fewer, {same} times as many, and nothing: {none:?}");
    let few = failures.iter().take(3).map(String::as_str).collect::<Vec<_>>().join("\n\n");
    assert!(
        failures.is_empty(),
        "{} of {} cases are not right; the first:\n{few}",
        failures.len(),
        cases.len()
    );
    // Or what was tried is not what there is.
    assert!([more, fewer, same].iter().all(|count| *count > cases.len() / 10) && none.len() > 3);
}
