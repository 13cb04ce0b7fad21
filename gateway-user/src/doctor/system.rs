//! The configuration, the kernel, the BPF file system, capabilities and the clock.

use super::{Check, Facts, Finding, Severity};

/// When the list in the binary was published: no clock that is right shows less.
const LIST_PUBLISHED: i64 = 1_785_456_000;

/// On the distributions that there are packages for.
const NEWER_KERNEL: &str =
    "apt-get install linux-image-$(dpkg --print-architecture) || dnf upgrade kernel";

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    vec![
        configuration(facts),
        kernel(facts),
        jit(facts),
        file_system(facts),
        capabilities(facts),
        clock(facts),
    ]
}

fn configuration(facts: &Facts) -> Finding {
    let check = Check::Configuration;
    match &facts.config {
        Ok(Some(_)) => Finding::ok(check, "understood"),
        Ok(None) => Finding::of(check, Severity::Note, "there is none: defaults are assumed")
            .fixed_by(facts.edit()),
        Err(problem) => Finding::of(check, Severity::Error, problem).fixed_by(facts.edit()),
    }
}

/// Major and minor number.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(facts: &Facts) -> Finding {
    let (check, release) = (Check::Kernel, &facts.bpf.release);
    let Some(version) = version(release) else {
        return Finding::unseen(check, format_args!("{release:?} has no version in it"));
    };
    if version < (5, 10) {
        let what = format_args!("{release}: needs 5.10 or newer");
        return Finding::of(check, Severity::Error, what).fixed_by(NEWER_KERNEL);
    }
    let mut lacks = Vec::new();
    if !has_fragments(facts) {
        lacks.push("no XDP with fragments (5.18)");
    }
    // Where it is asked, a kernel that has it answers, whatever its number.
    if version < (6, 6) && facts.interfaces.iter().all(|interface| interface.tcx.is_err()) {
        lacks.push("no TCX (6.6), so that clsact is used");
    }
    if lacks.is_empty() {
        return Finding::ok(check, release);
    }
    let what = format_args!("{release}: has {}", lacks.join(" and "));
    Finding::of(check, Severity::Note, what).fixed_by(NEWER_KERNEL)
}

/// Whether XDP may have packets of several buffers. A kernel that tells the features of drivers (6.3) has
/// it, whatever its number: distributions bring new code to old numbers.
pub(super) fn has_fragments(facts: &Facts) -> bool {
    version(&facts.bpf.release).is_some_and(|version| version >= (5, 18))
        || facts.interfaces.iter().any(|interface| interface.xdp_features.is_ok())
}

fn jit(facts: &Facts) -> Finding {
    let check = Check::BpfJit;
    match &facts.bpf.jit {
        Ok(0) => Finding::of(check, Severity::Warning, "programs are interpreted")
            .fixed_by("sysctl -w net.core.bpf_jit_enable=1"),
        Ok(_) => Finding::ok(check, "on"),
        Err(why_not) => Finding::unseen(check, why_not),
    }
}

fn file_system(facts: &Facts) -> Finding {
    let (check, pins) = (Check::BpfFileSystem, &facts.bpf.pins);
    match &facts.bpf.file_system {
        Ok(true) => Finding::ok(check, pins),
        Ok(false) => Finding::of(check, Severity::Error, format_args!("{pins} is none"))
            .fixed_by(format!("mount -t bpf bpf {pins}")),
        Err(why_not) => Finding::unseen(check, why_not),
    }
}

fn capabilities(facts: &Facts) -> Finding {
    let check = Check::Capabilities;
    let who = if facts.runs() { "the daemon" } else { "this process" };
    match &facts.bpf.missing {
        Ok(missing) if missing.is_empty() => Finding::ok(check, format_args!("{who} has them")),
        Ok(missing) => {
            let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
            // Who asks need not be who runs it.
            let (severity, fix) = if facts.runs() {
                // The unit as it is shipped gives them.
                let fix = "systemctl revert breakout365 && systemctl restart breakout365";
                (Severity::Error, fix)
            } else {
                (Severity::Note, "sudo breakout365 doctor")
            };
            let what = format_args!("{who} lacks {}", missing.join(" and "));
            Finding::of(check, severity, what).fixed_by(fix)
        }
        Err(why_not) => Finding::unseen(check, why_not),
    }
}

fn clock(facts: &Facts) -> Finding {
    let check = Check::Clock;
    let fix = "timedatectl set-ntp true";
    if facts.now < LIST_PUBLISHED {
        let what = "it is before the day the list in this program was published";
        return Finding::of(check, Severity::Error, what).fixed_by(fix);
    }
    match &facts.clock {
        Ok(true) => Finding::ok(check, "synchronised"),
        Ok(false) => Finding::of(check, Severity::Note, "not synchronised").fixed_by(fix),
        Err(why_not) => Finding::unseen(check, why_not),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_distributions_write() {
        assert_eq!(version("6.1.0-32-amd64"), Some((6, 1)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn a_kernel_is_judged_by_what_it_can_where_that_is_seen() {
        let mut facts = Facts::healthy();
        facts.bpf.release = "5.14.0-503.el9".into();
        assert!(facts.told(Severity::Ok).contains(&"kernel"));
        for interface in &mut facts.interfaces {
            interface.tcx = Err("EINVAL".into());
            interface.xdp_features = Err("no family".into());
        }
        assert!(facts.told(Severity::Note).contains(&"kernel"));
    }

    #[test]
    fn each_lack_is_told_with_its_severity() {
        let mut facts = Facts::healthy();
        facts.bpf.release = "5.4.0".into();
        facts.bpf.jit = Ok(0);
        facts.bpf.file_system = Ok(false);
        facts.bpf.missing = Ok(["CAP_BPF".to_owned()].into());
        facts.clock = Ok(false);
        assert_eq!(facts.told(Severity::Error), ["kernel", "bpf-file-system", "capabilities"]);
        assert_eq!(facts.told(Severity::Warning), ["bpf-jit"]);
        assert_eq!(facts.told(Severity::Note), ["clock"]);
        facts.daemon = Ok(None);
        facts.rules = Ok(Vec::new());
        facts.now = 0;
        assert_eq!(facts.told(Severity::Error), ["kernel", "bpf-file-system", "clock"]);
        facts.config = Err("c.toml:1: no".into());
        assert!(facts.told(Severity::Error).contains(&"configuration"));
    }
}
