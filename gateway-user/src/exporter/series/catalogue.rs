//! The list itself, in the order of its documentation.

use std::collections::BTreeSet;

use gateway_common::Verdict;

use super::Kind::{Counter, Gauge};
use super::Source::{Daemon, Exporter};
use super::{Sample, Series, Value, uplink};
use crate::config::Mode;
use crate::observe::{Carrier, Count, HookTraffic, Observation, verdict_of};

/// Every series.
pub static SERIES: &[Series] = &[
    Series {
        name: "breakout365_up",
        kind: Gauge,
        labels: &[],
        help: "Whether the daemon answered this scrape; if not, only series of the exporter are there.",
        read: Exporter(|scrapes| vec![Sample::flag(scrapes.answered)]),
    },
    Series {
        name: "breakout365_exporter_build_info",
        kind: Gauge,
        labels: &["version"],
        help: "Always 1; the version of the exporter.",
        read: Exporter(|_| vec![Sample::whole(1).with(&[env!("CARGO_PKG_VERSION")])]),
    },
    Series {
        name: "breakout365_exporter_scrapes_total",
        kind: Counter,
        labels: &["outcome"],
        help: "Scrapes: answered by the daemon, without a daemon (absent), or with one that did not answer as it should (failed).",
        read: Exporter(|scrapes| {
            let outcomes = [
                ("absent", scrapes.absent),
                ("answered", scrapes.answers),
                ("failed", scrapes.failed),
            ];
            outcomes.map(|(outcome, count)| Sample::whole(count).with(&[outcome])).into()
        }),
    },
    Series {
        name: "breakout365_daemon_info",
        kind: Gauge,
        labels: &["version"],
        help: "Always 1; the version of the daemon.",
        read: Daemon(|state| vec![Sample::whole(1).with(&[&state.breakout365])]),
    },
    Series {
        name: "breakout365_daemon_start_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the daemon started; its counters begin then, with what the generation had counted that it found.",
        read: Daemon(|state| Sample::time(Some(&state.started))),
    },
    Series {
        name: "breakout365_packets_total",
        kind: Counter,
        labels: &["interface", "carrier", "verdict", "reason"],
        help: "Packets decided, each once, by the interface they came in by (empty where it is none of the configured ones), by what classified them (xdp, tc), verdict (direct, inspect) and reason.",
        read: Daemon(|state| by_reason(state, |count| count.packets)),
    },
    Series {
        name: "breakout365_bytes_total",
        kind: Counter,
        labels: &["interface", "carrier", "verdict", "reason"],
        help: "Bytes of whole frames decided, as breakout365_packets_total.",
        read: Daemon(|state| by_reason(state, |count| count.bytes)),
    },
    Series {
        name: "breakout365_set_packets_total",
        kind: Counter,
        labels: &["set", "service_area", "category"],
        help: "Direct packets by endpoint set; a packet that several sets list counts for each of them.",
        read: Daemon(|state| by_set(state, |count| count.packets)),
    },
    Series {
        name: "breakout365_set_bytes_total",
        kind: Counter,
        labels: &["set", "service_area", "category"],
        help: "Bytes of direct frames by endpoint set, as breakout365_set_packets_total.",
        read: Daemon(|state| by_set(state, |count| count.bytes)),
    },
    Series {
        name: "breakout365_include_packets_total",
        kind: Counter,
        labels: &["include"],
        help: "Direct packets by own include.",
        read: Daemon(|state| by_include(state, |count| count.packets)),
    },
    Series {
        name: "breakout365_include_bytes_total",
        kind: Counter,
        labels: &["include"],
        help: "Bytes of direct frames by own include.",
        read: Daemon(|state| by_include(state, |count| count.bytes)),
    },
    Series {
        name: "breakout365_metadata_accepted_packets_total",
        kind: Counter,
        labels: &[],
        help: "Packets that tc marked by the proposal XDP had put in front of them; after GRO, so fewer and larger than XDP's.",
        read: Daemon(|state| vec![Sample::whole(state.traffic.metadata_accepted.packets)]),
    },
    Series {
        name: "breakout365_metadata_unsupported_packets_total",
        kind: Counter,
        labels: &["interface"],
        help: "Direct packets without a proposal because the driver has no XDP metadata; tc classified them itself.",
        read: Daemon(|state| {
            let sample = |hook: &HookTraffic| {
                let interface = hook.interface.as_deref().unwrap_or_default();
                Sample::whole(hook.metadata_unsupported.packets).with(&[interface])
            };
            xdp_hooks(state).map(sample).collect()
        }),
    },
    Series {
        name: "breakout365_self_checked_packets_total",
        kind: Counter,
        labels: &[],
        help: "Proposals of XDP that tc checked by classifying the packet itself (self-check).",
        read: Daemon(|state| vec![Sample::whole(state.traffic.self_check.checked)]),
    },
    Series {
        name: "breakout365_self_check_disagreed_packets_total",
        kind: Counter,
        labels: &[],
        help: "Proposals of XDP that tc checked and would not have made; these packets were inspected.",
        read: Daemon(|state| vec![Sample::whole(state.traffic.self_check.disagreed)]),
    },
    Series {
        name: "breakout365_trace_lost_packets_total",
        kind: Counter,
        labels: &[],
        help: "Packets that were drawn for `breakout365 trace` and found no room; they went their way as all others.",
        read: Daemon(|state| vec![Sample::whole(state.traffic.trace_lost.packets)]),
    },
    Series {
        name: "breakout365_redirected_packets_total",
        kind: Counter,
        labels: &["interface"],
        help: "Direct packets that XDP sent to the uplink by itself (egress.action = \"redirect\").",
        read: Daemon(|state| {
            let sample = |hook: &HookTraffic| {
                let interface = hook.interface.as_deref().unwrap_or_default();
                Sample::whole(hook.redirected.packets).with(&[interface])
            };
            xdp_hooks(state).map(sample).collect()
        }),
    },
    Series {
        name: "breakout365_redirect_fallback_packets_total",
        kind: Counter,
        labels: &["interface", "cause"],
        help: "Direct packets that XDP was to redirect and left to the stack, marked.",
        read: Daemon(|state| {
            let samples = |hook: &HookTraffic| {
                let interface = hook.interface.clone().unwrap_or_default();
                let fallbacks = hook.fallbacks.clone().into_iter();
                fallbacks
                    .map(move |it| Sample::whole(it.count.packets).with(&[&interface, &it.cause]))
            };
            xdp_hooks(state).flat_map(samples).collect()
        }),
    },
    Series {
        name: "breakout365_generation",
        kind: Gauge,
        labels: &[],
        help: "Number of the generation that is published.",
        read: Daemon(|state| {
            state.loaded.iter().map(|loaded| Sample::whole(loaded.generation)).collect()
        }),
    },
    Series {
        name: "breakout365_generation_loaded_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the published generation was loaded.",
        read: Daemon(|state| {
            state.loaded.iter().map(|loaded| Sample::whole(loaded.loaded_at)).collect()
        }),
    },
    Series {
        name: "breakout365_hook_info",
        kind: Gauge,
        labels: &["interface", "xdp", "tc"],
        help: "Always 1; how an interface is attached (xdp: native, generic or empty; tc: tcx, clsact or empty).",
        read: Daemon(|state| {
            let hooks = state.loaded.iter().flat_map(|loaded| &loaded.hooks);
            let hooks = hooks.filter_map(|hook| Some((hook.interface.as_deref()?, hook)));
            hooks
                .map(|(interface, hook)| {
                    let (xdp, tc) = (hook.xdp.unwrap_or_default(), hook.tc.unwrap_or_default());
                    Sample::whole(1).with(&[interface, xdp, tc])
                })
                .collect()
        }),
    },
    Series {
        name: "breakout365_hook_missing",
        kind: Gauge,
        labels: &["interface"],
        help: "Whether an inside interface is away, or something on it was detached that was attached; its packets may be inspected meanwhile.",
        read: Daemon(missing_hooks),
    },
    Series {
        name: "breakout365_shadow",
        kind: Gauge,
        labels: &[],
        help: "Whether direct packets are counted only, and none is marked (mode = \"shadow\").",
        read: Daemon(|state| {
            let shadow = |mode| Sample::flag(mode == Mode::Shadow);
            state.loaded.iter().map(|loaded| shadow(loaded.mode)).collect()
        }),
    },
    Series {
        name: "breakout365_table_entries",
        kind: Gauge,
        labels: &["part"],
        help: "Entries of the table: prefixes_ipv4, prefixes_ipv6, port_sets, blocks.",
        read: Daemon(|state| by_part(state, |fill| fill.entries)),
    },
    Series {
        name: "breakout365_table_capacity",
        kind: Gauge,
        labels: &["part"],
        help: "Room in the table; the tries of prefixes are made anew with each generation, twice as large as they need to be.",
        read: Daemon(|state| by_part(state, |fill| fill.capacity)),
    },
    Series {
        name: "breakout365_publications_total",
        kind: Counter,
        labels: &["outcome"],
        help: "Generations: published, or failed, so that the one before went on.",
        read: Daemon(|state| {
            let done = &state.publications;
            let outcomes = [("failed", done.failed), ("published", done.published)];
            outcomes.map(|(outcome, count)| Sample::whole(count).with(&[outcome])).into()
        }),
    },
    Series {
        name: "breakout365_publish_duration_seconds_total",
        kind: Counter,
        labels: &[],
        help: "Time that publishing took, from load to switch, all published generations together.",
        read: Daemon(|state| vec![milliseconds(state.publications.total_milliseconds)]),
    },
    Series {
        name: "breakout365_publish_last_duration_seconds",
        kind: Gauge,
        labels: &[],
        help: "Time that publishing the last generation took.",
        read: Daemon(|state| {
            let last = state.publications.last.as_ref();
            last.map(|_| milliseconds(state.publications.last_milliseconds)).into_iter().collect()
        }),
    },
    Series {
        name: "breakout365_publish_last_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the daemon published last.",
        read: Daemon(|state| Sample::time(state.publications.last.as_deref())),
    },
    Series {
        name: "breakout365_self_test_failures_total",
        kind: Counter,
        labels: &[],
        help: "Generations that were not published because programs and oracle disagreed.",
        read: Daemon(|state| vec![Sample::whole(state.publications.self_test_failed)]),
    },
    Series {
        name: "breakout365_feed_info",
        kind: Gauge,
        labels: &["instance", "version"],
        help: "Always 1; the feed that serves (empty where its source does not say).",
        read: Daemon(|state| {
            let serving = state.feed.serving.iter();
            serving
                .map(|feed| {
                    let instance = feed.instance.as_deref().unwrap_or_default();
                    let version = feed.version.as_deref().unwrap_or_default();
                    Sample::whole(1).with(&[instance, version])
                })
                .collect()
        }),
    },
    Series {
        name: "breakout365_feed_version",
        kind: Gauge,
        labels: &[],
        help: "Version of the feed that serves, as a number (YYYYMMDDNN); absent where its source does not say.",
        read: Daemon(|state| {
            let version = state.feed.serving.as_ref().and_then(|feed| feed.version.as_ref());
            version
                .and_then(|version| version.parse().ok())
                .map(Sample::whole)
                .into_iter()
                .collect()
        }),
    },
    Series {
        name: "breakout365_feed_last_success_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the feed's source last answered as it should; absent before that, and for a file or the list in the binary.",
        read: Daemon(|state| Sample::time(state.feed.last_success.as_deref())),
    },
    Series {
        name: "breakout365_feed_followed_since_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the feed's source was first to be asked, restarts included; absent for a file or the list in the binary.",
        read: Daemon(|state| Sample::time(state.feed.since.as_deref())),
    },
    Series {
        name: "breakout365_feed_poll_interval_seconds",
        kind: Gauge,
        labels: &[],
        help: "How long after a check that succeeded the feed's source is asked again (feed.poll-interval); absent for a file or the list in the binary.",
        read: Daemon(|state| state.feed.poll_interval.map(Sample::whole).into_iter().collect()),
    },
    Series {
        name: "breakout365_feed_last_check_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the feed's source was last asked.",
        read: Daemon(|state| Sample::time(state.feed.last_check.as_deref())),
    },
    Series {
        name: "breakout365_feed_next_check_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the feed's source is asked next.",
        read: Daemon(|state| Sample::time(state.feed.next_check.as_deref())),
    },
    Series {
        name: "breakout365_feed_checks_total",
        kind: Counter,
        labels: &["outcome"],
        help: "Checks of the feed by what became of them: ok, or the kind of failure.",
        read: Daemon(|state| {
            let checks = state.feed.checks.iter();
            checks.map(|(outcome, count)| Sample::whole(*count).with(&[outcome])).collect()
        }),
    },
    Series {
        name: "breakout365_feed_stale",
        kind: Gauge,
        labels: &[],
        help: "Whether the last success is longer ago than max-age.",
        read: Daemon(|state| vec![Sample::flag(state.feed.stale)]),
    },
    Series {
        name: "breakout365_feed_additions_held",
        kind: Gauge,
        labels: &[],
        help: "Additions that wait for the day they become effective.",
        read: Daemon(|state| vec![Sample::whole(length(&state.feed.held))]),
    },
    Series {
        name: "breakout365_plans_held_total",
        kind: Counter,
        labels: &["guard"],
        help: "Plans that a guard has refused; one that several refused counts for each of them.",
        read: Daemon(|state| {
            let held = crate::plan::Guard::ALL.map(|guard| {
                let count = state.plans_held.get(guard.name()).copied().unwrap_or_default();
                Sample::whole(count).with(&[guard.name()])
            });
            held.into()
        }),
    },
    Series {
        name: "breakout365_plan_waiting",
        kind: Gauge,
        labels: &[],
        help: "Whether a plan waits for a person.",
        read: Daemon(|state| vec![Sample::flag(state.pending.is_some())]),
    },
    Series {
        name: "breakout365_trial_end_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the daemon goes back unless somebody confirms; absent while nothing is on trial.",
        read: Daemon(|state| Sample::time(state.confirm_until.as_deref())),
    },
    Series {
        name: "breakout365_switched_on",
        kind: Gauge,
        labels: &[],
        help: "The kill switch: 0 after `breakout365 off`.",
        read: Daemon(|state| {
            state.switches.iter().map(|switches| Sample::flag(switches.on)).collect()
        }),
    },
    Series {
        name: "breakout365_deadline_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "The dead man's switch: when everything is inspected unless the daemon says before that it lives; absent where it never is.",
        read: Daemon(|state| Sample::time(state.deadline.as_deref())),
    },
    Series {
        name: "breakout365_everything_inspected",
        kind: Gauge,
        labels: &["cause"],
        help: "Whether nothing goes direct, by cause: switched_off, daemon_gone, feed_stale, nothing_loaded.",
        read: Daemon(|state| {
            let by_switch =
                state.switches.as_ref().and_then(|switches| switches.inspecting.as_deref());
            let causes = [
                ("daemon_gone", by_switch == Some("daemon_gone")),
                ("feed_stale", state.feed.inspecting),
                ("nothing_loaded", state.generation.is_none()),
                ("switched_off", by_switch == Some("switched_off")),
            ];
            causes.map(|(cause, is)| Sample::flag(is).with(&[cause])).into()
        }),
    },
    Series {
        name: "breakout365_degraded",
        kind: Gauge,
        labels: &["cause"],
        help: "Whether something went wrong and has not come right since, by where: daemon, egress, feed (the last check failed), hook (breakout365_hook_missing), policy (it refuses the feed).",
        read: Daemon(|state| {
            let egress = state.egress.as_ref().and_then(|egress| egress.problem.as_ref());
            let causes = [
                ("daemon", state.problem.is_some()),
                ("egress", egress.is_some()),
                ("feed", state.feed.problem.is_some()),
                ("hook", !state.missing.is_empty()),
                ("policy", state.feed.refused.is_some()),
            ];
            causes.map(|(cause, is)| Sample::flag(is).with(&[cause])).into()
        }),
    },
    Series {
        name: "breakout365_egress_up",
        kind: Gauge,
        labels: &["interface"],
        help: "Whether rules, routes and nftables table of the direct uplink are in place; absent without [egress].",
        read: Daemon(|state| {
            let egress = state.egress.iter();
            egress
                .map(|egress| Sample::flag(egress.problem.is_none()).with(&[&egress.interface]))
                .collect()
        }),
    },
    Series {
        name: "breakout365_egress_put_back_total",
        kind: Counter,
        labels: &[],
        help: "How often the daemon had to put something of the direct uplink back that somebody had removed.",
        read: Daemon(|state| {
            state.egress.iter().map(|egress| Sample::whole(egress.put_back)).collect()
        }),
    },
    Series {
        name: "breakout365_egress_info",
        kind: Gauge,
        labels: &["interface", "on_failure"],
        help: "Always 1; the direct uplink, and what becomes of new flows while a family of it is down: inspect or block.",
        read: Daemon(uplink::settings),
    },
    Series {
        name: "breakout365_uplink_up",
        kind: Gauge,
        labels: &["interface", "family"],
        help: "Whether new flows of a family (ipv4, ipv6) that is to have a next hop go direct; 1 also while no probe has said so yet.",
        read: Daemon(uplink::up),
    },
    Series {
        name: "breakout365_uplink_down_reason",
        kind: Gauge,
        labels: &["interface", "family", "reason"],
        help: "Whether a family is down, by reason: no_interface, set_down, no_carrier, no_next_hop, next_hop_failed, not_in_place, probes_failed, settling.",
        read: Daemon(uplink::reason),
    },
    Series {
        name: "breakout365_uplink_since_timestamp_seconds",
        kind: Gauge,
        labels: &["interface", "family"],
        help: "Since when a family is up or down.",
        read: Daemon(uplink::since),
    },
    Series {
        name: "breakout365_uplink_transitions_total",
        kind: Counter,
        labels: &["interface", "family"],
        help: "How often a family went from up to down or back.",
        read: Daemon(uplink::transitions),
    },
    Series {
        name: "breakout365_uplink_probe_rounds_total",
        kind: Counter,
        labels: &["interface", "family", "outcome"],
        help: "Rounds of probes: answered, or failed because nobody answered; 0 without [egress.health].",
        read: Daemon(uplink::probes),
    },
    Series {
        name: "breakout365_uplink_probe_rtt_seconds",
        kind: Gauge,
        labels: &["interface", "family"],
        help: "How long the last answer to a probe took, a TCP handshake; absent before the first one.",
        read: Daemon(uplink::rtt),
    },
    Series {
        name: "breakout365_redirect_disputed",
        kind: Gauge,
        labels: &["interface", "family"],
        help: "Whether the way of a family is looked up by all rules, not in the direct table alone, for a rule or route of others; absent where nothing is redirected.",
        read: Daemon(uplink::disputed),
    },
    Series {
        name: "breakout365_flows_ended_total",
        kind: Counter,
        labels: &["cause"],
        help: "Direct flows that the daemon ended, by cause: uplink_down, revoked (by a person, with the end of a support window, or by another configuration).",
        read: Daemon(uplink::flows_ended),
    },
    Series {
        name: "breakout365_support_windows",
        kind: Gauge,
        labels: &[],
        help: "Support windows that are open.",
        read: Daemon(|state| vec![Sample::whole(length(&state.support))]),
    },
    Series {
        name: "breakout365_support_last_end_timestamp_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the last of the open support windows is over; absent while none is open.",
        read: Daemon(|state| {
            // RFC 3339 in UTC, all of one length: the greatest text is the latest time.
            Sample::time(state.support.iter().map(|window| window.until.as_str()).max())
        }),
    },
    Series {
        name: "breakout365_program_run_seconds_total",
        kind: Counter,
        labels: &["program"],
        help: "Time that a BPF program ran, all CPUs together; only while kernel.bpf_stats_enabled is 1.",
        read: Daemon(|state| {
            let programs = state.traffic.programs.iter();
            programs
                .map(|run| {
                    let time = std::time::Duration::from_nanos(run.nanoseconds);
                    Sample::seconds(time.as_secs_f64()).with(&[&run.program])
                })
                .collect()
        }),
    },
    Series {
        name: "breakout365_program_runs_total",
        kind: Counter,
        labels: &["program"],
        help: "How often a BPF program ran; a packet may run two of them, and tc runs once for what GRO has merged; only while kernel.bpf_stats_enabled is 1.",
        read: Daemon(|state| {
            let programs = state.traffic.programs.iter();
            programs.map(|run| Sample::whole(run.runs).with(&[&run.program])).collect()
        }),
    },
];

