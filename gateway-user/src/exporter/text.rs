//! The two text formats: Prometheus 0.0.4 and OpenMetrics 1.0.0.
//!
//! Sources: prometheus.io, "Exposition formats"; the OpenMetrics specification, "ABNF" and
//! "Content negotiation". They differ in how a counter is called in what is said about it, and in
//! `# UNIT` and `# EOF`.

use std::fmt::Write as _;

use super::Scrapes;
use super::series::{Kind, SERIES, Sample, Series, Source, Value};
use crate::observe::Observation;

/// How series are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    Prometheus,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Format {
    /// What a client that sends these `Accept` headers wants more: OpenMetrics only where it is
    /// named.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut quality = 1.0;
            let mut is_known = true;
            for parameter in parts {
                match parameter.split_once('=') {
                    Some((name, value)) if name.trim() == "q" => {
                        quality = value.trim().parse().unwrap_or(0.0);
                    }
                    Some((name, value)) if name.trim() == "version" && media == OPEN_METRICS => {
                        is_known = value.trim().trim_matches('"') == "1.0.0";
                    }
                    _ => {}
                }
            }
            let wanted = match media.as_str() {
                OPEN_METRICS if is_known => &mut open_metrics,
                "text/plain" | "text/*" | "*/*" => &mut text,
                _ => continue,
            };
            *wanted = wanted.max(quality);
        }
        if open_metrics > 0.0 && open_metrics >= text {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The `Content-Type` of it.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Every series that has a value, in the order of [`SERIES`].
#[must_use]
pub fn render(format: Format, scrapes: &Scrapes, state: Option<&Observation>) -> String {
    let mut text = String::new();
    for series in SERIES {
        let samples = match (series.read, state) {
            (Source::Exporter(read), _) => read(scrapes),
            (Source::Daemon(read), Some(state)) => read(state),
            (Source::Daemon(_), None) => Vec::new(),
        };
        if !samples.is_empty() {
            head(&mut text, format, series);
        }
        for sample in &samples {
            line(&mut text, series, sample);
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn head(text: &mut String, format: Format, series: &Series) {
    // Writing to a string does not fail, here and below.
    let name = match (format, series.kind) {
        (Format::OpenMetrics, Kind::Counter) => series.family(),
        (Format::OpenMetrics | Format::Prometheus, _) => series.name,
    };
    let _ = writeln!(text, "# TYPE {name} {}", series.kind.name());
    if let (Format::OpenMetrics, Some(unit)) = (format, series.unit()) {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
    let help = match format {
        Format::Prometheus => series.help.replace('\\', "\\\\"),
        Format::OpenMetrics => escaped(series.help),
    };
    let _ = writeln!(text, "# HELP {name} {help}");
}

fn line(text: &mut String, series: &Series, sample: &Sample) {
    text.push_str(series.name);
    let mut before = '{';
    for (name, value) in series.labels.iter().zip(&sample.labels) {
        text.push(before);
        let _ = write!(text, "{name}=\"{}\"", escaped(value));
        before = ',';
    }
    if before == ',' {
        text.push('}');
    }
    let _ = match sample.value {
        Value::Whole(value) => writeln!(text, " {value}"),
        Value::Seconds(value) => writeln!(text, " {value}"),
    };
}

/// Between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_name_it() {
        let prometheus_2_42 = "application/openmetrics-text;version=1.0.0,application/\
                               openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;\
                               q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain", Format::Prometheus),
            ("text/plain;version=0.0.4", Format::Prometheus),
            ("application/json", Format::Prometheus),
            (OPEN_METRICS, Format::OpenMetrics),
            ("Application/OpenMetrics-Text; version=\"1.0.0\"; charset=utf-8", Format::OpenMetrics),
            (prometheus_2_42, Format::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Format::Prometheus),
            ("application/openmetrics-text;q=0.3, text/plain;q=0.9", Format::Prometheus),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("application/openmetrics-text;q=x", Format::Prometheus),
            (";;;=,,=;q", Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn what_labels_may_hold_is_escaped() {
        let series = SERIES.iter().find(|it| it.name == "breakout365_include_packets_total");
        let sample = Sample { labels: vec!["a\"b\\c\nd".to_owned()], value: Value::Whole(7) };
        let mut text = String::new();
        line(&mut text, series.unwrap(), &sample);
        assert_eq!(text, "breakout365_include_packets_total{include=\"a\\\"b\\\\c\\nd\"} 7\n");
    }

    #[test]
    fn names_say_what_they_are() {
        let mut names = std::collections::BTreeSet::new();
        for series in SERIES {
            let name = series.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("breakout365_"), "{name}");
            assert_eq!(name.ends_with("_total"), series.kind == Kind::Counter, "{name}");
            assert!(series.help.ends_with('.') && !series.help.contains('\n'), "{name}");
        }
    }

    #[test]
    fn without_a_daemon_only_the_exporters_own_series_are_there() {
        let scrapes = Scrapes { absent: 3, ..Scrapes::default() };
        let text = render(Format::OpenMetrics, &scrapes, None);
        assert!(text.contains("\nbreakout365_up 0\n"), "{text}");
        assert!(text.contains("breakout365_exporter_scrapes_total{outcome=\"absent\"} 3\n"));
        assert!(text.contains("# TYPE breakout365_exporter_scrapes counter\n"));
        assert!(text.ends_with("\n# EOF\n"));
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(samples.count(), 1 + 1 + 3, "{text}");
    }
}
