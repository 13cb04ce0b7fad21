//! What checks, tests and lab run besides compilers.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use super::apt::Apt;
use super::{cache_dir, say, show};
use crate::process::{cargo, command, find, run};

/// A cargo command that is installed in one version, into a directory of its own.
struct Tool {
    name: &'static str,
    version: &'static str,
    reason: &'static str,
}

const CARGO_DENY: Tool =
    Tool { name: "cargo-deny", version: "0.20.2", reason: "checks licences and sources" };
const CARGO_FUZZ: Tool =
    Tool { name: "cargo-fuzz", version: "0.13.2", reason: "builds and runs fuzz targets" };
const CARGO_DEB: Tool =
    Tool { name: "cargo-deb", version: "3.8.0", reason: "writes Debian packages" };
const CARGO_GENERATE_RPM: Tool =
    Tool { name: "cargo-generate-rpm", version: "0.21.1", reason: "writes RPMs" };

/// Commands and files, the Debian package each is in, and what for.
const SYSTEM: [(&str, &str, &str); 20] = [
    ("git", "git", "checks look at what is committed"),
    ("ip", "iproute2", "tests and lab build networks"),
    ("tc", "iproute2", "tests and lab look at hooks"),
    ("ethtool", "ethtool", "tests switch offloads"),
    ("nft", "nftables", "the lab translates addresses"),
    ("bpftool", "bpftool", "a test detaches what the daemon has attached"),
    ("conntrack", "conntrack", "a test compares its flows with what servers saw"),
    ("curl", "curl", "a test types what the papers say"),
    ("sysctl", "procps", "the same"),
    ("tcpdump", "tcpdump", "a test replays what it captured"),
    ("socat", "socat", "a test has an uplink without link layer addresses"),
    ("ipset", "ipset", "a test loads an export"),
    ("iptables-restore", "iptables", "a test loads an export, another has rules found"),
    ("squid", "squid", "a test loads an export"),
    ("bird", "bird2", "a test loads an export"),
    ("prometheus", "prometheus", "a test scrapes the exporter and runs its rules"),
    ("systemd-analyze", "systemd", "a check scores the services"),
    ("dbus-daemon", "dbus-daemon", "a test has systemd-networkd take a drop-in"),
    (DBUS_CONFIGURATION, "dbus-system-bus-common", "dbus-daemon reads it"),
    (PACPARSER, "python3-pacparser", "a test evaluates an export"),
];
const EMULATOR: [(&str, &str, &str); 2] = [
    ("qemu-system-x86_64", "qemu-system-x86", "boots other kernels"),
    ("busybox", "busybox-static", "is all else that runs under them"),
];
const SYSTEM_IMAGE: [(&str, &str, &str); 1] =
    [("debootstrap", "debootstrap", "makes the system that is booted")];
const PACKAGING: [(&str, &str, &str); 3] = [
    ("dpkg-shlibdeps", "dpkg-dev", "knows which libraries a package depends on"),
    ("lintian", "lintian", "finds faults of Debian packages"),
    ("rpm", "rpm", "reads RPMs"),
];
/// Not a command, but what dbus-daemon reads.
const DBUS_CONFIGURATION: &str = "/usr/share/dbus-1/system.conf";
/// Not a command, but what Debian's Python finds.
const PACPARSER: &str = "/usr/lib/python3/dist-packages/pacparser/__init__.py";

/// Finds or installs them.
pub(super) fn ensure(cache: &Path, apt: &Apt) -> Result<()> {
    components()?;
    system(apt)?;
    CARGO_DENY.ensure(cache)
}

/// The cargo-deny that setup has installed.
///
/// # Errors
///
/// There is no home directory.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    Ok(CARGO_DENY.program(&cache_dir()?))
}

/// cargo-fuzz, installed when it is asked for: neither tests nor lab fuzz anything.
///
/// # Errors
///
/// It or the C++ compiler for the fuzzer's runtime cannot be installed.
pub(crate) fn cargo_fuzz() -> Result<PathBuf> {
    if find("c++").is_none() {
        say("installing", "g++ (apt): compiles the fuzzer's runtime");
        if let Err(failed) = Apt::default().install(&["g++"]) {
            show(&failed);
            bail!("there is no C++ compiler: install g++ by hand");
        }
    }
    let cache = cache_dir()?;
    CARGO_FUZZ.ensure(&cache)?;
    Ok(CARGO_FUZZ.program(&cache))
}

/// What boots another kernel, installed when it is asked for.
///
/// # Errors
///
/// Something is missing and cannot be installed from here.
pub(crate) fn emulator() -> Result<()> {
    on_request(&EMULATOR, "cannot boot other kernels")
}