fn missing_hooks(state: &Observation) -> Vec<Sample> {
    let hooks = state.loaded.iter().flat_map(|loaded| &loaded.hooks);
    let hooked = hooks.filter_map(|hook| hook.interface.as_deref());
    let missing: BTreeSet<&str> = state.missing.iter().map(|it| it.interface.as_str()).collect();
    let all: BTreeSet<&str> = hooked.chain(missing.iter().copied()).collect();
    let sample = |interface| Sample::flag(missing.contains(interface)).with(&[interface]);
    all.into_iter().map(sample).collect()
}

fn by_reason(state: &Observation, of: impl Fn(Count) -> u64) -> Vec<Sample> {
    let mut samples = Vec::new();
    for hook in &state.traffic.hooks {
        let interface = hook.interface.as_deref().unwrap_or_default();
        let carrier = match hook.carrier {
            Carrier::Xdp => "xdp",
            Carrier::Tc => "tc",
        };
        for reason in &hook.reasons {
            let verdict = match verdict_of(&reason.reason) {
                Verdict::Direct => "direct",
                Verdict::Inspect => "inspect",
            };
            let labels = [interface, carrier, verdict, &reason.reason];
            samples.push(Sample::whole(of(reason.count)).with(&labels));
        }
    }
    samples
}

