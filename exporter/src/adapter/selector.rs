//! Kubernetes' selectors of labels and of fields, as they stand in a query.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{labels::Labels, refusal::Refusal};

/// More than this nobody writes, and each is tried on every pod.
const MOST: usize = 64;
const MOST_VALUES: usize = 256;

/// What labels must be like. Without any requirement, everything will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq)]
enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

impl Selector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    ///
    /// # Errors
    /// When it is none, or too long.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = |what: String| Refusal::bad(format!("unable to parse requirement: {what}"));
        let mut rest = text.trim();
        let mut requirements = Vec::new();
        while !rest.is_empty() {
            let (requirement, after) = requirement(rest).map_err(wrong)?;
            requirements.push(requirement);
            if requirements.len() > MOST {
                return Err(wrong(format!("more than {MOST} requirements")));
            }
            rest = after.trim_start();
            if let Some(after) = rest.strip_prefix(',') {
                rest = after.trim_start();
                if rest.is_empty() {
                    return Err(wrong("nothing follows a comma".to_owned()));
                }
            } else if !rest.is_empty() {
                return Err(wrong(format!("found '{}', expected: ',' or the end", first(rest))));
            }
        }
        Ok(Self(requirements))
    }

    /// Whether labels are as they must be.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_by(&|key| labels.get(key))
    }

    /// The same, of labels that a function has.
    pub fn matches_by<'a>(&self, label: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|Requirement { key, operator }| {
            let value = label(key);
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::Absent => value.is_none(),
                Operator::Above(limit) => number().is_some_and(|number| number > *limit),
                Operator::Below(limit) => number().is_some_and(|number| number < *limit),
            }
        })
    }

    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Splits off what is said of some labels.
    pub fn split(self, is_own: impl Fn(&str) -> bool) -> (Self, Self) {
        let (own, other) = self.0.into_iter().partition(|requirement| is_own(&requirement.key));
        (Self(own), Self(other))
    }

    /// As a `LabelSelector` of the API.
    pub fn json(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        let expressions = self.0.iter().map(|Requirement { key, operator }| {
            let (operator, values) = match operator {
                Operator::In(values) => ("In", values.clone()),
                Operator::NotIn(values) => ("NotIn", values.clone()),
                Operator::Exists => ("Exists", BTreeSet::new()),
                Operator::Absent => ("DoesNotExist", BTreeSet::new()),
                Operator::Above(limit) => ("Gt", BTreeSet::from([limit.to_string()])),
                Operator::Below(limit) => ("Lt", BTreeSet::from([limit.to_string()])),
            };
            json!({"key": key, "operator": operator, "values": values})
        });
        json!({"matchExpressions": expressions.collect::<Vec<_>>()})
    }
}

/// The first requirement of a text, and what follows.
fn requirement(text: &str) -> Result<(Requirement, &str), String> {
    if let Some(rest) = text.strip_prefix('!') {
        let (key, rest) = key(rest.trim_start())?;
        return Ok((Requirement { key, operator: Operator::Absent }, rest));
    }
    let (key, rest) = key(text)?;
    let after = rest.trim_start();
    let one = |values: &str| BTreeSet::from([values.to_owned()]);
    for (sign, is_in) in [("==", true), ("!=", false), ("=", true)] {
        if let Some(after) = after.strip_prefix(sign) {
            let (value, rest) = value(after.trim_start())?;
            let operator = if is_in { Operator::In(one(value)) } else { Operator::NotIn(one(value)) };
            return Ok((Requirement { key, operator }, rest));
        }
    }
    for (sign, operator) in [('>', Operator::Above as fn(i64) -> Operator), ('<', Operator::Below)] {
        if let Some(after) = after.strip_prefix(sign) {
            let (value, rest) = value(after.trim_start())?;
            let number = value.parse().map_err(|_| format!("'{value}' is no whole number"))?;
            return Ok((Requirement { key, operator: operator(number) }, rest));
        }
    }
    if after.len() < rest.len() {
        for (word, operator) in
            [("notin", Operator::NotIn as fn(BTreeSet<String>) -> Operator), ("in", Operator::In)]
        {
            if let Some(after) = after.strip_prefix(word)
                && after.trim_start().starts_with('(')
            {
                let (values, rest) = values(after.trim_start())?;
                return Ok((Requirement { key, operator: operator(values) }, rest));
            }
        }
    }
    Ok((Requirement { key, operator: Operator::Exists }, rest))
}

/// `(a,b)`.
fn values(text: &str) -> Result<(BTreeSet<String>, &str), String> {
    let inside = text.strip_prefix('(').ok_or("expected '('")?;
    let (inside, rest) = inside.split_once(')').ok_or("no ')' ends a list of values")?;
    let mut values = BTreeSet::new();
    for part in inside.split(',').map(str::trim) {
        let (value, rest) = value(part)?;
        if !rest.is_empty() {
            return Err(format!("found '{}' in a list of values", first(rest)));
        }
        values.insert(value.to_owned());
        if values.len() > MOST_VALUES {
            return Err(format!("more than {MOST_VALUES} values"));
        }
    }
    Ok((values, rest))
}

fn first(text: &str) -> String {
    text.chars().take(32).collect()
}

fn is_plain(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.')
}

