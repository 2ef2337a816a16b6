//! What a label must be like.

use regex::{Regex, RegexBuilder};

use super::series::STATUS;

/// How much memory a pattern may take, bytes.
const MOST: usize = 256 << 10;

/// A condition on a label's value.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    /// Whether it must not be like that.
    is_negated: bool,
    pattern: Pattern,
}

#[derive(Clone, Debug)]
enum Pattern {
    Equal(String),
    Like(Regex),
}

impl Matcher {
    /// By an operator of PromQL and what is right of it; none if there is no such operator.
    ///
    /// # Errors
    /// When that is no regular expression.
    pub(super) fn new(operator: &str, value: &str) -> Result<Self, String> {
        let pattern = if operator.ends_with('~') {
            // As Prometheus has it: of the whole value, in which a dot is anything.
            let compiled = |pattern: &str| RegexBuilder::new(pattern).size_limit(MOST).build();
            let regex = compiled(value).and_then(|_| compiled(&format!("^(?s:{value})$")));
            Pattern::Like(
                regex.map_err(|_| format!("{value:?} is no regular expression, or too large a one"))?,
            )
        } else {
            Pattern::Equal(value.to_owned())
        };
        Ok(Self { is_negated: operator.starts_with('!'), pattern })
    }

    /// Whether a value is as it must be.
    pub(super) fn matches(&self, value: &str) -> bool {
        let is_like = match &self.pattern {
            Pattern::Equal(wanted) => wanted == value,
            Pattern::Like(regex) => regex.is_match(value),
        };
        is_like != self.is_negated
    }
}

/// Whether a value is as all of them say.
pub(super) fn all_match(matchers: &[Matcher], value: &str) -> bool {
    matchers.iter().all(|matcher| matcher.matches(value))
}

/// What conditions on the status say of requests that failed, which is all that is known of it.
pub(super) fn failed(status: &[Matcher]) -> Result<Option<bool>, String> {
    let (failed, other): (Vec<_>, Vec<_>) = (100..600).partition(|code| *code >= 500);
    let are_wanted = |codes: Vec<u16>| {
        let wanted = codes.iter().filter(|code| all_match(status, &code.to_string())).count();
        (wanted == codes.len(), wanted == 0)
    };
    match (are_wanted(other), are_wanted(failed)) {
        ((true, _), (true, _)) => Ok(None),
        ((_, true), (true, _)) => Ok(Some(true)),
        ((true, _), (_, true)) => Ok(Some(false)),
        _ => Err(format!("agents tell only whether a request failed: {STATUS}=~\"5..\", or !~")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_of_the_whole_value() {
        let matches = |operator, pattern, value| Matcher::new(operator, pattern).unwrap().matches(value);
        for (operator, pattern, value) in [
            ("=", "/a", "/a"),
            ("!=", "/a", "/ab"),
            ("=~", "/a|/b", "/b"),
            ("=~", "/.+", "/a\nb"),
            ("!~", "/a", "/ab"),
        ] {
            assert!(matches(operator, pattern, value), "{value:?} {operator} {pattern:?}");
        }
        assert!(!matches("=~", "/a|/b", "/bc") && !matches("!~", "/.*", "/x") && !matches("=", ".", "a"));
        assert!(Matcher::new("=~", "(").is_err() && Matcher::new("=~", ")(").is_err());
        assert!(Matcher::new("=~", "(a{500}){500}").is_err());
    }
}
