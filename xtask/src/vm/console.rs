//! What a guest said on its console, as far as it is for the host.

/// A guest's report. Lines of the kernel and of others are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Console {
    /// Its kernel, as `uname -r` says it.
    pub(super) release: Option<String>,
    /// What the programs were attached to.
    pub(super) hooks: Option<String>,
    /// Instructions that the verifier walked, of each program.
    pub(super) verified: Option<String>,
    /// Checks that held.
    pub(super) held: usize,
    failed: Vec<String>,
    end: Option<String>,
}

impl Console {
    /// Reads all that was said.
    pub(super) fn read(text: &str) -> Self {
        let mut console = Self::default();
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("vm: ")) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let rest = rest.to_owned();
            match word {
                "kernel" => console.release = Some(rest),
                "hooks" => console.hooks = Some(rest),
                "verified" => console.verified = Some(rest),
                "ok" => console.held += 1,
                "FAILED" => console.failed.push(rest),
                "end" => console.end = Some(rest),
                _ => {}
            }
        }
        console
    }

    /// Whether the guest got to its end, and everything held there. What got lost on the way has
    /// not held.
    pub(super) fn passed(&self) -> bool {
        let all = format!("{} checks, 0 failed", self.held);
        self.held > 0 && self.failed.is_empty() && self.end.as_ref() == Some(&all)
    }

    /// What did not hold, one line each.
    pub(super) fn problems(&self) -> Vec<String> {
        let failed = self.failed.iter().map(|check| format!("FAILED {check}"));
        let end = match &self.end {
            None => Some("did not get to its end".to_owned()),
            Some(end) if self.failed.is_empty() && !self.passed() => {
                Some(format!("{} checks arrived of {end}", self.held))
            }
            Some(_) => None,
        };
        failed.chain(end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\u{1b}cSeaBIOS\r\nvm: kernel 6.1.0\r\nvm: hooks lan0 (native xdp + clsact)\r\n\
                        vm: ok default policy: generation is published\r\nnoise\r\n\
                        vm: ok stopped: down\r\nvm: end 2 checks, 0 failed\r\n";

    #[test]
    fn everything_held_and_arrived_is_passed() {
        let console = Console::read(GOOD);
        assert_eq!(console.release.as_deref(), Some("6.1.0"));
        assert_eq!(console.hooks.as_deref(), Some("lan0 (native xdp + clsact)"));
        assert!(console.passed(), "{console:?}");
        assert_eq!(console.problems(), Vec::<String>::new());
    }

    #[test]
    fn anything_less_is_not() {
        let cut = GOOD.split("vm: end").next().unwrap();
        assert_eq!(Console::read(cut).problems(), ["did not get to its end"]);
        let failed = GOOD.replace("ok stopped: down", "FAILED stopped: down: busy");
        assert_eq!(Console::read(&failed).problems(), ["FAILED stopped: down: busy"]);
        let lost = GOOD.replace("vm: ok stopped: down", "vm: garbled");
        assert_eq!(Console::read(&lost).problems(), ["1 checks arrived of 2 checks, 0 failed"]);
        for text in [cut, &failed, &lost, "", "vm: end 0 checks, 0 failed"] {
            assert!(!Console::read(text).passed(), "{text}");
        }
    }
}
