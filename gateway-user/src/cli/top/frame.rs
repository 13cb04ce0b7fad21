//! What `top` shows at one moment: rates between two observations, and the state in words.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway_common::Reason;

use crate::cli::state_lines::Line;
use crate::cli::{output, state_lines};
use crate::observe::{Count, Observation, Traffic};

/// Everything on the screen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame {
    /// The state, one line each; the ones that ask for a person come first.
    pub(super) lines: Vec<Line>,
    /// What goes direct and what is inspected.
    pub(super) verdicts: Vec<Row>,
    /// By reason, those that have been seen.
    pub(super) reasons: Vec<Row>,
    /// By endpoint set and own include.
    pub(super) sets: Vec<Row>,
}

/// A name and its rates.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) packets_per_second: f64,
    pub(super) bits_per_second: f64,
    /// Packets since the daemon began to count.
    pub(super) packets: u64,
}

impl Row {
    pub(super) const HEADS: [&'static str; 3] = ["packets/s", "bit/s", "packets"];

    pub(super) fn cells(&self) -> [String; 3] {
        let packets = self.packets.to_string();
        [rate(self.packets_per_second), rate(self.bits_per_second), packets]
    }
}

impl Frame {
    /// What happened from `before` to `now`, in `elapsed`. The first time, before there is anything to
    /// compare with, both are the same.
    pub(super) fn of(before: &Observation, now: &Observation, elapsed: Duration) -> Self {
        // Another daemon counts from another beginning.
        let (was, is) = (&before.traffic, &now.traffic);
        let nothing = Traffic::default();
        let was = if before.started == now.started { was } else { &nothing };
        let elapsed = if before.started == now.started { elapsed } else { Duration::ZERO };
        let rows = |was: &BTreeMap<String, Count>, is: &BTreeMap<String, Count>| {
            let row = |(name, count): (&String, &Count)| {
                Row::between(name, was.get(name).copied().unwrap_or_default(), *count, elapsed)
            };
            is.iter().map(row).collect::<Vec<Row>>()
        };
        let (was_by_reason, by_reason) = (by_reason(was), by_reason(is));
        let mut reasons = rows(&was_by_reason, &by_reason);
        reasons.retain(|row| row.packets > 0);
        let were: BTreeMap<String, Count> = named(was).into_iter().collect();
        Self {
            lines: lines(now),
            verdicts: rows(&by_verdict(&was_by_reason), &by_verdict(&by_reason)),
            reasons,
            sets: named(is)
                .into_iter()
                .map(|(name, count)| {
                    let before = were.get(&name).copied().unwrap_or_default();
                    Row::between(&name, before, count, elapsed)
                })
                .collect(),
        }
    }

    /// No daemon answers; `why`, if it is known.
    pub(super) fn without_daemon(why: &str) -> Self {
        Self { lines: vec![Line::urgent(why)], verdicts: vec![], reasons: vec![], sets: vec![] }
    }

