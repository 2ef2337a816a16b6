//! A pattern of routes, as the user writes it.

use std::str::FromStr;

use exporter_ebpf::http::{
    head::TARGET,
    route::{MAX_SEGMENTS, MAX_TEXT},
};

/// What is wrong with a pattern, and what is allowed.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// There is no slash where it begins.
    #[error(
        "a pattern begins with a slash, as in `/users/{{id}}/links`; before it may stand whose it is, as in `nginx.service: /users`"
    )]
    Relative,
    /// Something like `//`.
    #[error(
        "a pattern has no empty segment, and no slash at its end: they count for nothing in what it matches"
    )]
    EmptySegment,
    /// A byte that no target has.
    #[error(
        "a segment of a pattern is {{name}}, or made of what a path is made of: letters, digits, and -._~!$&'()+,;=:@%; other bytes are matched as they are sent, as in `%20`"
    )]
    Byte,
    /// Braces that are no placeholder.
    #[error(
        "a placeholder is a whole segment, {{name}}, or {{name...}} for all that follows; its name is of letters, digits and underscores"
    )]
    Placeholder,
    /// The rest is not where it ends.
    #[error("what stands for all that follows, {{name...}} or *, is the last segment of a pattern")]
    RestNotLast,
    /// More segments than are told apart.
    #[error("a pattern has at most {MAX_SEGMENTS} segments")]
    Segments,
    /// The kernel never sees as much of a target as it would take.
    #[error("a pattern is of at most {} bytes, of which no more than {} are literal", MAX_TEXT, TARGET - 1)]
    Long,
}

/// A segment of a pattern. Where two patterns match, the one that has the lesser of two segments wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    Any,
    Rest,
}

impl Segment {
    /// What one segment is preferred to another by.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Literal(_) => 0,
            Self::Any => 1,
            Self::Rest => 2,
        }
    }

    /// The fewest bytes of a target that it takes.
    fn shortest(&self) -> usize {
        match self {
            Self::Literal(text) => text.len(),
            Self::Any | Self::Rest => 1,
        }
    }
}

impl FromStr for Segment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        let placeholder = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        match (placeholder, placeholder.and_then(|inner| inner.strip_suffix("..."))) {
            _ if text.is_empty() => Err(Error::EmptySegment),
            _ if text == "*" => Ok(Self::Rest),
            (_, Some(name)) if is_name(name) => Ok(Self::Rest),
            (Some(name), _) if is_name(name) => Ok(Self::Any),
            _ if text.contains(['{', '}']) => Err(Error::Placeholder),
            _ if !text.bytes().all(is_path) => Err(Error::Byte),
            _ => Ok(Self::Literal(text.to_owned())),
        }
    }
}

/// Of what RFC 3986 lets a path have, all but `*`, which would look like more than a byte.
fn is_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@%".contains(&byte)
}

/// A pattern of routes; what matches it has its text as its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

impl Pattern {
    /// As the user wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let path = text.strip_prefix('/').ok_or(Error::Relative)?;
        let segments = path.split('/').filter(|_| !path.is_empty()).map(str::parse);
        let segments: Vec<Segment> = segments.collect::<Result<_, _>>()?;
        if segments.iter().rev().skip(1).any(|segment| *segment == Segment::Rest) {
            return Err(Error::RestNotLast);
        }
        if segments.len() as u64 > MAX_SEGMENTS {
            return Err(Error::Segments);
        }
        // After it there must be a byte that ends the target.
        let shortest: usize = segments.iter().map(|segment| 1 + segment.shortest()).sum();
        if shortest >= TARGET || text.len() > MAX_TEXT {
            return Err(Error::Long);
        }
        Ok(Self { text: text.to_owned(), segments })
    }
}
