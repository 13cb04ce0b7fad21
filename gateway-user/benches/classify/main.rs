//! What classifying a packet costs over an empty program, by table size, by what the table says of
//! the destination, and with and without the first-level index.
//!
//! Every figure is a difference between two programs that take turns in one process, so the
//! machine's speed, its clock and the cost of a test run drop out. The programs under test are the
//! shipped ones; what feeds them is in `gateway-ebpf/src/bench.rs`. Run it by
//! `cargo xtask bench classify`.

mod cases;
mod live;
mod measure;
mod report;
mod rig;
mod site;
mod traced;

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use gateway_user::config::Mark;
use gateway_user::datapath::Generation;

use cases::{Destinations, SIZES, cases, table_of};
use report::{Report, Row, TableCost};
use rig::{Flavour, Rig};

const MARK: Mark = Mark { value: 0x0100_0000, mask: 0x0100_0000 };

fn main() -> Result<()> {
    let json = std::env::args().any(|argument| argument == "--json");
    let quick = std::env::args().any(|argument| argument == "--quick");
    let sizes = if quick { &SIZES[..1] } else { &SIZES[..] };
    let mut report = Report::default();
    for flavour in Flavour::ALL {
        let rig = Rig::new(flavour)?;
        report.rows.push(Row::of("A/A", flavour.hook(), 0, false, rig.control()?));
    }
    let metadata = Rig::metadata_alone()?;
    report.rows.push(Row::of("metadata write alone", Flavour::Xdp.hook(), 0, false, metadata));
    for &size in sizes {
        let table = table_of(size).with_context(|| format!("table of {size} prefixes"))?;
        // Destinations are chosen with the index there is, so that "index hit" is the same address
        // in both columns.
        let cases = cases(&table);
        for (index, table) in [(true, table.clone()), (false, table.without_index())] {
            let generation = Generation::load(&table, MARK.into())?;
            for flavour in Flavour::ALL {
                let mut rig = Rig::new(flavour)?;
                rig.test(&generation)?;
                for case in &cases {
                    for destinations in Destinations::ALL {
                        if !flavour.can(destinations) {
                            continue;
                        }
                        let Some(sample) = rig.measure(&generation, case, destinations)? else {
                            continue;
                        };
                        let row = Row::new(flavour.hook(), case, size, index, destinations, sample);
                        progress(&row);
                        report.rows.push(row);
                    }
                }
            }
        }
        report.tables.push(TableCost::measure(&table, size)?);
    }
    report.rows.push(live::metadata_accepted()?);
    report.rows.extend(traced::rows()?);
    let mut out = io::stdout().lock();
    if json {
        eprintln!("{}", report.table_costs());
        writeln!(out, "{}", report.json()?)?;
    } else {
        writeln!(out, "{}", report.text())?;
    }
    Ok(())
}

fn progress(row: &Row) {
    eprintln!("{row}");
}
