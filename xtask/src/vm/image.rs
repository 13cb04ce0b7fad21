//! What a guest boots into: an initramfs with busybox, `ip`, the product and the modules they need.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::archive::Kernel;
use crate::process::{command, find, run};

/// Modules, in the order they are loaded. Debian builds each of them as one; a kernel that has one
/// built in has no file.
const MODULES: [&str; 11] = [
    "drivers/net/veth.ko",
    "drivers/net/tun.ko",
    "net/llc/llc.ko",
    "net/802/stp.ko",
    "net/802/garp.ko",
    "net/802/mrp.ko",
    "net/8021q/8021q.ko",
    "net/tls/tls.ko",
    "drivers/net/bonding/bonding.ko",
    "net/sched/sch_ingress.ko",
    "net/sched/cls_bpf.ko",
];
/// Files of the guest.
const FILES: [(&str, &str); 5] = [
    ("init", include_str!("guest/init.sh")),
    ("etc/default.toml", include_str!("guest/default.toml")),
    ("etc/own.toml", include_str!("guest/own.toml")),
    ("etc/generic.toml", include_str!("guest/generic.toml")),
    ("etc/links.toml", include_str!("guest/links.toml")),
];
const DIRECTORIES: [&str; 11] = [
    "bin",
    "dev",
    "etc/breakout365",
    "etc/netns",
    "modules",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/lib",
    "www",
];

/// Makes the initramfs in `directory`.
///
/// # Errors
///
/// A program that goes in is missing, or a file cannot be written.
pub(super) fn build(directory: &Path, binary: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let root = directory.join("root");
    for needed in DIRECTORIES {
        fs::create_dir_all(root.join(needed))?;
    }
    for (name, text) in FILES {
        fs::write(root.join(name), text)?;
    }
    fs::write(root.join("www/page"), "page\n")?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let ip = find("ip").context("there is no `ip`: install iproute2")?;
    let busybox = find("busybox").context("there is no busybox: install busybox-static")?;
    // Its debug information would not fit into the guest's memory.
    run(command("strip").arg("-o").arg(root.join("bin/breakout365")).arg(binary))?;
    fs::copy(&ip, root.join("bin/ip"))?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    for program in [binary, &ip, &busybox] {
        libraries(program, &root)?;
    }
    for applet in run(command(&busybox).arg("--list"))?.stdout.lines() {
        let link = root.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", link)?;
        }
    }
    for (number, module) in MODULES.iter().enumerate() {
        let to = root.join(format!("modules/{number:02}.ko"));
        unpack_module(&kernel.modules.join("kernel").join(module), &to, &busybox)?;
    }
    let image = directory.join("initramfs");
    run(command(&busybox)
        .args(["sh", "-c", "cd \"$0\" && find . | cpio -o -H newc | gzip -1 > \"$1\""])
        .arg(&root)
        .arg(&image))?;
    Ok(image)
}

/// Copies the shared libraries of `program`, the loader among them, to where it will look for them.
fn libraries(program: &Path, root: &Path) -> Result<()> {
    // A static program is a failure to ldd.
    let Ok(printed) = run(command("ldd").arg(program)) else { return Ok(()) };
    for library in printed.stdout.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::copy(library, &to).with_context(|| format!("cannot copy {library}"))?;
    }
    Ok(())
}

fn unpack_module(plain: &Path, to: &Path, busybox: &Path) -> Result<()> {
    let packed = plain.with_extension("ko.xz");
    if plain.exists() {
        fs::copy(plain, to)?;
    } else if packed.exists() {
        let script = "xz -dc \"$0\" > \"$1\"";
        run(command(busybox).args(["sh", "-c", script]).arg(&packed).arg(to))?;
    }
    Ok(())
}