/// A name as keys and values have it: it begins and ends with a letter or a digit.
fn is_name(text: &str) -> bool {
    let ends = [text.chars().next(), text.chars().next_back()];
    text.len() <= 63
        && text.chars().all(is_plain)
        && ends.iter().all(|end| end.is_some_and(|end| end.is_ascii_alphanumeric()))
}

fn key(text: &str) -> Result<(String, &str), String> {
    let end = text.find(|char| !is_plain(char) && char != '/').unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_domain = |prefix: &str| {
        prefix.len() <= 253 && prefix.split('.').all(|part| is_name(part) && !part.contains('_'))
    };
    if !is_name(name) || !prefix.is_none_or(is_domain) {
        return Err(format!("'{}' is no label's key", first(if key.is_empty() { text } else { key })));
    }
    Ok((key.to_owned(), rest))
}

/// A value, which may be empty.
fn value(text: &str) -> Result<(&str, &str), String> {
    let end = text.find(|char| !is_plain(char)).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    if !value.is_empty() && !is_name(value) {
        return Err(format!("'{}' is no label's value", first(value)));
    }
    Ok((value, rest))
}

/// What a pod or a node must be called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<(bool, bool, String)>);

impl Fields {
    /// Reads `metadata.name=a,metadata.namespace!=b`.
    ///
    /// # Errors
    /// When it is of other fields, or none.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let terms = text.split(',').filter(|term| !term.is_empty()).map(|term| {
            let (field, is_equal, value) = match term.split_once("!=") {
                Some((field, value)) => (field, false, value),
                None => {
                    let (field, value) = term.split_once('=').ok_or_else(|| {
                        Refusal::bad(format!(
                            "invalid selector: '{}'; can't understand '{}'",
                            first(text),
                            first(term)
                        ))
                    })?;
                    (field, true, value.strip_prefix('=').unwrap_or(value))
                }
            };
            let is_name = match field {
                "metadata.name" => true,
                "metadata.namespace" => false,
                _ => {
                    let message = format!("field label not supported: {}", first(field));
                    return Err(Refusal::bad(message));
                }
            };
            Ok((is_name, is_equal, value.to_owned()))
        });
        let terms = terms.collect::<Result<Vec<_>, _>>()?;
        if terms.len() > MOST { Err(Refusal::bad("too many field selectors")) } else { Ok(Self(terms)) }
    }

    /// Whether names are as they must be.
    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        let is_so = |(is_name, is_equal, value): &(bool, bool, String)| {
            (value == if *is_name { name } else { namespace }) == *is_equal
        };
        self.0.iter().all(is_so)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let labels = labels.collect::<BTreeMap<_, _>>().into();
        Selector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error:?}")).matches(&labels)
    }

    #[test]
    fn selects_as_kubernetes_does() {
        let web = [("app", "web"), ("tier", "front"), ("team.example/name", "a"), ("n", "7")];
        for selector in [
            "",
            "app",
            "app=web",
            "app==web",
            "app!=db",
            "app in (web,db)",
            "app in ( web , db )",
            "app notin (db)",
            "!gone",
            "gone!=x",
            "gone notin (x)",
            "app=web,tier=front",
            "app=web, tier in (front)",
            "team.example/name=a",
            "n>6",
            "n < 8",
            " app = web ",
            "in notin (x)",
        ] {
            assert!(matches(selector, &web), "{selector}");
        }
        for selector in [
            "app=db",
            "!app",
            "gone",
            "gone=",
            "gone in (x)",
            "app notin (web)",
            "n>7",
            "app=web,tier=back",
            "app>1",
        ] {
            assert!(!matches(selector, &web), "{selector}");
        }
        assert!(matches("in", &[("in", "")]) && matches("app in (,web)", &[("app", "")]));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        let long = format!("a={}", "x".repeat(64));
        let many = vec!["a=b"; 65].join(",");
        for selector in [
            ",", "a=b,", "=b", "a=/x", "a in b", "a in (b", "a b", "a=b c", "-a=b", "a/b/c", "!", "a>x",
            "a=b=c", "é=1", &long, &many,
        ] {
            assert!(Selector::parse(selector).is_err(), "{selector}");
        }
    }

    #[test]
    fn selects_by_name() {
        let fields = Fields::parse("metadata.name=a,metadata.namespace!=b").unwrap();
        assert!(fields.matches("c", "a") && !fields.matches("b", "a") && !fields.matches("c", "d"));
        assert!(Fields::parse("").unwrap().matches("x", "y"));
        assert!(Fields::parse("spec.nodeName=n").is_err() && Fields::parse("metadata.name").is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "[a-z0-9=!<>(), ./_-]{0,40}|\\PC{0,20}") {
            if let Ok(selector) = Selector::parse(&text) {
                selector.matches(&Labels::default());
            }
            if let Ok(fields) = Fields::parse(&text) {
                fields.matches("a", "b");
            }
        }

        #[test]
        fn what_is_written_is_read(key in "[a-z]([a-z0-9.-]{0,10}[a-z0-9])?", values in prop::collection::btree_set("[a-zA-Z0-9]{1,8}", 1..5)) {
            let list = values.iter().cloned().collect::<Vec<_>>().join(",");
            let parsed = Selector::parse(&format!("{key} in ({list})")).unwrap();
            prop_assert_eq!(parsed, Selector(vec![Requirement { key, operator: Operator::In(values) }]));
        }
    }
}
