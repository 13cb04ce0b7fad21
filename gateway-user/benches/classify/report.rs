//! The figures, as a table for people and as JSON.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use comfy_table::{Table as TextTable, presets};
use gateway_user::datapath::{Generation, Pins, bring_up};
use gateway_user::policy::Table;
use serde::Serialize;

use crate::MARK;
use crate::cases::{Case, Destinations};
use crate::measure::Sample;
use crate::site::{Site, blueprint, native_hook};

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) tables: Vec<TableCost>,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    case: String,
    hook: &'static str,
    prefixes: usize,
    index: bool,
    destinations: &'static str,
    ns_over_empty: f64,
    first_quartile: f64,
    third_quartile: f64,
}

/// What a table of one size costs besides.
#[derive(Clone, Debug)]
pub(crate) struct TableCost {
    prefixes: usize,
    load_to_publish_ms: f64,
    map_kib: u64,
    blocks: usize,
    verified_instructions: Vec<(String, Option<u32>)>,
}

impl Row {
    pub(crate) fn new(
        hook: &'static str,
        case: &Case,
        prefixes: usize,
        index: bool,
        destinations: Destinations,
        sample: Sample,
    ) -> Self {
        Self {
            destinations: destinations.name(),
            ..Self::of(case.name, hook, prefixes, index, sample)
        }
    }

    /// A figure for one packet.
    pub(crate) fn of(
        case: &str,
        hook: &'static str,
        prefixes: usize,
        index: bool,
        sample: Sample,
    ) -> Self {
        Self {
            case: case.to_owned(),
            hook,
            prefixes,
            index,
            destinations: Destinations::Same.name(),
            ns_over_empty: round(sample.median),
            first_quartile: round(sample.low),
            third_quartile: round(sample.high),
        }
    }
}

fn round(nanoseconds: f64) -> f64 {
    (nanoseconds * 100.0).round() / 100.0
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} index={} {}: {:+.1} ns ({:+.1} to {:+.1})",
            self.hook,
            self.case,
            self.prefixes,
            self.index,
            self.destinations,
            self.ns_over_empty,
            self.first_quartile,
            self.third_quartile,
        )
    }
}

impl TableCost {
    /// Publishes `table` on an interface of its own, once.
    pub(crate) fn measure(table: &Table, prefixes: usize) -> Result<Self> {
        let generation = Generation::load(table, MARK.into())?;
        Ok(Self {
            prefixes,
            load_to_publish_ms: round(load_to_publish(table)?.as_secs_f64() * 1_000.0),
            map_kib: generation.map_memory().values().sum::<u64>() / 1024,
            blocks: table.blocks().len(),
            verified_instructions: generation
                .verified_instructions()
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
        })
    }
}

fn load_to_publish(table: &Table) -> Result<Duration> {
    let site = Site::new()?;
    let blueprint = blueprint(table.clone());
    site.inside.enter(|| {
        let hook = native_hook()?;
        let lock = Pins::new(site.bpffs.pins()).lock()?;
        let start = Instant::now();
        bring_up(&lock, &blueprint, &[hook], &mut |_| Ok(()))?;
        Ok(start.elapsed())
    })?
}

impl Report {
    /// The figures as a JSON list.
    pub(crate) fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(&self.rows).context("JSON")
    }

    pub(crate) fn text(&self) -> String {
        let mut figures = TextTable::new();
        figures.load_style(presets::UTF8_BORDERS_ONLY).set_header([
            "hook",
            "case",
            "prefixes",
            "index",
            "destinations",
            "ns over empty",
            "quartiles",
        ]);
        for row in &self.rows {
            figures.add_row([
                row.hook.to_owned(),
                row.case.clone(),
                if row.prefixes == 0 { String::new() } else { row.prefixes.to_string() },
                if row.index { "on" } else { "off" }.to_owned(),
                row.destinations.to_owned(),
                format!("{:+.1}", row.ns_over_empty),
                format!("{:+.1} to {:+.1}", row.first_quartile, row.third_quartile),
            ]);
        }
        format!(
            "{figures}\n\nA difference within the A/A row and the quartiles is no difference.\n\n{}",
            self.table_costs()
        )
    }

    /// What the tables cost besides, as text.
    pub(crate) fn table_costs(&self) -> String {
        let mut tables = TextTable::new();
        tables.load_style(presets::UTF8_BORDERS_ONLY).set_header([
            "prefixes",
            "load to publish",
            "maps",
            "blocks",
            "verified instructions",
        ]);
        for table in &self.tables {
            let verified: Vec<String> = table
                .verified_instructions
                .iter()
                .map(|(name, count)| {
                    let count = count.map_or("unknown".to_owned(), |count| count.to_string());
                    format!("{name} {count}")
                })
                .collect();
            tables.add_row([
                table.prefixes.to_string(),
                format!("{:.0} ms", table.load_to_publish_ms),
                format!("{} KiB", table.map_kib),
                table.blocks.to_string(),
                verified.join("\n"),
            ]);
        }
        tables.to_string()
    }
}
