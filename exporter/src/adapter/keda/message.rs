//! The messages of KEDA's external scalers, as its `externalscaler.proto` has them.

use std::collections::BTreeMap;

use prost::Message;

/// A trigger of a ScaledObject.
#[derive(Clone, PartialEq, Message)]
pub struct ScaledObjectRef {
    /// The name of the ScaledObject.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// What the trigger says.
    #[prost(btree_map = "string, string", tag = "3")]
    pub scaler_metadata: BTreeMap<String, String>,
}

/// Whether there is anything to do.
#[derive(Clone, PartialEq, Message)]
pub struct IsActive {
    /// Whether there is.
    #[prost(bool, tag = "1")]
    pub result: bool,
}

/// The metrics of a trigger.
#[derive(Clone, PartialEq, Message)]
pub struct MetricSpecs {
    /// Of ours there is one.
    #[prost(message, repeated, tag = "1")]
    pub specs: Vec<MetricSpec>,
}

/// A metric, and what it should be.
#[derive(Clone, PartialEq, Message)]
pub struct MetricSpec {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The target, for a KEDA that knows of whole numbers only.
    #[prost(int64, tag = "2")]
    pub target: i64,
    /// The target.
    #[prost(double, tag = "3")]
    pub target_float: f64,
}

/// What is asked for.
#[derive(Clone, PartialEq, Message)]
pub struct GetMetrics {
    /// By whom.
    #[prost(message, optional, tag = "1")]
    pub object: Option<ScaledObjectRef>,
    /// The metric, as it is in the specs.
    #[prost(string, tag = "2")]
    pub metric: String,
}

/// What the metrics are.
#[derive(Clone, PartialEq, Message)]
pub struct MetricValues {
    /// Of ours there is one.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<MetricValue>,
}

/// What a metric is.
#[derive(Clone, PartialEq, Message)]
pub struct MetricValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value, for a KEDA that knows of whole numbers only.
    #[prost(int64, tag = "2")]
    pub value: i64,
    /// Its value.
    #[prost(double, tag = "3")]
    pub value_float: f64,
}
