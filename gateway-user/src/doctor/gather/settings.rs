//! Settings of the kernel, from /proc and /sys.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::sys::utsname::uname;

use super::super::{Advertisements, BpfFacts, Forwarding, Seen};

pub(super) fn bpf(pins: &Path, missing: Seen<BTreeSet<String>>) -> BpfFacts {
    let release = uname().map_or_else(
        |error| error.to_string(),
        |names| names.release().to_string_lossy().into_owned(),
    );
    let above = if pins.exists() { pins } else { pins.parent().unwrap_or(pins) };
    let file_system = statfs(above)
        .map(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
        .map_err(|error| format!("{}: {error}", above.display()));
    BpfFacts {
        release,
        jit: number("/proc/sys/net/core/bpf_jit_enable"),
        file_system,
        pins: above.display().to_string(),
        missing,
    }
}

/// IPv4 is forwarded where the interface it came in by says so, IPv6 where the host does or, from kernel
/// 6.17 on, the interface's `force_forwarding` (`ip6_forward`).
pub(super) fn forwarding(name: &str) -> Forwarding {
    let read = |path: String| number(&format!("/proc/sys/net/{path}")).ok().map(|on| on != 0);
    let forced = read(format!("ipv6/conf/{name}/force_forwarding"));
    Forwarding {
        v4_at_large: read("ipv4/ip_forward".to_owned()),
        v4: read(format!("ipv4/conf/{name}/forwarding")),
        v6: read("ipv6/conf/all/forwarding".to_owned()).map(|all| all || forced == Some(true)),
    }
}

pub(super) fn advertisements(name: &str) -> Option<Advertisements> {
    let read = |key: &str| number(&format!("/proc/sys/net/ipv6/conf/{name}/{key}")).ok();
    Some(Advertisements { accept: read("accept_ra")?, is_router: read("forwarding")? != 0 })
}

/// The kernel module of a device. /sys may be of another network namespace, whose interface of this
/// name is another one.
pub(super) fn driver(name: &str, index: u32) -> Seen<String> {
    let directory = Path::new("/sys/class/net").join(name);
    let told = fs::read_to_string(directory.join("ifindex"));
    if told.ok().and_then(|told| told.trim().parse().ok()) != Some(index) {
        return Err("/sys is of another network namespace".to_owned());
    }
    let module = fs::read_link(directory.join("device/driver"))
        .map_err(|_| "a device without a driver of its own".to_owned())?;
    let module = module.file_name().map(|name| name.to_string_lossy().into_owned());
    module.ok_or_else(|| "no name".to_owned())
}

fn number(path: &str) -> Seen<u8> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    text.trim().parse().map_err(|error| format!("{path}: {error}"))
}
