//! Writes the manual pages and the completions of the command line into directories of the one that
//! is named.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};
use gateway_user::cli::Cli;

/// Where each shell looks, below `/usr/share`.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/vendor-completions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];

fn main() -> Result<()> {
    let share = PathBuf::from(std::env::args_os().nth(1).context("no directory is named")?);
    let manual = share.join("man/man1");
    fs::create_dir_all(&manual)?;
    clap_mangen::generate_to(Cli::command(), &manual).context("the manual pages")?;
    for (shell, place) in SHELLS {
        let directory = share.join(place);
        fs::create_dir_all(&directory)?;
        let written = generate_to(shell, &mut Cli::command(), "breakout365", &directory)?;
        // bash looks for the name of the command alone.
        if matches!(shell, Shell::Bash) {
            fs::rename(written, directory.join("breakout365"))?;
        }
    }
    Ok(())
}
