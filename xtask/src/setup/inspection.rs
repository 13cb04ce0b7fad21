//! Inspection systems for the scenarios of lab and tests. One that cannot be had is said, and its
//! scenario is skipped by the lab.

use std::fs;
use std::path::Path;

use super::apt::Apt;
use super::mirror::{Origin, origins};
use super::{say, show};
use crate::process::find;

/// Commands and files, the Debian package each is in, and what for.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("mitmdump", "mitmproxy", "a scenario decrypts with it"),
    ("c-icap", "c-icap", "a scenario looks for confidential uploads"),
    (CONTENT_FILTER, "libc-icap-mod-contentfiltering", "c-icap's rule"),
    ("iptables-restore", "iptables", "scenarios load rules as operators have them"),
];
/// Not a command, but the page that the module blocks with.
const CONTENT_FILTER: &str = "/usr/share/c_icap/templates/srv_content_filtering/en/BLOCK";
const SURICATA: &str = "suricata";
/// What Debian 12 has only in its backports: the program, and the library that has to match.
const FROM_BACKPORTS: [&str; 2] = [SURICATA, "libhtp2"];
/// A file of our own: removing it undoes it. Backports have priority 100, so that nothing is taken
/// from there that is not asked for by name.
const SOURCE: &str = "/etc/apt/sources.list.d/breakout365-backports.sources";
/// Debian's own keys, where its package of them is installed.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Finds or installs them.
pub(super) fn ensure(apt: &Apt) {
    let missing = || PROGRAMS.iter().filter(|(program, ..)| find(program).is_none());
    let packages: Vec<_> = missing().map(|(_, package, _)| *package).collect();
    if !packages.is_empty() && Apt::is_usable() {
        for (program, package, reason) in missing() {
            say("installing", &format!("{program} ({package}, apt): {reason}"));
        }
        apt.install(&packages).err().iter().for_each(show);
    }
    if find(SURICATA).is_none() && Apt::is_usable() {
        say("installing", "suricata (apt): a scenario drops what it finds");
        suricata(apt);
    }
    let mut lacking: Vec<_> = missing().map(|(_, package, _)| *package).collect();
    lacking.extend(find(SURICATA).is_none().then_some(SURICATA));
    if lacking.is_empty() {
        say("found", "mitmproxy, c-icap, iptables, suricata");
    } else {
        say("missing", &format!("{}: scenarios that need them are skipped", lacking.join(", ")));
    }
}

/// From the release itself, else from its backports.
fn suricata(apt: &Apt) {
    if apt.offers(SURICATA, |version| !version.contains("~bpo")) {
        apt.install(&[SURICATA]).err().iter().for_each(show);
        return;
    }
    let Some((release, address)) = origins().ok().as_deref().and_then(release) else {
        say("no", "source of Debian's is known to apt, so no backports either");
        return;
    };
    let suite = format!("{release}-backports");
    if !Path::new(SOURCE).exists() && !apt.offers(SURICATA, |_| true) {
        say("adding", &format!("{SOURCE}: {suite}, from the mirror that apt uses"));
        if let Err(error) = fs::write(SOURCE, source(&address, &suite)) {
            say("failed", &format!("cannot write {SOURCE}: {error}"));
            return;
        }
        apt.forget();
    }
    let packages = FROM_BACKPORTS.map(|package| format!("{package}/{suite}"));
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    if apt.offers(SURICATA, |_| true) {
        apt.install(&packages).err().iter().for_each(show);
    }
}

/// Code name of the release that this machine's packages come from, and the address of its mirror.
fn release(origins: &[Origin]) -> Option<(String, String)> {
    let is_release = |origin: &&Origin| origin.label == "Debian" && !origin.suite.contains('-');
    let release = origins.iter().find(is_release)?;
    Some((release.suite.clone(), release.address.clone()))
}

fn source(address: &str, suite: &str) -> String {
    let signed =
        if Path::new(KEYRING).exists() { format!("Signed-By: {KEYRING}\n") } else { String::new() };
    format!(
        "# Written by `cargo xtask setup` of breakout365, for suricata. Nothing else is taken from here.\n\
         Types: deb\nURIs: {address}\nSuites: {suite}\nComponents: main\n{signed}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_are_looked_for_where_the_release_comes_from() {
        let origin = |label: &str, suite: &str, address: &str| Origin {
            label: label.to_owned(),
            suite: suite.to_owned(),
            address: address.to_owned(),
        };
        let origins = [
            origin("Other", "nodistro", "https://other.example/"),
            origin("Debian-Security", "bookworm-security", "http://mirror.example/security/"),
            origin("Debian", "bookworm-updates", "http://mirror.example/debian/"),
            origin("Debian", "bookworm", "http://mirror.example/debian/"),
        ];
        let (release, address) = release(&origins).unwrap();
        assert_eq!((&*release, &*address), ("bookworm", "http://mirror.example/debian/"));
        let source = source(&address, "bookworm-backports");
        assert!(
            source.contains("\nURIs: http://mirror.example/debian/\nSuites: bookworm-backports\n")
        );
        assert_eq!(super::release(&origins[..3]), None);
    }
}
