//! The labels of an object, in no more memory than they have text: a map of the library has room for eleven.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// Labels, by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        Self(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_what_a_map_is(
            map in prop::collection::btree_map("[a-c/]{0,3}", "[a-z]{0,2}", 0..12), key in "[a-c/]{0,3}"
        ) {
            let labels = Labels::from(map.clone());
            prop_assert_eq!(labels.get(&key), map.get(&key).map(String::as_str));
            prop_assert!(map.iter().all(|(key, value)| labels.get(key) == Some(value)));
            prop_assert_eq!(serde_json::to_string(&labels).unwrap(), serde_json::to_string(&map).unwrap());
        }
    }
}
