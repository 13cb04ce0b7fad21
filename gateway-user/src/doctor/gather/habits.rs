//! What systemd-networkd and `NetworkManager` are told to do, from their files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::super::{Habits, InterfaceFacts};

/// Where networkd.conf(5) looks, the first wins.
const DIRECTORIES: [&str; 4] =
    ["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd"];

/// Reads below `root`.
pub(super) fn read(root: &Path, interfaces: &[InterfaceFacts]) -> Habits {
    let named = interfaces.iter().filter_map(|interface| {
        let link = interface.link.as_ref().ok()?.as_ref()?;
        Some((interface.name.as_str(), link.index))
    });
    Habits {
        networkd: root.join("run/systemd/netif/state").exists().then(|| networkd(root)),
        network_manager: network_manager(root, named),
    }
}

/// Whether it removes rules, and routes, of others.
fn networkd(root: &Path) -> (bool, bool) {
    let [mut rules, mut routes] = [true, true];
    for text in networkd_files(root) {
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section == "[Network]") else {
                continue;
            };
            let setting = match key.trim() {
                "ManageForeignRoutingPolicyRules" => &mut rules,
                "ManageForeignRoutes" => &mut routes,
                _ => continue,
            };
            match value.trim().to_ascii_lowercase().as_str() {
                "no" | "false" | "off" | "0" | "n" | "f" => *setting = false,
                "yes" | "true" | "on" | "1" | "y" | "t" | "" => *setting = true,
                // What it does not understand, it skips.
                _ => {}
            }
        }
    }
    (rules, routes)
}

/// The main file, then the drop-ins by name; a name in an earlier directory hides later ones.
fn networkd_files(root: &Path) -> Vec<String> {
    let directories = DIRECTORIES.map(|directory| root.join(directory));
    let main = directories.iter().find_map(|it| fs::read_to_string(it.join("networkd.conf")).ok());
    let mut parts = BTreeMap::new();
    for directory in directories.iter().rev() {
        let Ok(entries) = fs::read_dir(directory.join("networkd.conf.d")) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "conf")
                && let (Some(name), Ok(text)) = (path.file_name(), fs::read_to_string(&path))
            {
                parts.insert(name.to_owned(), text);
            }
        }
    }
    main.into_iter().chain(parts.into_values()).collect()
}

/// The interfaces whose state file says that it manages them.
fn network_manager<'a>(
    root: &Path,
    interfaces: impl Iterator<Item = (&'a str, u32)>,
) -> Option<BTreeSet<String>> {
    let directory = root.join("run/NetworkManager/devices");
    if !directory.is_dir() {
        return None;
    }
    let managed = interfaces.filter(|(_, index)| {
        let text = fs::read_to_string(directory.join(index.to_string())).unwrap_or_default();
        text.lines().any(|line| matches!(line.trim(), "managed=1" | "managed=true"))
    });
    Some(managed.map(|(name, _)| name.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn networkd_is_read_as_its_manual_says() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!(read(root, &[]).networkd, None, "it does not run");
        write(root, "run/systemd/netif/state", "");
        assert_eq!(read(root, &[]).networkd, Some((true, true)), "its defaults");
        write(
            root,
            "usr/lib/systemd/networkd.conf.d/a.conf",
            "[Network]\nManageForeignRoutes=no\n",
        );
        assert_eq!(read(root, &[]).networkd, Some((true, false)));
        write(root, "etc/systemd/networkd.conf.d/a.conf", "[Network]\n");
        assert_eq!(read(root, &[]).networkd, Some((true, true)), "the one in /etc hides it");
        write(
            root,
            "etc/systemd/networkd.conf",
            "[DHCPv4]\nManageForeignRoutes=no\n[Network]\nManageForeignRoutingPolicyRules = No\n",
        );
        assert_eq!(read(root, &[]).networkd, Some((false, true)));
        write(
            root,
            "run/systemd/networkd.conf.d/z.conf",
            "[Network]\nManageForeignRoutingPolicyRules=yes\nManageForeignRoutes=0\n",
        );
        assert_eq!(read(root, &[]).networkd, Some((true, false)), "the last one holds");
    }

    #[test]
    fn network_manager_says_which_devices_are_its() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let ask = || network_manager(root, [("lan0", 2), ("wan0", 3)].into_iter());
        assert_eq!(ask(), None);
        write(root, "run/NetworkManager/devices/2", "[device]\nmanaged=false\n");
        write(root, "run/NetworkManager/devices/3", "[device]\nmanaged=true\n");
        assert_eq!(ask(), Some(["wan0".to_owned()].into()));
    }
}
