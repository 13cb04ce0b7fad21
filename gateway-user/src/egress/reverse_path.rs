//! Reverse path filtering on the uplink: looked at, never changed.

use std::fs;

/// What to do where the kernel would drop the replies that come in by `interface`: their sender is
/// reached by the main table's default route, which is another way. The stricter of the interface's
/// setting and that of all counts (kernel `Documentation/networking/ip-sysctl.rst`); loose is 2.
pub(super) fn problem(interface: &str) -> Option<String> {
    let read = |name: &str| -> Option<u8> {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let effective = read("all").into_iter().chain(read(interface)).max()?;
    (effective == 1).then(|| {
        // A dot in a name is a slash here, as slashes are dots.
        let name = interface.replace('.', "/");
        format!(
            "interface {interface}: rp_filter is strict, replies of direct IPv4 flows are dropped; \
             `sysctl -w net.ipv4.conf.{name}.rp_filter=2`"
        )
    })
}
