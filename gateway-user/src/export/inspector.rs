//! What an inspection chain hands packets to.

use std::mem;
use std::str::FromStr;

use crate::feed::Ports;

/// What an inspection chain hands packets to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspector {
    /// A transparent proxy: TCP to these ports, to its own.
    Tproxy(u16, Ports),
    /// A proxy that asks where a connection was going: TCP to these ports, to its own.
    Redirect(u16, Ports),
    /// A program behind a queue of this number: everything that is forwarded.
    Queue(u16),
    /// Nobody: nothing is forwarded, so that what is not direct has to take a proxy.
    Drop,
}

/// Why a text names no inspector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none of tproxy:PORT, redirect:PORT, queue:NUMBER and drop; the first two may end in the \
     ports they take, as in tproxy:3129/80,443"
)]
pub struct InspectorError(String);

/// Why inspectors do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TogetherError {
    /// They take the same packets in the same way.
    #[error("--to names two inspectors of one kind for the same traffic; leave one out")]
    SameTraffic,
    /// What is dropped is not queued.
    #[error("--to names a queue and drop, which leaves nothing for the queue; leave one out")]
    NothingQueued,
}

/// What web traffic goes to, where nothing else is asked for.
const WEB: &str = "80,443";

impl Inspector {
    /// Asks whether each of `inspectors` gets something.
    ///
    /// # Errors
    ///
    /// See [`TogetherError`].
    pub fn go_together(inspectors: &[Self]) -> Result<(), TogetherError> {
        let pairs = inspectors
            .iter()
            .enumerate()
            .flat_map(|(at, one)| inspectors.iter().take(at).map(move |other| (one, other)));
        for (one, other) in pairs {
            match (one, other) {
                (Self::Queue(_), Self::Drop) | (Self::Drop, Self::Queue(_)) => {
                    return Err(TogetherError::NothingQueued);
                }
                _ if mem::discriminant(one) == mem::discriminant(other)
                    && overlap(one.ports(), other.ports()) =>
                {
                    return Err(TogetherError::SameTraffic);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The TCP ports that it takes; `None`: whatever is forwarded.
    fn ports(&self) -> Option<&Ports> {
        match self {
            Self::Tproxy(_, ports) | Self::Redirect(_, ports) => Some(ports),
            Self::Queue(_) | Self::Drop => None,
        }
    }
}

fn overlap(one: Option<&Ports>, other: Option<&Ports>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return true };
    one.ranges().any(|range| {
        other.ranges().any(|it| it.start() <= range.end() && range.start() <= it.end())
    })
}

impl FromStr for Inspector {
    type Err = InspectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            if text == "drop" {
                return Some(Self::Drop);
            }
            let (kind, rest) = text.split_once(':')?;
            if kind == "queue" {
                return Some(Self::Queue(rest.parse().ok()?));
            }
            let (port, ports) = rest.split_once('/').unwrap_or((rest, WEB));
            let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
            let ports: Ports = ports.parse().ok()?;
            // As many as iptables has room for in one rule; a range counts twice.
            if ports
                .ranges()
                .map(|range| 1 + usize::from(range.start() < range.end()))
                .sum::<usize>()
                > 15
            {
                return None;
            }
            match kind {
                "tproxy" => Some(Self::Tproxy(port, ports)),
                "redirect" => Some(Self::Redirect(port, ports)),
                _ => None,
            }
        };
        parse().ok_or_else(|| InspectorError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inspectors_are_named_in_one_way() {
        let ports = |text: &str| text.parse::<Ports>().unwrap();
        assert_eq!("tproxy:3129".parse(), Ok(Inspector::Tproxy(3129, ports("80,443"))));
        assert_eq!(
            "redirect:1/80,8000-8080".parse(),
            Ok(Inspector::Redirect(1, ports("80,8000-8080")))
        );
        assert_eq!("queue:0".parse(), Ok(Inspector::Queue(0)));
        assert_eq!("drop".parse(), Ok(Inspector::Drop));
        for text in [
            "",
            "tproxy",
            "tproxy:0",
            "tproxy:1/",
            "tproxy:1/0",
            "redirect:65536",
            "queue:-1",
            "queue:0/80",
            "drop:0",
            "icap:1",
            "tproxy:1/1,3,5,7,9,11,13,15,17,19,21,23,25,27,29-30",
        ] {
            assert_eq!(text.parse::<Inspector>(), Err(InspectorError(text.to_owned())));
        }
    }

    #[test]
    fn each_inspector_gets_something() {
        for (inspectors, expected) in [
            (&["tproxy:1", "redirect:2", "queue:0"][..], Ok(())),
            (&["tproxy:1/80", "tproxy:2/443", "drop"], Ok(())),
            (&["tproxy:1/80", "tproxy:2"], Err(TogetherError::SameTraffic)),
            (&["queue:0", "tproxy:1", "queue:1"], Err(TogetherError::SameTraffic)),
            (&["drop", "drop"], Err(TogetherError::SameTraffic)),
            (&["drop", "queue:0"], Err(TogetherError::NothingQueued)),
        ] {
            let parsed: Vec<_> = inspectors.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(Inspector::go_together(&parsed), expected, "{inspectors:?}");
        }
    }
}
