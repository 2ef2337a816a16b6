//! What KEDA sends of a trigger, which is what a user wrote.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use libfuzzer_sys::fuzz_target;
use podmeter::adapter::{
    keda::{message::ScaledObjectRef, trigger::Trigger},
    metric::Metrics,
};
use prost::Message as _;

static OURS: LazyLock<Metrics> =
    LazyLock::new(|| Metrics::new(Duration::from_secs(15)).expect("they are metrics"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(object) = ScaledObjectRef::decode(bytes) else { return };
    match Trigger::read(&object, &OURS) {
        Ok(trigger) => {
            assert!(trigger.target.is_finite() && trigger.target > 0.0, "it is divided by: {object:?}");
            assert!(!trigger.is_active(0.0), "nothing is nothing to do: {object:?}");
        }
        Err(status) => assert!(!status.message().is_empty(), "it says why: {object:?}"),
    }
});
