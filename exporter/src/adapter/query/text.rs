//! The text of a query, read from left to right.

use std::fmt;

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, bytes from its beginning.
    pub at: usize,
    /// What.
    pub message: String,
}

impl Fault {
    /// The query, and under it a mark where that is.
    pub fn shown(&self, query: &str) -> String {
        let before = query.get(..self.at).unwrap_or(query);
        let column = before.chars().rev().take_while(|char| *char != '\n').count();
        let begin = before.len() - before.chars().rev().take(column).map(char::len_utf8).sum::<usize>();
        let line = query.get(begin..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        format!("{}\n    {line}\n    {}^", self.message, " ".repeat(column))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// What was read.
pub(super) type Parsed<T> = Result<T, Fault>;

/// A text, and how far it is read.
pub(super) struct Text<'a> {
    text: &'a str,
    pub(super) at: usize,
}

impl<'a> Text<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(Fault { at: self.at, message: message.into() })
    }

    /// As [`Self::fail`], of what was read before.
    pub(super) fn fail_at<T>(at: usize, message: impl Into<String>) -> Parsed<T> {
        Err(Fault { at, message: message.into() })
    }

    /// What is left, after white space.
    pub(super) fn rest(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    /// Takes this, if it is next.
    pub(super) fn takes(&mut self, token: &str) -> bool {
        let is_next = self.rest().starts_with(token);
        if is_next {
            self.at += token.len();
        }
        is_next
    }

    pub(super) fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.takes(token) { Ok(()) } else { self.fail(format!("here should be {token}")) }
    }

    /// As many characters of a kind as there are.
    pub(super) fn all(&mut self, is_one: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|char| !is_one(char)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// A name, if one is next.
    pub(super) fn word(&mut self) -> Option<&'a str> {
        let is_first = |char: char| char.is_ascii_alphabetic() || matches!(char, '_' | ':');
        self.rest().starts_with(is_first).then(|| self.all(|char| is_first(char) || char.is_ascii_digit()))
    }

    pub(super) fn number(&mut self) -> Parsed<f64> {
        let at = self.at;
        let mut text = self.all(|char| char.is_ascii_digit() || char == '.').to_owned();
        // 1e-3.
        if self.text[self.at..].starts_with(['e', 'E']) {
            self.at += 1;
            let sign = if self.takes("-") { "-" } else { "" };
            text += &format!("e{sign}{}", self.all(|char| char.is_ascii_digit()));
        }
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
        number.map_or_else(|| Self::fail_at(at, "this is no number"), Ok)
    }

    /// A length of time, as 90s or 1m30s.
    pub(super) fn seconds(&mut self) -> Parsed<f64> {
        self.rest();
        let at = self.at;
        let mut seconds = 0.0;
        while self.rest().starts_with(|char: char| char.is_ascii_digit()) {
            let number = self.all(|char| char.is_ascii_digit()).parse::<f64>().unwrap_or(f64::INFINITY);
            let unit = self.all(|char| char.is_ascii_lowercase());
            let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
            let Some((_, unit)) = units.iter().find(|(name, _)| *name == unit) else {
                return Self::fail_at(at, "a window is written as 90s, or 1m30s");
            };
            seconds += number * unit;
        }
        Ok(seconds)
    }

    /// Between quotes, with `\\` before what is not meant as such; between backticks as it is.
    pub(super) fn string(&mut self) -> Parsed<String> {
        let Some(quote) = self.rest().chars().next().filter(|char| matches!(char, '"' | '\'' | '`')) else {
            return self.fail("here should be a value in quotes");
        };
        let begin = self.at;
        let (mut value, mut is_escaped) = (String::new(), false);
        for (at, char) in self.text[begin..].char_indices().skip(1) {
            match char {
                _ if is_escaped => {
                    is_escaped = false;
                    value.push(match char {
                        'n' => '\n',
                        't' => '\t',
                        '\\' | '"' | '\'' => char,
                        _ => {
                            return Self::fail_at(
                                begin + at,
                                format!("\\{char} is nothing; a \\ is written \\\\"),
                            );
                        }
                    });
                }
                '\\' if quote != '`' => is_escaped = true,
                _ if char == quote => {
                    self.at = begin + at + 1;
                    return Ok(value);
                }
                _ => value.push(char),
            }
        }
        self.fail("this value has no end")
    }
}
