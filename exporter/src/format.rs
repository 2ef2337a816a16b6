//! Which exposition format a client gets.

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    Text,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
    /// Length-delimited messages `io.prometheus.client.MetricFamily`: the one with native histograms.
    Protobuf,
}

impl Format {
    /// The value of the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// Picks the format that a client's `Accept` header rates highest: text when it rates others alike, names none or is
    /// absent. Protobuf is only for those who name it. Parameters that say nothing of the format (such as `escaping`) change
    /// nothing: every name that the agent exports is a legacy name, the same under each escaping.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default();
        let text = rating(accept, &["*/*", "text/*", "text/plain"], &[("version", "0.0.4")]);
        let openmetrics = rating(
            accept,
            &["*/*", "application/*", "application/openmetrics-text"],
            &[("version", "1.0.0")],
        );
        let messages = [("proto", "io.prometheus.client.MetricFamily"), ("encoding", "delimited")];
        let protobuf = rating(accept, &["application/vnd.google.protobuf"], &messages);
        let mut best = (Self::Text, text);
        for other in [(Self::OpenMetrics, openmetrics), (Self::Protobuf, protobuf)] {
            if other.1 > best.1 {
                best = other;
            }
        }
        best.0
    }
}

/// The weight that `accept` gives to a media type, by the most specific of the `ranges` that cover it, which come in ascending
/// order, the type's own name last; 0 without one. Of the name, the parameters in `wanted` must not be others.
fn rating(accept: &str, ranges: &[&str], wanted: &[(&str, &str)]) -> f64 {
    let covering = weighted(accept).filter_map(|(range, params, weight)| {
        let specificity = ranges.iter().position(|own| own.eq_ignore_ascii_case(range))?;
        let is_own = specificity + 1 == ranges.len();
        let mut named = 0;
        for (key, value) in params {
            match wanted.iter().find(|(name, _)| is_own && name.eq_ignore_ascii_case(key)) {
                Some((_, own)) if *own == value => named += 1,
                Some(_) => return None,
                None => {}
            }
        }
        Some((specificity + named, weight))
    });
    covering.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).map_or(0.0, |(_, weight)| weight)
}

/// Splits a header of weighted alternatives (`Accept`, `Accept-Encoding`) into value, parameters and weight. One whose
/// weight is malformed weighs nothing.
pub(crate) fn weighted(
    header: &str,
) -> impl Iterator<Item = (&str, impl Iterator<Item = (&str, &str)> + Clone, f64)> {
    header.split(',').map(|alternative| {
        let mut parts = alternative.split(';').map(str::trim);
        let value = parts.next().unwrap_or_default();
        let params = parts.map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (key.trim(), value.trim().trim_matches('"'))
        });
        let weight =
            params.clone().find(|(key, _)| key.eq_ignore_ascii_case("q")).map_or(1.0, |(_, weight)| {
                weight.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0)
            });
        (value, params, weight)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation() {
        let prometheus_2 =
            "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                            escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
                        text/plain;version=0.0.4;q=0.4,application/openmetrics-text;version=1.0.0;q=0.3";
        let cases = [
            (prometheus_2, Format::OpenMetrics),
            (prometheus_3, Format::OpenMetrics),
            (protobuf, Format::Protobuf),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
                Format::Text,
            ),
            ("application/vnd.google.protobuf;proto=other;encoding=delimited,text/plain;q=0.1", Format::Text),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text ; VERSION=\"1.0.0\" ; Q=1", Format::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=0,*/*", Format::Text),
            ("application/openmetrics-text,text/plain", Format::Text),
            ("application/*,text/*;q=0.5", Format::OpenMetrics),
            ("text/plain;q=0.2,*/*;q=0.9", Format::OpenMetrics),
            ("application/openmetrics-text;q=nan", Format::Text),
            ("application/openmetrics-text;q=7", Format::Text),
            ("application/openmetrics-text;q=", Format::Text),
            (";;,,=;q=\u{e9},*", Format::Text),
        ];
        for (accept, expected) in cases {
            assert_eq!(Format::negotiate(Some(accept)), expected, "{accept}");
        }
        assert_eq!(Format::negotiate(None), Format::Text);
    }
}
