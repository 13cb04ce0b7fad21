//! The operator's own entries in the file: `[[policy.include]]`, `[[policy.exclude]]` and
//! `[policy.sources]`.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::Transport;
use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::validate::Source;
use super::{ConfigError, Interface};
use crate::feed::{self, Ports};
use crate::policy::{Exclude, OwnInclude, Sources};

/// Excludes are numbered in 16 bits.
const MAX_EXCLUDES: usize = 1 << 16;
/// Longer names do not fit what they are shown in.
const LONGEST_NAME: usize = 64;

/// `[[policy.include]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct IncludeSpec {
    name: Spanned<String>,
    prefixes: Spanned<Vec<Spanned<String>>>,
    protocol: Option<Protocol>,
    ports: Option<Spanned<String>>,
    comment: Option<Spanned<String>>,
    #[serde(default)]
    allow_wide: bool,
}

/// `[[policy.exclude]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ExcludeSpec {
    name: Spanned<String>,
    prefixes: Spanned<Vec<Spanned<String>>>,
    protocol: Option<Protocol>,
    ports: Option<Spanned<String>>,
    comment: Option<Spanned<String>>,
}

/// `protocol`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Protocol {
    Tcp,
    Udp,
}

/// `[policy.sources]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct SourcesSpec {
    prefixes: Option<Spanned<Vec<Spanned<String>>>>,
    interfaces: Option<Spanned<Vec<Spanned<String>>>>,
}

/// What the operator's entries mean.
pub(super) fn entries(
    source: &Source<'_>,
    includes: Vec<IncludeSpec>,
    excludes: Vec<ExcludeSpec>,
) -> Result<(Vec<OwnInclude>, Vec<Exclude>), ConfigError> {
    let mut lines = BTreeMap::new();
    let includes = includes
        .into_iter()
        .map(|spec| include(source, spec, &mut lines))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(one_more) = excludes.get(MAX_EXCLUDES) {
        let problem = format_args!("more than {MAX_EXCLUDES} excludes; put prefixes together");
        return Err(source.refuse(&one_more.name, "policy.exclude.name", problem));
    }
    let excludes = excludes
        .into_iter()
        .map(|spec| exclude(source, spec, &mut lines))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((includes, excludes))
}

fn include(
    source: &Source<'_>,
    spec: IncludeSpec,
    lines: &mut BTreeMap<String, usize>,
) -> Result<OwnInclude, ConfigError> {
    let field = "policy.include.prefixes";
    let name = name(source, &spec.name, "policy.include.name", lines)?;
    let prefixes = prefixes(source, &spec.prefixes, field)?;
    if let Some(whole) = spec.prefixes.get_ref().iter().find(|text| text.get_ref().ends_with("/0"))
    {
        let problem = format_args!("{:?} is the whole internet; list less", whole.get_ref());
        return Err(source.refuse(whole, field, problem));
    }
    Ok(OwnInclude {
        name,
        prefixes,
        protocol: spec.protocol.map(transport),
        ports: ports(source, spec.ports.as_ref(), "policy.include.ports")?,
        comment: comment(source, spec.comment, "policy.include.comment")?,
        allow_wide: spec.allow_wide,
    })
}

fn exclude(
    source: &Source<'_>,
    spec: ExcludeSpec,
    lines: &mut BTreeMap<String, usize>,
) -> Result<Exclude, ConfigError> {
    Ok(Exclude {
        name: name(source, &spec.name, "policy.exclude.name", lines)?,
        prefixes: prefixes(source, &spec.prefixes, "policy.exclude.prefixes")?,
        protocol: spec.protocol.map(transport),
        ports: ports(source, spec.ports.as_ref(), "policy.exclude.ports")?,
        comment: comment(source, spec.comment, "policy.exclude.comment")?,
    })
}