/// What makes a whole system to boot, installed when it is asked for.
///
/// # Errors
///
/// Something is missing and cannot be installed from here.
pub(crate) fn system_image() -> Result<()> {
    on_request(&SYSTEM_IMAGE, "cannot make a Debian to boot")
}

/// What looks at packages, installed when it is asked for.
///
/// # Errors
///
/// Something is missing and cannot be installed from here.
pub(crate) fn packaging() -> Result<()> {
    on_request(&PACKAGING, "cannot check packages")
}

/// cargo-deb, installed when it is asked for.
///
/// # Errors
///
/// It cannot be installed.
pub(crate) fn cargo_deb() -> Result<PathBuf> {
    packager(&CARGO_DEB)
}

/// cargo-generate-rpm, installed when it is asked for.
///
/// # Errors
///
/// It cannot be installed.
pub(crate) fn cargo_generate_rpm() -> Result<PathBuf> {
    packager(&CARGO_GENERATE_RPM)
}

fn packager(tool: &Tool) -> Result<PathBuf> {
    let cache = cache_dir()?;
    tool.ensure(&cache)?;
    Ok(tool.program(&cache))
}

fn on_request(wanted: &[(&str, &str, &str)], without: &str) -> Result<()> {
    let missing = || wanted.iter().filter(|(program, ..)| find(program).is_none());
    let packages: Vec<_> = missing().map(|(_, package, _)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    for (program, package, reason) in missing() {
        say("installing", &format!("{program} ({package}, apt): {reason}"));
    }
    if let Err(failed) = Apt::default().install(&packages) {
        show(&failed);
        bail!("{without}: install {} by hand, as root", packages.join(" "));
    }
    Ok(())
}

/// `cargo install` of one version of a crate's commands into a directory of their own.
pub(super) fn cargo_install(name: &str, version: &str, root: &Path) -> Command {
    let mut command = cargo();
    command
        .args(["install", name, "--version", version, "--locked", "--force", "--quiet", "--root"])
        .arg(root)
        // Away from this workspace's settings, and from its target directory and flags.
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        // These run for seconds: what they take to compile is most of what they cost.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    command
}

/// rustfmt and clippy of the toolchain that builds user space.
fn components() -> Result<()> {
    let has_both =
        || ["fmt", "clippy"].iter().all(|tool| run(cargo().args([tool, "--version"])).is_ok());
    if has_both() {
        say("found", "rustfmt and clippy");
        return Ok(());
    }
    if find("rustup").is_some() {
        say("installing", "rustfmt and clippy (rustup): checks use them");
        if let Err(failed) = run(command("rustup").args(["component", "add", "rustfmt", "clippy"]))
        {
            show(&failed);
        }
    }
    if !has_both() {
        bail!(
            "this cargo has no rustfmt or clippy; install them, with rustup: `rustup component add rustfmt clippy`"
        );
    }
    Ok(())
}

fn system(apt: &Apt) -> Result<()> {
    let missing = || SYSTEM.iter().filter(|(program, ..)| find(program).is_none());
    let mut packages: Vec<_> = missing().map(|(_, package, _)| *package).collect();
    packages.dedup();
    if !packages.is_empty() && Apt::is_usable() {
        for (program, package, reason) in missing() {
            say("installing", &format!("{program} ({package}, apt): {reason}"));
        }
        if let Err(failed) = apt.install(&packages) {
            show(&failed);
        }
    }
    let lacking: Vec<_> =
        missing().map(|(program, _, reason)| format!("{program} ({reason})")).collect();
    let lacking = lacking.join(", ");
    if lacking.is_empty() {
        say("found", &SYSTEM.map(|(program, ..)| program).join(", "));
    } else if geteuid().is_root() {
        bail!("cannot install {lacking}: install {} by hand", packages.join(" "));
    } else {
        // Who is not root can build, but neither test nor lab.
        say("missing", &format!("{lacking}: install {} as root", packages.join(" ")));
    }
    Ok(())
}

impl Tool {
    fn ensure(&self, cache: &Path) -> Result<()> {
        let Self { name, version, reason } = self;
        let is_there = || {
            run(command(self.program(cache)).arg("--version"))
                .is_ok_and(|printed| printed.stdout.trim() == format!("{name} {version}"))
        };
        if is_there() {
            say("found", &format!("{name} {version}"));
            return Ok(());
        }
        say("building", &format!("{name} {version} (cargo install), minutes: {reason}"));
        if let Err(failed) = run(&mut cargo_install(name, version, &self.root(cache))) {
            show(&failed);
            bail!("{name} does not build, see above: mend that and run `cargo xtask setup` again");
        }
        Ok(())
    }

    fn root(&self, cache: &Path) -> PathBuf {
        cache.join(format!("tools/{}-{}", self.name, self.version))
    }

    fn program(&self, cache: &Path) -> PathBuf {
        self.root(cache).join("bin").join(self.name)
    }
}
