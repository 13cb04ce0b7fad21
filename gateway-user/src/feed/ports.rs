//! What a port text of the feed means: a set of ports as sorted, disjoint, merged ranges.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A set of ports from 1 to 65535. Equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// The ranges, ascending; between two of them at least one port is missing.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> + '_ {
        self.0.iter().cloned()
    }

    /// Whether there is no port at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `port` is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// The set without `port`.
    #[must_use]
    pub fn without(&self, port: u16) -> Self {
        let below = self.0.iter().filter_map(|range| {
            let last = (*range.end()).min(port.checked_sub(1)?);
            (*range.start() <= last).then(|| *range.start()..=last)
        });
        let above = self.0.iter().filter_map(|range| {
            let first = (*range.start()).max(port.checked_add(1)?);
            (first <= *range.end()).then(|| first..=*range.end())
        });
        below.chain(above).collect()
    }
}

/// Sorts and merges; an empty range holds no port.
impl FromIterator<RangeInclusive<u16>> for Ports {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        sorted.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=(*last.end()).max(*range.end());
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

/// Why a text is no set of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// Not a number from 1 to 65535.
    #[error("{0:?} is not a port from 1 to 65535")]
    NotAPort(String),
    /// A range that ends before it begins.
    #[error("the range {0:?} ends before it begins")]
    Reversed(String),
}

impl FromStr for Ports {
    type Err = PortsError;

    /// Reads ports and ranges `a-b`, separated by commas, in any order, spaces allowed around
    /// each number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(range).collect()
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, PortsError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return Err(PortsError::Reversed(text.trim().to_owned()));
    }
    Ok(first..=last)
}

fn port(text: &str) -> Result<u16, PortsError> {
    let text = text.trim_matches(' ');
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(PortsError::NotAPort(text.to_owned())),
    }
}

/// The canonical text: ascending, merged, no spaces. It parses to the same value.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            let (first, last) = (range.start(), range.end());
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn untidy_texts_mean_what_a_person_reads() {
        let cases = [
            ("80,443", "80,443"),
            ("143, 587, 993, 995", "143,587,993,995"),
            ("3481,3479 , 3478,3480", "3478-3481"),
            ("50000-59999, 3478-3481,55000-60000", "3478-3481,50000-60000"),
            (" 1 - 2 ,65535", "1-2,65535"),
            ("1-65535,7", "1-65535"),
        ];
        for (text, canonical) in cases {
            assert_eq!(text.parse::<Ports>().map(|ports| ports.to_string()), Ok(canonical.into()));
        }
    }

    #[test]
    fn texts_that_are_no_ports_are_refused() {
        for text in ["", " ", ",", "80,", "80,,443", "0", "65536", "-1", "80-", "-80", "a", "+80"] {
            assert!(matches!(text.parse::<Ports>(), Err(PortsError::NotAPort(_))), "{text:?}");
        }
        for text in ["1-2-3", "0-80", "80;443", "80 443", "80\n", "８０"] {
            assert!(matches!(text.parse::<Ports>(), Err(PortsError::NotAPort(_))), "{text:?}");
        }
        assert_eq!("443-80".parse::<Ports>(), Err(PortsError::Reversed("443-80".into())));
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back(ranges in prop::collection::vec((1u16.., 0u16..9), 1..20)) {
            let ports: Ports =
                ranges.iter().map(|(first, more)| *first..=first.saturating_add(*more)).collect();
            prop_assert_eq!(ports.to_string().parse::<Ports>(), Ok(ports));
        }

        #[test]
        fn without_takes_exactly_one_port_away(
            ranges in prop::collection::vec((1u16..60, 0u16..9), 0..9),
            gone in 0u16..70,
        ) {
            let ports: Ports = ranges.iter().map(|(first, more)| *first..=first + more).collect();
            let rest = ports.without(gone);
            for port in 0..=80 {
                prop_assert_eq!(rest.contains(port), ports.contains(port) && port != gone);
            }
        }
    }
}
