//! Which feed there is before anything is fetched.

use super::{FeedError, FeedIdentity, Snapshot, embedded, read};
use crate::config::FeedSource;

/// The newest feed of `source` that is at hand: for a file, what is in it; for the network, the
/// newer of the last good one and the one in the binary, as far as they are of this source.
/// `unwanted` is a feed that a person has turned down: the one in the binary is then left out.
/// `None` where there is none.
///
/// # Errors
///
/// The file cannot be read, or is refused.
pub fn at_hand(
    source: &FeedSource,
    last_good: Option<&Snapshot>,
    unwanted: Option<&FeedIdentity>,
) -> Result<Option<Snapshot>, FeedError> {
    let instance = match source {
        FeedSource::File(path) => return read(path).map(Some),
        FeedSource::Embedded => return embedded().map(Some),
        // Whose list it has, nobody knows before it was fetched.
        FeedSource::Url(_) => return Ok(last_good.cloned()),
        FeedSource::WebService { instance, .. } => instance.name(),
    };
    let last_good = last_good.filter(|last| last.instance.as_deref() == Some(instance)).cloned();
    let embedded = Some(embedded()?)
        .filter(|it| it.instance.as_deref() == Some(instance))
        .filter(|it| unwanted != Some(&it.identity()));
    Ok(match (last_good, embedded) {
        (Some(last), Some(embedded)) if embedded.version > last.version => Some(embedded),
        (last, embedded) => last.or(embedded),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Instance;

    fn service(instance: Instance) -> FeedSource {
        FeedSource::WebService { instance, base: "https://192.0.2.1".parse().unwrap() }
    }

    fn version(version: &str) -> Snapshot {
        Snapshot { version: Some(version.to_owned()), ..embedded().unwrap() }
    }

    #[test]
    fn the_newer_of_the_last_good_one_and_the_one_in_the_binary_is_taken() {
        let in_binary = embedded().unwrap();
        let source = service(Instance::Worldwide);
        let taken = |last: &Snapshot, unwanted| {
            at_hand(&source, Some(last), unwanted).unwrap().unwrap().version
        };
        let (older, newer) = (version("2026010100"), version("2099010100"));
        assert_eq!(taken(&newer, None), newer.version);
        assert_eq!(taken(&older, None), in_binary.version);
        assert_eq!(taken(&older, Some(&in_binary.identity())), older.version, "turned down");
    }

    #[test]
    fn no_other_instance_stands_in() {
        let source = service(Instance::China);
        let worldwide = version("2099010100");
        assert_eq!(at_hand(&source, Some(&worldwide), None).unwrap(), None);
        let china = Snapshot { instance: Some("China".to_owned()), ..worldwide };
        assert_eq!(at_hand(&source, Some(&china), None).unwrap(), Some(china));
    }
}