    /// The frame without a terminal to draw on.
    pub(super) fn text(&self) -> String {
        let mut parts: Vec<String> = self.lines.iter().map(|line| line.text.clone()).collect();
        let tables = [("verdict", &self.verdicts), ("reason", &self.reasons), ("set", &self.sets)];
        for (head, rows) in tables {
            if rows.is_empty() {
                continue;
            }
            let [packets_per_second, bits_per_second, packets] = Row::HEADS;
            let mut table = output::table(&[head, packets_per_second, bits_per_second, packets]);
            for row in rows {
                let [packets_per_second, bits_per_second, packets] = row.cells();
                table.add_row([row.name.clone(), packets_per_second, bits_per_second, packets]);
            }
            parts.push(table.to_string());
        }
        parts.join("\n")
    }
}

impl Row {
    fn between(name: &str, before: Count, now: Count, elapsed: Duration) -> Self {
        // A counter that went back began anew.
        let grown = |before: u64, now: u64| now.checked_sub(before).unwrap_or(now);
        Self {
            name: name.to_owned(),
            packets_per_second: per_second(grown(before.packets, now.packets), elapsed),
            bits_per_second: 8.0 * per_second(grown(before.bytes, now.bytes), elapsed),
            packets: now.packets,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are shown with three digits")]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

/// A number of at most four digits and a prefix of powers of 1000.
fn rate(mut rate: f64) -> String {
    for prefix in ["", " k", " M"] {
        if rate < 9_999.5 {
            return format!("{rate:.0}{prefix}");
        }
        rate /= 1000.0;
    }
    format!("{rate:.0} G")
}

/// What went direct by endpoint set and by own include, as they are shown.
fn named(traffic: &Traffic) -> Vec<(String, Count)> {
    let sets = traffic.sets.iter();
    let sets = sets.map(|set| (format!("{} {}", set.id, set.service_area), set.count));
    let own = traffic.own.iter().map(|own| (format!("include {}", own.name), own.count));
    sets.chain(own).collect()
}

fn by_reason(traffic: &Traffic) -> BTreeMap<String, Count> {
    let mut sums: BTreeMap<String, Count> = BTreeMap::new();
    for reason in traffic.hooks.iter().flat_map(|hook| &hook.reasons) {
        let sum = sums.entry(reason.reason.clone()).or_default();
        *sum = sum.plus(reason.count);
    }
    sums
}

fn by_verdict(by_reason: &BTreeMap<String, Count>) -> BTreeMap<String, Count> {
    let mut sums =
        BTreeMap::from(["direct", "inspect"].map(|it| (it.to_owned(), Count::default())));
    for (reason, count) in by_reason {
        let verdict = if reason == Reason::Matched.name() { "direct" } else { "inspect" };
        let sum = sums.entry(verdict.to_owned()).or_default();
        *sum = sum.plus(*count);
    }
    sums
}

/// What asks for a person first.
fn lines(now: &Observation) -> Vec<Line> {
    let mut lines: Vec<Line> = now.switches.iter().filter_map(state_lines::switched_off).collect();
    lines.extend(state_lines::mismatch(now.traffic.self_check));
    lines.extend(now.missing.iter().map(state_lines::missing));
    let generation = now.generation.map_or_else(|| "none".to_owned(), |it| it.to_string());
    let feed = now.feed.serving.as_ref().map_or_else(|| "none yet".to_owned(), ToString::to_string);
    let (pid, started) = (now.pid, &now.started);
    lines.push(Line::calm(format!(
        "generation {generation}, feed {feed}, daemon {pid} since {started}"
    )));
    lines.extend(now.loaded.iter().filter_map(|loaded| state_lines::shadow(loaded.mode)));
    lines.extend(state_lines::of_daemon(now));
    if now.egress.is_none() {
        lines.push(Line::calm("uplink  not kept by breakout365"));
    }
    // Stable: within both, the order stays.
    lines.sort_by_key(|line| !line.urgent);
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Mode;
    use crate::observe::{
        Carrier, EgressState, FamilyState, FeedState, HookTraffic, LoadedState, MissingHook,
        OwnTraffic, ReasonTraffic, SelfCheck, SetTraffic, Switches, VERSION, WindowState,
    };

    fn count(packets: u64) -> Count {
        Count { packets, bytes: packets * 100 }
    }

    /// A daemon of this start that has let `direct` packets go and inspected three times as many.
    pub(in crate::cli::top) fn observation(started: &str, direct: u64) -> Observation {
        let reason = |reason: Reason, packets| ReasonTraffic {
            reason: reason.name().to_owned(),
            count: count(packets),
        };
        let reasons = vec![
            reason(Reason::Matched, direct),
            reason(Reason::NoPrefix, 3 * direct),
            reason(Reason::Ipsec, 0),
        ];
        Observation {
            version: VERSION,
            pid: 42,
            started: started.to_owned(),
            generation: Some(7),
            switches: Some(Switches { on: true, deadline: Some(60), inspecting: None }),
            feed: FeedState::default(),
            traffic: Traffic {
                hooks: vec![HookTraffic {
                    interface: Some("lan0".to_owned()),
                    carrier: Carrier::Xdp,
                    reasons,
                    metadata_unsupported: Count::default(),
                    redirected: Count::default(),
                    fallbacks: Vec::new(),
                }],
                sets: vec![SetTraffic {
                    id: 1,
                    service_area: "Exchange".to_owned(),
                    category: "Optimize".to_owned(),
                    count: count(direct),
                }],
                own: vec![OwnTraffic { name: "branch".to_owned(), count: count(direct) }],
                ..Traffic::default()
            },
            ..Observation::default()
        }
    }

    fn rates(rows: &[Row]) -> Vec<(&str, String, String)> {
        rows.iter()
            .map(|row| {
                let [packets, bits, _] = row.cells();
                (row.name.as_str(), packets, bits)
            })
            .collect()
    }

    fn of(name: &str, packets: &str, bits: &str) -> (String, String, String) {
        (name.to_owned(), packets.to_owned(), bits.to_owned())
    }

    fn assert_rates(rows: &[Row], expected: &[(String, String, String)]) {
        let seen: Vec<_> = rates(rows).into_iter().map(|(n, p, b)| (n.to_owned(), p, b)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn rates_are_what_was_counted_in_between() {
        let (before, now) = (observation("a", 1000), observation("a", 3000));
        let frame = Frame::of(&before, &now, Duration::from_secs(2));
        let direct = of("direct", "1000", "800 k");
        assert_rates(&frame.verdicts, &[direct, of("inspect", "3000", "2400 k")]);
        let matched = of("matched", "1000", "800 k");
        assert_rates(&frame.reasons, &[matched, of("no_prefix", "3000", "2400 k")]);
        let set = of("1 Exchange", "1000", "800 k");
        assert_rates(&frame.sets, &[set, of("include branch", "1000", "800 k")]);
        assert!(frame.lines.iter().all(|line| !line.urgent), "{:?}", frame.lines);
    }

    #[test]
    fn counters_that_begin_anew_are_no_negative_rate() {
        let (before, now) = (observation("a", 1000), observation("a", 10));
        let frame = Frame::of(&before, &now, Duration::from_secs(1));
        assert_rates(&frame.verdicts, &[of("direct", "10", "8000"), of("inspect", "30", "24 k")]);
        // Another daemon: how long it has counted is not known.
        let now = observation("b", 10);
        let frame = Frame::of(&before, &now, Duration::from_secs(1));
        assert_rates(&frame.verdicts, &[of("direct", "0", "0"), of("inspect", "0", "0")]);
    }

    #[test]
    fn what_asks_for_a_person_comes_first() {
        let mut now = observation("a", 1);
        now.switches = Some(Switches {
            on: false,
            deadline: None,
            inspecting: Some("switched_off".to_owned()),
        });
        now.traffic.self_check = SelfCheck { checked: 9, disagreed: 2 };
        now.missing = vec![MissingHook { interface: "lan0".into(), what: "native".into() }];
        now.feed.refused = Some("version 7: too many port sets".to_owned());
        let family = |family: &str, reason: Option<&str>| FamilyState {
            family: family.to_owned(),
            state: if reason.is_some() { "down" } else { "up" }.to_owned(),
            reason: reason.map(str::to_owned),
            since: "2026-08-03T09:02:31Z".to_owned(),
            transitions: 3,
            probe_rtt_seconds: None,
            probes_answered: 0,
            probes_failed: 0,
        };
        now.egress = Some(EgressState {
            interface: "wan0".to_owned(),
            gateway4: Some([192, 0, 2, 1].into()),
            gateway6: None,
            table: 365,
            priority: 365,
            put_back: 0,
            problem: None,
            on_failure: "inspect".to_owned(),
            families: vec![family("ipv4", Some("no_carrier")), family("ipv6", None)],
            flows_ended: BTreeMap::new(),
            disputed: [("ipv6".to_owned(), "rule 100 before ours".to_owned())].into(),
        });
        now.support = vec![WindowState {
            id: 1,
            clients: ["192.0.2.0/25".parse().unwrap()].into(),
            sets: "all sets".to_owned(),
            note: "case 4711".to_owned(),
            started: "2026-08-03T09:00:00Z".to_owned(),
            until: "2026-08-03T11:00:00Z".to_owned(),
        }];
        now.problem = Some("the disk is full".to_owned());
        let frame = Frame::of(&now, &now, Duration::ZERO);
        let words: Vec<_> = frame
            .lines
            .iter()
            .map(|line| (line.urgent, line.text.split(' ').next().unwrap()))
            .collect();
        let urgent = ["OFF", "MISMATCH", "MISSING", "refused", "DOWN", "SUPPORT", "PROBLEM"]
            .map(|it| (true, it));
        let calm = ["generation", "source", "egress", "uplink", "look-up"].map(|it| (false, it));
        assert_eq!(words, [&urgent[..], &calm].concat());
    }

    #[test]
    fn shadow_is_said() {
        let mut now = observation("a", 1);
        now.loaded = Some(LoadedState { mode: Mode::Shadow, ..LoadedState::example() });
        assert!(Frame::of(&now, &now, Duration::ZERO).text().contains("mode    shadow"));
    }

    #[test]
    fn rates_have_four_digits_at_most() {
        let shown = [0.0, 0.4, 999.0, 9_999.0, 10_000.0, 9_999_400.0, 1e7, 4e10, 1.2e13].map(rate);
        let expected = ["0", "0", "999", "9999", "10 k", "9999 k", "10 M", "40 G", "12000 G"];
        assert_eq!(shown, expected.map(str::to_owned));
    }
}
