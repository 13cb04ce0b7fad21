//! `cargo xtask vm systemd`: the Debian package under a real systemd, from installation to purge.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use xtask::testbed::Interrupt;

use super::archive::{self, Kernel};
use super::console::Console;
use super::machine::Boot;
use super::series::Series;
use super::step;
use crate::package::debian_of_the_lab;
use crate::process::{command, find, run};
use crate::setup::{cache_dir, system_image};

/// In the guest, beside what is essential.
const PACKAGES: &str = "--include=systemd,systemd-sysv,nftables,iptables,iproute2,procps,kmod,\
                        util-linux,conntrack,ethtool,wireguard-tools";
/// What is done there, and with what.
const FILES: [(&str, &str); 5] = [
    ("trial.sh", include_str!("guest/systemd.sh")),
    ("operator.sh", include_str!("guest/operator.sh")),
    ("links.sh", include_str!("guest/links.sh")),
    ("server.pl", include_str!("guest/server.pl")),
    ("client.pl", include_str!("guest/client.pl")),
];
/// Of the kernel's modules, what a gateway of veths needs, and what can be on top of them.
const MODULES: [&str; 7] = [
    "net",
    "lib",
    "crypto",
    "arch/x86/crypto",
    "drivers/net/bonding",
    "drivers/net/veth.ko",
    "drivers/net/wireguard",
];
/// The package that is upgraded from, and the one that it is upgraded to.
const VERSIONS: [&str; 2] = ["0.0.1-1", "0.0.2-1"];
/// The whole system is in memory.
const MEMORY: &str = "2G";

/// Options of `cargo xtask vm systemd`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many seconds it may take
    #[arg(long, default_value_t = 1800)]
    timeout: u64,
}

/// Boots Debian 12 with the package in it, and says what held.
///
/// # Errors
///
/// Something does not hold, or the machine cannot be made.
pub(super) fn run_trial(options: &Options) -> Result<()> {
    system_image()?;
    let interrupt = Interrupt::watch()?;
    let directory = cache_dir()?.join("vm/systemd");
    fs::create_dir_all(&directory)?;
    let kernel = archive::kernel(Series::V6_1, &cache_dir()?.join("vm").join("6.1"))?;
    let system = system(&directory, &kernel)?;
    step("building the packages");
    let packages = debian_of_the_lab(&VERSIONS)?;
    let files = tempfile::tempdir().context("cannot make a temporary directory")?;
    let initramfs = files.path().join("initramfs");
    let trial = trial(files.path(), &packages)?;
    // The kernel unpacks one archive after the other.
    let mut whole = fs::File::create(&initramfs)?;
    for archive in [&system, &trial] {
        std::io::copy(&mut fs::File::open(archive)?, &mut whole)?;
    }
    let log = directory.join("console.log");
    step(&format!("booting Debian 12 with {}", kernel.release));
    let boot = Boot {
        kernel: &kernel.image,
        initramfs: &initramfs,
        parameter: "quiet rdinit=/sbin/init".to_owned(),
        memory: MEMORY,
        log: &log,
    };
    boot.run(Duration::from_secs(options.timeout), &interrupt)?;
    let said = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let said = String::from_utf8_lossy(&said).into_owned();
    for line in said.lines().filter_map(|line| line.trim().strip_prefix("vm: ok ")) {
        println!("{line}");
    }
    let console = Console::read(&said);
    for problem in console.problems() {
        step(&problem);
    }
    if !console.passed() {
        bail!("the package does not work under systemd; all it said is in {}", log.display());
    }
    println!("vm: systemd on {}: {} checks held", kernel.release, console.held);
    Ok(())
}

/// Debian 12 with the modules of `kernel`, as an archive in `directory`; made once.
fn system(directory: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let archive = directory.join(format!("{}.cpio", kernel.release));
    let content = directory.join(format!("{}.packages", kernel.release));
    let wanted = format!("{PACKAGES}\n{}", MODULES.join("\n"));
    if archive.exists() && fs::read_to_string(&content).is_ok_and(|made| made == wanted) {
        return Ok(archive);
    }
    step("making a Debian 12 (debootstrap), minutes");
    let fresh = tempfile::tempdir_in(directory)?;
    let root = fresh.path().join("root");
    let mirror = archive::mirror()?;
    run(command("debootstrap")
        .args(["--variant=minbase", PACKAGES, "bookworm"])
        .arg(&root)
        .arg(mirror))?;
    for unneeded in ["usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists"] {
        fs::remove_dir_all(root.join(unneeded)).ok();
    }
    for entry in fs::read_dir(root.join("var/cache/apt/archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            fs::remove_file(path)?;
        }
    }
    modules(kernel, &root)?;
    let whole = fresh.path().join("cpio");
    pack(&root, &whole)?;
    fs::remove_file(&content).ok();
    fs::rename(&whole, &archive).context("cannot keep the system")?;
    fs::write(&content, wanted)?;
    Ok(archive)
}

fn modules(kernel: &Kernel, root: &Path) -> Result<()> {
    let to = root.join("usr/lib/modules").join(&kernel.release);
    for module in MODULES {
        let from = kernel.modules.join("kernel").join(module);
        let parent = to.join("kernel").join(Path::new(module).parent().unwrap_or(Path::new("")));
        fs::create_dir_all(&parent)?;
        run(command("cp").arg("--recursive").arg(from).arg(parent))?;
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(kernel.modules.join(list), to.join(list))?;
    }
    run(command("chroot").arg(root).args(["/usr/sbin/depmod", &kernel.release]))?;
    Ok(())
}

/// The packages and what is done with them, as an archive.
fn trial(directory: &Path, packages: &[PathBuf]) -> Result<PathBuf> {
    let root = directory.join("trial");
    let (place, units) = (root.join("packages"), root.join("etc/systemd/system"));
    fs::create_dir_all(&place)?;
    fs::create_dir_all(units.join("default.target.wants"))?;
    for (package, name) in packages.iter().zip(["old.deb", "new.deb"]) {
        fs::copy(package, place.join(name))?;
    }
    fs::write(place.join("new.version"), VERSIONS[1])?;
    for (name, text) in FILES {
        fs::write(place.join(name), text)?;
    }
    fs::write(units.join("trial.service"), include_str!("guest/systemd.service"))?;
    symlink("../trial.service", units.join("default.target.wants/trial.service"))?;
    let archive = directory.join("trial.cpio");
    pack(&root, &archive)?;
    Ok(archive)
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let busybox = find("busybox").context("there is no busybox: install busybox-static")?;
    run(command(busybox)
        .args(["sh", "-c", "cd \"$0\" && find . | cpio -o -H newc > \"$1\""])
        .arg(root)
        .arg(archive))?;
    Ok(())
}
