//! The rustc and cargo that compile BPF programs.
//!
//! Two are known to do: Debian's `rustc-web` packages, and a nightly of rustup. Debian's are
//! stable compilers; the build script lets them use unstable features all the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::apt::Apt;
use super::{say, show};
use crate::process::{command, find, run};

/// The oldest release that compiles this workspace, its `rust-version`.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");
/// Their dependencies bring gcc, binutils and libc6-dev, and the LLVM library that bpf-linker
/// shares with rustc: no llvm-dev package is needed.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const NO_COMPILER: &str = "no compiler for the BPF programs: run this as root on Debian 12 or \
     later with its security archive, or install rustup from https://rustup.rs and run it again";

/// Where a BPF compiler comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Source {
    /// Packages of the system
    Apt,
    /// rustup's nightly
    Rustup,
}

/// A compiler that was asked what it is.
#[derive(Debug)]
pub(super) struct Compiler {
    /// Its cargo.
    pub(super) cargo: PathBuf,
    /// Its rustc.
    pub(super) rustc: PathBuf,
    /// Its release, such as `1.96.0`.
    release: String,
    /// The major version of its LLVM.
    pub(super) llvm_major: u32,
    /// The LLVM library it loads.
    pub(super) llvm: Library,
}

/// A shared library as a program sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Library {
    /// The name that programs ask for.
    pub(super) name: String,
    /// The file they get, without links.
    pub(super) file: PathBuf,
}

/// Finds or installs a compiler, the one that `toolchain` leads to before others.
pub(super) fn ensure(toolchain: &Path, source: Option<Source>, apt: &Apt) -> Result<Compiler> {
    let wants = |which| source.is_none_or(|source| source == which);
    let found = match source {
        None => examine(toolchain).or_else(|_| system()).or_else(|_| nightly()),
        Some(Source::Apt) => system(),
        Some(Source::Rustup) => nightly(),
    };
    if let Ok(compiler) = found {
        say("found", &compiler.describe());
        return Ok(compiler);
    }
    let installed = if wants(Source::Apt) && Apt::is_usable() { from_apt(apt) } else { None };
    let installed = match installed {
        None if wants(Source::Rustup) && find("rustup").is_some() => from_rustup(),
        installed => installed,
    };
    let compiler = installed.context(NO_COMPILER)?;
    say("installed", &compiler.describe());
    Ok(compiler)
}

/// The LLVM library that `program` loads.
pub(super) fn llvm_of(program: &Path) -> Result<Library> {
    let printed = run(command("ldd").arg(program))?;
    let library = printed.stdout.lines().find_map(|line| {
        let (name, rest) = line.trim().split_once(" => ")?;
        // `not found` has no such file, and so is no library.
        let file = fs::canonicalize(rest.split(" (").next()?).ok()?;
        name.starts_with("libLLVM").then(|| Library { name: name.to_owned(), file })
    });
    library.with_context(|| format!("{} loads no LLVM library", program.display()))
}

impl Compiler {
    fn describe(&self) -> String {
        let (rustc, llvm) = (self.rustc.display(), &self.llvm.name);
        format!("BPF compiler: rustc {} with {llvm} and core's source, {rustc}", self.release)
    }
}

fn system() -> Result<Compiler> {
    examine(Path::new("/usr/bin"))
}

/// rustup's nightly, past rustup's proxies: they would choose a toolchain by `RUSTUP_TOOLCHAIN`,
/// which the cargo that runs xtask has set to its own.
fn nightly() -> Result<Compiler> {
    let printed = run(command("rustup").args(["which", "--toolchain", "nightly", "rustc"]))?;
    examine(Path::new(printed.stdout.trim()).parent().context("rustup names no directory")?)
}

fn from_apt(apt: &Apt) -> Option<Compiler> {
    let [rustc, ..] = PACKAGES;
    if !apt.offers(rustc, is_recent) {
        say("no", &format!("{rustc} {OLDEST} or later is offered by apt"));
        return None;
    }
    say("installing", &format!("{} (apt): compiler for the BPF programs", PACKAGES.join(" ")));
    if let Err(failed) = apt.install(&PACKAGES) {
        show(&failed);
        say("failed", &failed.to_string());
        return None;
    }
    usable(system())
}

fn from_rustup() -> Option<Compiler> {
    say("installing", "nightly with rust-src (rustup): compiler for the BPF programs");
    let install = run(command("rustup")
        .args(["toolchain", "install", "nightly", "--no-self-update"])
        .args(["--profile", "minimal", "--component", "rust-src"]));
    if let Err(failed) = install {
        show(&failed);
        say("failed", &failed.to_string());
        return None;
    }
    usable(nightly())
}

fn usable(examined: Result<Compiler>) -> Option<Compiler> {
    examined.map_err(|error| say("failed", &format!("what was installed: {error:#}"))).ok()
}

/// The compiler in directory `bin`, if it can compile the BPF programs.
fn examine(bin: &Path) -> Result<Compiler> {
    // Without links: a toolchain finds its libraries and sources from where its commands are.
    let resolve = |name| {
        let file = bin.join(name);
        fs::canonicalize(&file).with_context(|| format!("{} is missing", file.display()))
    };
    let (cargo, rustc) = (resolve("cargo")?, resolve("rustc")?);
    let version = run(command(&rustc).arg("-vV"))?.stdout;
    let field = |name: &str| {
        let value = version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.with_context(|| format!("{} says no {name}", rustc.display()))
    };
    let release = field("release")?.to_owned();
    if !is_recent(&release) {
        bail!("{} is {release}, older than {OLDEST}", rustc.display());
    }
    let (llvm_major, _) = major_minor(field("LLVM version")?).context("LLVM has no version")?;
    let sysroot = run(command(&rustc).args(["--print", "sysroot"]))?.stdout;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !core.exists() {
        bail!("{} is missing", core.display());
    }
    // A cargo of another toolchain, or one whose libraries are gone, does not pass for one.
    run(command(&cargo).arg("-V"))?;
    let llvm = llvm_of(&rustc)?;
    Ok(Compiler { cargo, rustc, release, llvm_major, llvm })
}

fn is_recent(version: &str) -> bool {
    major_minor(version) >= major_minor(OLDEST)
}

/// The first two numbers of a version, whatever follows them.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers_and_ignore_what_follows() {
        assert_eq!(major_minor("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(major_minor("22.1.8"), Some((22, 1)));
        assert!(is_recent("1.100.0-nightly"));
        assert!(!is_recent("1.85.0+dfsg3-1~deb12u3"));
        assert!(!is_recent("unknown"));
    }
}
