//! Where this machine's packages come from, as its apt knows it.

use crate::process::{Failed, command, run};

/// One suite of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Whose it is, such as `Debian` or `Debian-Security`.
    pub(crate) label: String,
    /// The release's code name, with the suite's own name behind it: `bookworm-updates`.
    pub(crate) suite: String,
    /// Its address.
    pub(crate) address: String,
}

/// All that apt has lists of, in its order.
///
/// # Errors
///
/// There is no apt, or it fails.
pub(crate) fn origins() -> Result<Vec<Origin>, Failed> {
    let format = "$(LABEL) $(CODENAME) $(REPO_URI)";
    let mut ask = command("apt-get");
    ask.args(["indextargets", "--format", format, "Created-By: Packages"]);
    Ok(parse(&run(&mut ask)?.stdout))
}

/// A label may have spaces in it; code name and address have none.
fn parse(printed: &str) -> Vec<Origin> {
    let parse = |line: &str| {
        let mut words = line.rsplitn(3, ' ').map(str::to_owned);
        let (address, suite, label) = (words.next()?, words.next()?, words.next()?);
        Some(Origin { label, suite, address })
    };
    printed.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_may_have_spaces() {
        let printed = "Debian bookworm http://mirror.example/debian/\n\
                       Some Body's nodistro https://other.example/\nodd\n";
        let origin = |label: &str, suite: &str, address: &str| Origin {
            label: label.to_owned(),
            suite: suite.to_owned(),
            address: address.to_owned(),
        };
        let expected = [
            origin("Debian", "bookworm", "http://mirror.example/debian/"),
            origin("Some Body's", "nodistro", "https://other.example/"),
        ];
        assert_eq!(parse(printed), expected);
    }
}
