//! `cargo xtask setup`: finds or installs what build, tests and lab need, and says each step.
//!
//! The BPF toolchain is a directory with three commands, which `gateway-user/build.rs` looks for
//! in `${BREAKOUT365_BPF_TOOLCHAIN}`, else in `breakout365/bpf-toolchain` of the user's cache:
//! `cargo` and `rustc`, which may use unstable features and have `core`'s source, and a
//! `bpf-linker` for that rustc's LLVM. Nothing is believed because it was installed once: every
//! run asks the commands themselves what they are.

mod apt;
mod compiler;
mod inspection;
mod linker;
mod mirror;
mod tools;

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::process::Failed;
use apt::Apt;
use compiler::Source;
pub(crate) use mirror::origins;
pub(crate) use tools::{
    cargo_deb, cargo_deny, cargo_fuzz, cargo_generate_rpm, emulator, packaging, system_image,
};

/// What `cargo xtask setup` can be told.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Where the BPF compiler comes from [default: what is there, else apt, else rustup]
    #[arg(long, value_name = "SOURCE")]
    compiler: Option<Source>,
}

/// Sets up what is missing. Prints to standard error, so that a verb that calls it can still
/// answer in JSON.
///
/// # Errors
///
/// Something is missing and cannot be installed from here.
pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let cache = cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    // Two setups at once would install the same things into the same places.
    let lock = File::create(cache.join("setup.lock")).context("cannot create the setup lock")?;
    lock.lock().context("cannot take the setup lock")?;

    let apt = Apt::default();
    let toolchain = toolchain_dir(&cache);
    let compiler = compiler::ensure(&toolchain, options.compiler, &apt)?;
    let linker = linker::ensure(&toolchain.join("bpf-linker"), &cache, &compiler)?;
    fs::create_dir_all(&toolchain)
        .with_context(|| format!("cannot create {}", toolchain.display()))?;
    for (name, command) in
        [("cargo", &compiler.cargo), ("rustc", &compiler.rustc), ("bpf-linker", &linker)]
    {
        link(command, &toolchain.join(name))?;
    }
    tools::ensure(&cache, &apt)?;
    inspection::ensure(&apt);
    say("done", &format!("BPF toolchain in {}, {:.1?}", toolchain.display(), start.elapsed()));
    Ok(())
}

/// Where setup keeps what it builds.
///
/// # Errors
///
/// There is no home directory.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let cache = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        (_, None) => bail!("HOME is not set, so there is no place for the BPF toolchain; set it"),
    };
    Ok(cache.join("breakout365"))
}

fn toolchain_dir(cache: &Path) -> PathBuf {
    env::var_os("BREAKOUT365_BPF_TOOLCHAIN")
        .map_or_else(|| cache.join("bpf-toolchain"), PathBuf::from)
}

/// Makes `link` lead to `command`, in one step, unless it is or does that already.
fn link(command: &Path, link: &Path) -> Result<()> {
    if command == link || fs::read_link(link).is_ok_and(|target| target == command) {
        return Ok(());
    }
    let fresh = link.with_extension("new");
    fs::remove_file(&fresh).ok();
    symlink(command, &fresh)
        .and_then(|()| fs::rename(&fresh, link))
        .with_context(|| format!("cannot link {} to {}", link.display(), command.display()))
}

/// One step of setup, as one line.
fn say(state: &str, what: &str) {
    eprintln!("setup: {state:<10} {what}");
}

/// Prints the end of what a failed command printed: its reason is there, not in the one line.
fn show(failed: &Failed) {
    let lines: Vec<&str> = failed.output.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(20)) {
        eprintln!("    {line}");
    }
}
