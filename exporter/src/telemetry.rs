//! The agent's own log: text for a person at a terminal, one JSON object a line for a collector.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text when standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error, for `tracing` and for crates that use `log`; panics are logged as well, so that
/// they too come as one record of the chosen format.
///
/// `level` is a comma-separated list of levels (`info`) and of `target=level` pairs (`podmeter=debug,aya=warn`). A
/// target that no pair covers gets the level that stands alone, or `info` where none does.
///
/// # Errors
///
/// When `level` is malformed, or when the process has a logger already.
pub fn init(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let targets = targets(level)?;
    let terminal = std::io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(targets);
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    if json {
        registry.with(layer.with_ansi(false).event_format(JsonLines)).try_init()
    } else {
        registry.with(layer.with_ansi(terminal)).try_init()
    }
    .context("logging is set up already")?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message = (payload.downcast_ref::<&str>().copied())
        .or_else(|| payload.downcast_ref().map(String::as_str))
        .unwrap_or("without a message");
    // Captured only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    tracing::error!(
        location = panic.location().map(tracing::field::display),
        thread = std::thread::current().name(),
        backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace)),
        "panic: {message}"
    );
}

/// Reads a list of log directives.
fn targets(directives: &str) -> anyhow::Result<Targets> {
    let mut targets = Targets::new().with_default(LevelFilter::INFO);
    for directive in directives.split(',').map(str::trim) {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, directive),
        };
        let level = match level.to_ascii_lowercase().as_str() {
            "off" => LevelFilter::OFF,
            "error" => LevelFilter::ERROR,
            "warn" => LevelFilter::WARN,
            "info" => LevelFilter::INFO,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            _ => bail!(
                "bad log level {directive:?}: give one of off, error, warn, info, debug and trace, or \
                 target=level pairs with commas between them, such as info,aya=warn"
            ),
        };
        targets = match target {
            Some("") => bail!("bad log level {directive:?}: there is no target before the equals sign"),
            Some(target) => targets.with_target(target, level),
            None => targets.with_default(level),
        };
    }
    Ok(targets)
}

/// Formats an event as a JSON object: `timestamp` (RFC 3339), `level`, `service`, `target`, `message`, and the event's
/// fields next to them, as a collector's JSON parser expects them. A field with one of those names gets `field_` before
/// it.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        // An event that comes from the `log` crate carries the target of its origin as a field.
        let target = fields.log_target.unwrap_or_else(|| metadata.target().to_owned());
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        writeln!(
            writer,
            "\",\"level\":\"{}\",\"service\":\"podmeter\",\"target\":{},\"message\":{}{}}}",
            level_name(*metadata.level()),
            Value::String(target),
            Value::String(fields.message),
            fields.rest
        )
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// What an event carries.
#[derive(Default)]
struct Fields {
    message: String,
    log_target: Option<String>,
    /// The other fields as JSON, each with a comma before it.
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        let prefix = match field.name() {
            // Where in its source a `log` record comes from: noise but for the target.
            name if name.starts_with("log.") => return,
            "timestamp" | "level" | "service" | "target" => "field_",
            _ => "",
        };
        let key = Value::String(format!("{prefix}{}", field.name()));
        // Writing to memory does not fail.
        let _ = write!(self.rest, ",{key}:{value}");
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            "log.target" => self.log_target = Some(value.to_owned()),
            _ => self.add(field, value.into()),
        }
    }

    /// JSON has no infinities and no NaN; they become text.
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, if value.is_finite() { value.into() } else { value.to_string().into() });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// The log of a test.
    #[derive(Clone, Default)]
    pub(crate) struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        /// A subscriber that logs JSON at all levels into this buffer.
        pub(crate) fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
            let layer = tracing_subscriber::fmt::layer().with_writer(self.clone()).event_format(JsonLines);
            tracing_subscriber::registry().with(layer)
        }

        /// Its lines, parsed.
        pub(crate) fn lines(&self) -> Vec<Value> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Buffer {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn json_lines_parse_and_keep_their_types() {
        let buffer = Buffer::default();
        tracing::subscriber::with_default(buffer.subscriber(), || {
            let error = io::Error::other("no \"luck\"");
            tracing::info!(
                count = 7_u64,
                delta = -3_i64,
                huge = u64::MAX,
                ratio = 0.25,
                infinite = f64::INFINITY,
                ok = true,
                text = "a \"quoted\" \\ line\nbreak \u{1} é",
                debug = ?["x"],
                display = %error,
                error = &error as &dyn std::error::Error,
                level = "mine",
                absent = None::<u64>,
                "it's {}",
                "\"formatted\"\n\t"
            );
            // As the bridge from the `log` crate emits it.
            tracing::warn!(target: "log", { "log.target" = "aya::maps", "log.line" = 3 }, "second");
        });
        let lines = buffer.lines();
        let mut first = lines[0].clone();
        let timestamp = first.as_object_mut().unwrap().remove("timestamp").unwrap();
        let timestamp = timestamp.as_str().unwrap();
        let (date, fraction) = timestamp.split_once('.').unwrap();
        assert_eq!(date.replace(|c: char| c.is_ascii_digit(), "0"), "0000-00-00T00:00:00");
        assert!(
            fraction.ends_with('Z') && fraction[..fraction.len() - 1].parse::<u32>().is_ok(),
            "{timestamp}"
        );
        let expected = json!({
            "level": "info", "service": "podmeter", "target": "podmeter::telemetry::tests",
            "message": "it's \"formatted\"\n\t",
            "count": 7, "delta": -3, "huge": u64::MAX, "ratio": 0.25, "infinite": "inf", "ok": true,
            "text": "a \"quoted\" \\ line\nbreak \u{1} é", "debug": "[\"x\"]", "display": "no \"luck\"",
            "error": "no \"luck\"", "field_level": "mine",
        });
        assert_eq!(first, expected);
        let mut second = lines[1].clone();
        second.as_object_mut().unwrap().remove("timestamp").unwrap();
        let expected =
            json!({"level": "warn", "service": "podmeter", "target": "aya::maps", "message": "second"});
        assert_eq!(second, expected);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn directives() {
        let enabled = |directives: &str, target: &str, level: Level| {
            targets(directives).unwrap().would_enable(target, &level)
        };
        assert!(enabled("info", "podmeter", Level::INFO) && !enabled("info", "podmeter", Level::DEBUG));
        let pairs = " podmeter=DEBUG , aya=warn";
        assert!(enabled(pairs, "podmeter::http", Level::DEBUG) && !enabled(pairs, "aya::maps", Level::INFO));
        assert!(enabled(pairs, "hyper", Level::INFO) && !enabled(pairs, "hyper", Level::DEBUG));
        assert!(
            enabled("aya=off,trace", "x", Level::TRACE) && !enabled("aya=off,trace", "aya", Level::ERROR)
        );
        for bad in ["", "inof", "podmeter", "podmeter=", "=info", "info,,", "3", "podmeter=debug;aya=warn"] {
            let error = targets(bad).unwrap_err().to_string();
            assert!(error.starts_with("bad log level \""), "{bad}: {error}");
        }
        assert!(targets("inof").unwrap_err().to_string().contains("off, error, warn, info, debug and trace"));
    }

    #[test]
    fn a_bad_level_stops_the_start() {
        assert!(init(LogFormat::Auto, "loud").unwrap_err().to_string().starts_with("bad log level \"loud\""));
    }
}
