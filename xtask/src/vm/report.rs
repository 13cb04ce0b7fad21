//! What came of each kernel, as a table and as the command's own end.

use anyhow::{Result, bail};
use comfy_table::{Table, presets};

use super::console::Console;
use super::series::Series;

/// What came of one kernel.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It could not be had, and why.
    Skipped(String),
    /// It was booted.
    Tried(Console),
}

/// What came of all of them.
#[derive(Debug, Default)]
pub(super) struct Report {
    rows: Vec<(Series, Verdict)>,
}

impl Report {
    pub(super) fn add(&mut self, series: Series, verdict: Verdict) {
        self.rows.push((series, verdict));
    }

    /// Prints the table.
    pub(super) fn print(&self) {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_BORDERS_ONLY)
            .set_header(["series", "kernel", "hooks", "checks", "verdict"])
            .add_rows(self.rows.iter().map(|(series, verdict)| cells(*series, verdict)));
        println!("{table}");
        for (series, verdict) in &self.rows {
            if let Verdict::Tried(Console { verified: Some(counts), .. }) = verdict {
                println!("{}: instructions verified: {counts}", series.name());
            }
        }
    }

    /// # Errors
    ///
    /// Something did not work under a kernel, or no kernel was tried.
    pub(super) fn judge(&self) -> Result<()> {
        let tried = self.rows.iter().filter_map(|(series, verdict)| match verdict {
            Verdict::Tried(console) => Some((series.name(), console)),
            Verdict::Skipped(_) => None,
        });
        let (passed, failed): (Vec<_>, Vec<_>) = tried.partition(|(_, console)| console.passed());
        if !failed.is_empty() {
            let names: Vec<_> = failed.iter().map(|(name, _)| *name).collect();
            bail!("breakout365 does not work under {}, see above", names.join(", "));
        }
        if passed.is_empty() {
            bail!("no kernel could be had, so nothing was tried");
        }
        Ok(())
    }
}

fn cells(series: Series, verdict: &Verdict) -> [String; 5] {
    let name = series.name().to_owned();
    match verdict {
        Verdict::Skipped(why) => {
            let nothing = String::new;
            [name, nothing(), nothing(), nothing(), format!("skipped: {why}")]
        }
        Verdict::Tried(console) => {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
            let verdict = if console.passed() { "passed" } else { "FAILED" };
            let (release, hooks) = (text(&console.release), text(&console.hooks));
            [name, release, hooks, console.held.to_string(), verdict.to_owned()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: impl IntoIterator<Item = Verdict>) -> Report {
        Report { rows: Series::ALL.into_iter().zip(verdicts).collect() }
    }

    fn tried(text: &str) -> Verdict {
        Verdict::Tried(Console::read(text))
    }

    const GOOD: &str = "vm: ok a\nvm: end 1 checks, 0 failed\n";

    #[test]
    fn a_kernel_that_cannot_be_had_is_neither_passed_nor_failed() {
        let skipped = || Verdict::Skipped("no network".to_owned());
        assert!(report([skipped(), tried(GOOD)]).judge().is_ok());
        assert!(report([skipped(), skipped()]).judge().is_err(), "nothing was tried");
        assert!(report([]).judge().is_err(), "nothing was tried");
    }

    #[test]
    fn one_failure_is_a_failure_and_named() {
        let error = report([tried(GOOD), tried("vm: ok a\n")]).judge().unwrap_err().to_string();
        assert!(error.contains("under 6.1,"), "{error}");
    }
}