/// Whose traffic goes direct. Interfaces are among `inside`: no other one's packets are seen.
pub(super) fn sources(
    source: &Source<'_>,
    spec: Option<Spanned<SourcesSpec>>,
    inside: &[Interface],
) -> Result<Sources, ConfigError> {
    let Some(at) = spec else { return Ok(Sources::default()) };
    let SourcesSpec { prefixes: listed, interfaces } = at.get_ref();
    let mut sources = Sources::default();
    if let Some(listed) = listed {
        let field = "policy.sources.prefixes";
        sources.prefixes = listed
            .get_ref()
            .iter()
            .map(|text| prefix(source, text, field))
            .collect::<Result<_, _>>()?;
    }
    for name in interfaces.iter().flat_map(Spanned::get_ref) {
        if !inside.iter().any(|interface| interface.name == *name.get_ref()) {
            let problem = format_args!("{:?} is no [[interface]] of this file", name.get_ref());
            return Err(source.refuse(name, "policy.sources.interfaces", problem));
        }
        sources.interfaces.insert(name.get_ref().clone());
    }
    if !sources.are_listed() {
        let problem = "lists nobody, so nothing would go direct; leave it out for everybody";
        return Err(source.refuse(&at, "policy.sources", problem));
    }
    Ok(sources)
}

/// A name that no other entry has, `lines` says where.
fn name(
    source: &Source<'_>,
    name: &Spanned<String>,
    field: &str,
    lines: &mut BTreeMap<String, usize>,
) -> Result<String, ConfigError> {
    let text = name.get_ref();
    if !feed::is_tidy(text) || text.len() > LONGEST_NAME {
        let problem = format_args!(
            "{text:?} is no name: 1 to {LONGEST_NAME} bytes, no spaces, no control characters"
        );
        return Err(source.refuse(name, field, problem));
    }
    if let Some(first) = lines.insert(text.clone(), source.line(&name.span())) {
        let problem = format_args!("{text:?} is the name of the entry in line {first} already");
        return Err(source.refuse(name, field, problem));
    }
    Ok(text.clone())
}

fn prefixes(
    source: &Source<'_>,
    list: &Spanned<Vec<Spanned<String>>>,
    field: &str,
) -> Result<BTreeSet<IpNet>, ConfigError> {
    if list.get_ref().is_empty() {
        return Err(source.refuse(list, field, "empty; list at least one prefix"));
    }
    list.get_ref().iter().map(|text| prefix(source, text, field)).collect()
}

fn prefix(source: &Source<'_>, text: &Spanned<String>, field: &str) -> Result<IpNet, ConfigError> {
    feed::prefix(text.get_ref()).map_err(|problem| source.refuse(text, field, problem))
}

fn ports(
    source: &Source<'_>,
    text: Option<&Spanned<String>>,
    field: &str,
) -> Result<Option<Ports>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let ports = text.get_ref().parse().map_err(|reason| {
        source.refuse(text, field, format_args!("{:?}: {reason}", text.get_ref()))
    })?;
    Ok(Some(ports))
}

