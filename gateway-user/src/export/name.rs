//! Host names of the feed as patterns with one meaning, whoever compares: PAC file or proxy.

use std::fmt;

/// A host name or a pattern of them, in lower case. At most one `*`, in front of the last two
/// labels: what it leaves open is under a name that somebody has registered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// This host.
    Exact(String),
    /// `*.example.com`: every host under this name, which is kept with its leading dot, and not
    /// the name itself.
    Under(String),
    /// `autodiscover.*.example.com` or `*cdn.example.net`: any text between the two, whole labels
    /// or not, or none at all.
    Between(String, String),
}

/// Length of a host name (RFC 1035, section 2.3.4, without the final dot).
const MAX_NAME: usize = 253;
/// Length of a label, same place.
const MAX_LABEL: usize = 63;

impl Name {
    /// The pattern that `text` is; `None` for anything else than a host name of at least two
    /// labels with at most one `*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let mut labels = text.rsplit('.');
        let (top, second) = (labels.next()?, labels.next()?);
        // A top level of digits only would be an address.
        let registered = [top, second].iter().all(|label| !label.contains('*'))
            && top.bytes().any(|byte| byte.is_ascii_alphabetic());
        let fits = text.len() <= MAX_NAME && text.split('.').all(is_label);
        if !registered || !fits {
            return None;
        }
        match text.split_once('*') {
            None => Some(Self::Exact(text)),
            Some((_, after)) if after.contains('*') => None,
            Some(("", after)) if after.starts_with('.') => Some(Self::Under(after.to_owned())),
            Some((before, after)) => Some(Self::Between(before.to_owned(), after.to_owned())),
        }
    }
}

fn is_label(label: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
    (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(known)
}

/// As the feed writes it.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Under(name) => write!(f, "*{name}"),
            Self::Between(before, after) => write!(f, "{before}*{after}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_feed_are_understood() {
        for (text, name) in [
            ("Outlook.Office.com", Name::Exact("outlook.office.com".into())),
            ("*.sharepoint.com", Name::Under(".sharepoint.com".into())),
            ("*cdn.onenote.net", Name::Between(String::new(), "cdn.onenote.net".into())),
            (
                "autodiscover.*.onmicrosoft.com",
                Name::Between("autodiscover.".into(), ".onmicrosoft.com".into()),
            ),
        ] {
            assert_eq!(Name::parse(text).as_ref(), Some(&name), "{text}");
            assert_eq!(name.to_string(), text.to_ascii_lowercase());
        }
    }

    #[test]
    fn what_is_no_host_or_leaves_a_registered_name_open_is_refused() {
        for text in [
            "",
            "*",
            "com",
            "*.com",
            "*office.com",
            "office.*",
            "a.*.com",
            "*.*.office.com",
            "**.office.com",
            ".office.com",
            "a..office.com",
            "office.com.",
            "a b.office.com",
            "office.com/path",
            "office.com:443",
            "https://office.com",
            "10.0.0.1",
            "[::1]",
            "a\".office.com",
            "a\n.office.com",
            "\u{2028}.office.com",
            "ä.office.com",
            "a\\.b.com",
            "user@office.com",
            "K.office.com\u{212a}",
        ] {
            assert_eq!(Name::parse(text), None, "{text:?}");
        }
        let long = "a".repeat(64);
        assert_eq!(Name::parse(&format!("{long}.office.com")), None);
        assert_eq!(Name::parse(&format!("{}office.com", "a.".repeat(130))), None);
    }
}