fn by_set(state: &Observation, of: impl Fn(Count) -> u64) -> Vec<Sample> {
    let sample = |set: &crate::observe::SetTraffic| {
        let labels = [&set.id.to_string(), set.service_area.as_str(), set.category.as_str()];
        Sample::whole(of(set.count)).with(&labels)
    };
    state.traffic.sets.iter().map(sample).collect()
}

fn by_include(state: &Observation, of: impl Fn(Count) -> u64) -> Vec<Sample> {
    let own = state.traffic.own.iter();
    own.map(|own| Sample::whole(of(own.count)).with(&[&own.name])).collect()
}

/// The hooks that XDP classifies on.
fn xdp_hooks(state: &Observation) -> impl Iterator<Item = &HookTraffic> {
    state.traffic.hooks.iter().filter(|hook| hook.carrier == Carrier::Xdp)
}

fn by_part(state: &Observation, of: impl Fn(&crate::observe::Fill) -> u64) -> Vec<Sample> {
    let parts = state.table.iter().flat_map(|table| &table.parts);
    parts.map(|(part, fill)| Sample::whole(of(fill)).with(&[part])).collect()
}

fn milliseconds(value: u64) -> Sample {
    let seconds = std::time::Duration::from_millis(value).as_secs_f64();
    Sample { labels: Vec::new(), value: Value::Seconds(seconds) }
}

fn length<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}