/// One line, since it is shown in one.
fn comment(
    source: &Source<'_>,
    text: Option<Spanned<String>>,
    field: &str,
) -> Result<String, ConfigError> {
    let Some(text) = text else { return Ok(String::new()) };
    if text.get_ref().chars().any(char::is_control) {
        let problem = "holds a line break or another control character";
        return Err(source.refuse(&text, field, problem));
    }
    Ok(text.into_inner())
}

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::policy::Policy;

    /// The policy of a file with interfaces lan0 and lan0.7, and `more` from line 6 on.
    fn policy(more: &str) -> Result<Policy, String> {
        let start = "version = 1\n[[interface]]\nname = \"lan0\"\n[[interface]]\nname = \"lan0.7\"";
        Config::parse(&format!("{start}\n{more}"), Path::new("c.toml"))
            .map(|config| config.policy)
            .map_err(|error| error.to_string())
    }

    fn nets<const N: usize>(texts: [&str; N]) -> BTreeSet<IpNet> {
        texts.map(|text| text.parse().unwrap()).into()
    }

    #[test]
    fn every_key_has_its_meaning() {
        let policy = policy(
            r#"
            [policy]
            categories = []
            [[policy.include]]
            name = "branch-vpn"
            prefixes = ["192.0.2.0/24", "2001:db8::/32"]
            [[policy.include]]
            name = "sip"
            prefixes = ["198.51.100.0/24"]
            protocol = "udp"
            ports = "5060-5061, 53"
            comment = "trunk of the telephone company"
            allow-wide = true
            [[policy.exclude]]
            name = "quic"
            prefixes = ["0.0.0.0/0", "::/0"]
            protocol = "udp"
            ports = "443"
            comment = "DLP wants to see it"
            [[policy.exclude]]
            name = "lab"
            prefixes = ["192.0.2.7/32"]
            [policy.sources]
            prefixes = ["10.0.0.0/8", "fd00::/8"]
            interfaces = ["lan0.7"]
            "#,
        )
        .unwrap();
        let branch = OwnInclude {
            name: "branch-vpn".into(),
            prefixes: nets(["192.0.2.0/24", "2001:db8::/32"]),
            ..OwnInclude::default()
        };
        let sip = OwnInclude {
            name: "sip".into(),
            prefixes: nets(["198.51.100.0/24"]),
            protocol: Some(Transport::Udp),
            ports: Some("53,5060-5061".parse().unwrap()),
            comment: "trunk of the telephone company".into(),
            allow_wide: true,
        };
        let quic = Exclude {
            name: "quic".into(),
            prefixes: nets(["0.0.0.0/0", "::/0"]),
            protocol: Some(Transport::Udp),
            ports: Some("443".parse().unwrap()),
            comment: "DLP wants to see it".into(),
        };
        let lab =
            Exclude { name: "lab".into(), prefixes: nets(["192.0.2.7/32"]), ..Exclude::default() };
        assert_eq!(policy.includes, [branch, sip]);
        assert_eq!(policy.excludes, [quic, lab]);
        let sources = Sources {
            prefixes: nets(["10.0.0.0/8", "fd00::/8"]),
            interfaces: ["lan0.7".to_owned()].into(),
        };
        assert_eq!(policy.sources, sources);
    }

    #[test]
    fn what_is_wrong_is_refused_with_line_and_field() {
        let include = |more: &str| format!("[[policy.include]]\nname = \"a\"\n{more}");
        let two = |name: &str| {
            let one = include("prefixes = [\"192.0.2.0/24\"]");
            format!("{one}\n[[policy.exclude]]\nname = \"{name}\"\nprefixes = [\"192.0.2.0/25\"]")
        };
        assert!(policy(&two("b")).is_ok());
        let cases = [
            (two("a"), "10: policy.exclude.name: \"a\" is the name of the entry in line 7 already"),
            (
                two("a b"),
                "10: policy.exclude.name: \"a b\" is no name: 1 to 64 bytes, no spaces, no control \
                 characters",
            ),
            (
                include("prefixes = []"),
                "8: policy.include.prefixes: empty; list at least one prefix",
            ),
            (
                include("prefixes = [\"192.0.2.0/24\",\n\"192.0.2.1/24\"]"),
                "9: policy.include.prefixes: \"192.0.2.1/24\" has host bits set; its network is \
                 192.0.2.0/24",
            ),
            (
                include("prefixes = [\"::/0\"]"),
                "8: policy.include.prefixes: \"::/0\" is the whole internet; list less",
            ),
            (
                include("prefixes = [\"192.0.2.0/24\"]\nports = \"443;80\""),
                "9: policy.include.ports: \"443;80\": \"443;80\" is not a port from 1 to 65535",
            ),
            (
                include("prefixes = [\"192.0.2.0/24\"]\nprotocol = \"icmp\""),
                "9: `protocol = \"icmp\"`: unknown variant `icmp`, expected `tcp` or `udp`",
            ),
            (
                include("prefixes = [\"192.0.2.0/24\"]\ncomment = \"a\\nb\""),
                "9: policy.include.comment: holds a line break or another control character",
            ),
            (
                "[policy.sources]\ninterfaces = [\"lan1\"]".to_owned(),
                "7: policy.sources.interfaces: \"lan1\" is no [[interface]] of this file",
            ),
            (
                "[policy.sources]\nprefixes = [\"10.0.0.0\"]".to_owned(),
                "7: policy.sources.prefixes: \"10.0.0.0\" is not a prefix in CIDR notation",
            ),
            (
                "[policy.sources]\nprefixes = []".to_owned(),
                "6: policy.sources: lists nobody, so nothing would go direct; leave it out for \
                 everybody",
            ),
            (
                "[policy]\ncategories = []".to_owned(),
                "7: policy.categories: empty, and no include-sets: nothing would go direct",
            ),
        ];
        for (text, refusal) in cases {
            assert_eq!(policy(&text), Err(format!("c.toml:{refusal}")), "{text}");
        }
    }
}
