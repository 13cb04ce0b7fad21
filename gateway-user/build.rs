//! Compiles `gateway-ebpf` from source for the BPF target.
//!
//! The BPF toolchain (cargo and rustc that may use unstable features, `core`'s source, and a
//! bpf-linker for that rustc's LLVM) is found and installed by `cargo xtask setup`, which leaves
//! its commands in one directory. aya-build takes its toolchain from the environment, so this
//! script runs itself once more with that directory first on the `PATH`.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

/// Set in the second run.
const IN_TOOLCHAIN: &str = "BREAKOUT365_IN_BPF_TOOLCHAIN";
/// Where the toolchain's commands are, if not where `cargo xtask setup` puts them.
const TOOLCHAIN: &str = "BREAKOUT365_BPF_TOOLCHAIN";

fn main() -> ExitCode {
    let outcome =
        if env::var_os(IN_TOOLCHAIN).is_some() { build_here() } else { run_again_in_toolchain() };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build_here() -> Result<()> {
    let features: &[&str] =
        if env::var_os("CARGO_FEATURE_PACKET_LOG").is_some() { &["packet-log"] } else { &[] };
    let package = aya_build::Package {
        name: "gateway-ebpf",
        root_dir: "../gateway-ebpf",
        no_default_features: false,
        features,
    };
    aya_build::build_ebpf([package], aya_build::Toolchain::default())
}

fn run_again_in_toolchain() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../gateway-common");
    println!("cargo::rerun-if-env-changed={TOOLCHAIN}");
    let toolchain = toolchain_dir()?;
    for command in ["cargo", "rustc", "bpf-linker"] {
        let path = toolchain.join(command);
        if !path.exists() {
            bail!("no BPF toolchain: {} is missing; run `cargo xtask setup`", path.display());
        }
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let mut path = vec![toolchain];
    // Where the C compiler and linker of the BPF crate's own build scripts are. rustup's
    // directory is left out: with rustup in reach aya-build would use its nightly.
    path.extend(
        env::split_paths(&env::var_os("PATH").unwrap_or_default())
            .filter(|dir| !dir.join("rustup").exists()),
    );
    let output = Command::new(env::current_exe().context("cannot find this build script")?)
        .env(IN_TOOLCHAIN, "1")
        .env("PATH", env::join_paths(path)?)
        // Both toolchains are recent stable or nightly compilers; this makes either a nightly.
        .env("RUSTC_BOOTSTRAP", "1")
        // No absolute path in the object: two clones of one commit build the same bytes.
        .env("CARGO_UNSTABLE_TRIM_PATHS", "true")
        .env("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run this build script again")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if is_news(line) {
            println!("{line}");
        }
    }
    if !output.status.success() {
        bail!(
            "the BPF programs do not build; see above, or run `cargo xtask setup` if a tool fails"
        );
    }
    Ok(())
}

/// aya-build hands on every line of the inner cargo as a warning, progress included, and warns
/// that rustup is missing, which it is on purpose.
fn is_news(line: &str) -> bool {
    let Some(warning) = line.strip_prefix("cargo:warning=") else { return true };
    let progress = [
        "Blocking ",
        "Compiling ",
        "Finished ",
        "Downloading ",
        "Downloaded ",
        "Updating ",
        "Locking ",
    ];
    !warning.starts_with("which(rustup)=")
        && !warning.trim().is_empty()
        && !progress.iter().any(|word| warning.trim_start().starts_with(word))
}

fn toolchain_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os(TOOLCHAIN) {
        return Ok(dir.into());
    }
    let cache = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        (_, None) => bail!("neither HOME nor {TOOLCHAIN} is set; run `cargo xtask setup`"),
    };
    Ok(cache.join("breakout365/bpf-toolchain"))
}
