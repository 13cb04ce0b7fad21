//! Which feed there is before anything is fetched.

use super::{FeedError, Snapshot, embedded, read};
use crate::config::FeedSource;

/// The feed of `source` that is at hand: for a file, what is in it; for the network, `last_good`,
/// which is the last good one of this very source, and else, of the web service, the one in the
/// binary if it is of this instance. `None` where there is none.
///
/// # Errors
///
/// The file cannot be read, or is refused.
pub fn at_hand(
    source: &FeedSource,
    last_good: Option<&Snapshot>,
) -> Result<Option<Snapshot>, FeedError> {
    let instance = match source {
        FeedSource::File(path) => return read(path).map(Some),
        FeedSource::Embedded => return embedded().map(Some),
        // Whose list it has, nobody knows before it was fetched.
        FeedSource::Url(_) => return Ok(last_good.cloned()),
        FeedSource::WebService { instance, .. } => instance.name(),
    };
    let is_ours = |snapshot: &Snapshot| snapshot.instance.as_deref() == Some(instance);
    match last_good.filter(|last| is_ours(last)) {
        Some(last) => Ok(Some(last.clone())),
        None => Ok(Some(embedded()?).filter(is_ours)),
    }
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
    fn the_one_in_the_binary_is_the_last_resort() {
        let source = service(Instance::Worldwide);
        let older = version("2026010100");
        assert_eq!(at_hand(&source, Some(&older)).unwrap(), Some(older));
        assert_eq!(at_hand(&source, None).unwrap(), Some(embedded().unwrap()));
    }

    #[test]
    fn no_other_instance_stands_in() {
        let source = service(Instance::China);
        let worldwide = version("2099010100");
        assert_eq!(at_hand(&source, Some(&worldwide)).unwrap(), None);
        let china = Snapshot { instance: Some("China".to_owned()), ..worldwide };
        assert_eq!(at_hand(&source, Some(&china)).unwrap(), Some(china));
        let url = FeedSource::Url("https://192.0.2.1/list".parse().unwrap());
        assert_eq!(at_hand(&url, None).unwrap(), None);
    }
}
