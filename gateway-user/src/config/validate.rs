//! From what the file says to what it means: every rule that one value alone cannot show.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use super::file::{self, File};
use super::{Config, ConfigError, HookMode, Interface, Mark, Mode, OnStop, egress, guards, own};
use crate::feed::Category;
use crate::policy::Policy;

/// The only version of the file there is.
const VERSION: i64 = 1;
/// The kernel's `IFNAMSIZ`, less the terminating zero.
const LONGEST_NAME: usize = 15;

pub(super) fn validate(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let source = Source { text, path };
    let file: File = toml::from_str(text).map_err(|error| source.syntax(&error))?;
    let version = *file.version.get_ref();
    if version != VERSION {
        let problem = format_args!("{version} is not supported; this binary reads {VERSION}");
        return Err(source.refuse(&file.version, "version", problem));
    }
    let (feed, feed_options) = super::feed::feed(&source, &file.feed)?;
    let interfaces = interfaces(&source, file.interface)?;
    let mark_bits = mark(&source, file.mark.as_ref())?;
    let decided = file.mark.and_then(|mark| mark.decided);
    Ok(Config {
        egress: egress::egress(&source, file.egress, decided, mark_bits, &interfaces)?,
        mark: mark_bits,
        mode: match file.mode {
            file::Mode::Mark => Mode::Mark,
            file::Mode::Shadow => Mode::Shadow,
        },
        policy: policy(&source, file.policy, &interfaces)?,
        interfaces,
        on_stop: match file.on_stop {
            file::OnStop::Keep => OnStop::Keep,
            file::OnStop::Detach => OnStop::Detach,
        },
        deadline: super::deadline::deadline(&source, file.deadline.as_ref())?,
        self_check: super::self_check::self_check(&source, file.self_check.as_ref())?,
        feed,
        feed_options,
        guards: guards::guards(&source, file.guards)?,
    })
}

/// The text, for line numbers, and its name.
pub(super) struct Source<'a> {
    text: &'a str,
    pub(super) path: &'a Path,
}

impl Source<'_> {
    pub(super) fn refuse<T>(
        &self,
        at: &Spanned<T>,
        field: &str,
        problem: impl Display,
    ) -> ConfigError {
        let place = format!("{}:{}", self.path.display(), self.line(&at.span()));
        ConfigError { place, problem: format!("{field}: {problem}") }
    }

    /// The TOML reader names a key only where it is unknown; the line it stands on always does.
    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message().trim().replace('\n', ", ");
        let Some(span) = error.span().filter(|span| !span.is_empty()) else {
            return ConfigError::whole(self.path, message);
        };
        let line = self.line(&span);
        let place = format!("{}:{line}", self.path.display());
        let source = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim();
        ConfigError { place, problem: format!("`{source}`: {message}") }
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.bytes().take(span.start);
        before.filter(|byte| *byte == b'\n').count().saturating_add(1)
    }
}

fn interfaces(
    source: &Source<'_>,
    entries: Vec<file::Interface>,
) -> Result<Vec<Interface>, ConfigError> {
    if entries.is_empty() {
        let problem = "no [[interface]]: name at least one inside interface";
        return Err(ConfigError::whole(source.path, problem));
    }
    let mut lines = BTreeMap::new();
    let mut interfaces = Vec::with_capacity(entries.len());
    for file::Interface { name, hook } in entries {
        if let Some(problem) = bad_interface_name(name.get_ref()) {
            let problem = format_args!("{:?} {problem}", name.get_ref());
            return Err(source.refuse(&name, "interface.name", problem));
        }
        let line = source.line(&name.span());
        if let Some(first) = lines.insert(name.get_ref().clone(), line) {
            let problem = format_args!("{:?} stands in line {first} already", name.get_ref());
            return Err(source.refuse(&name, "interface.name", problem));
        }
        let hook = match hook {
            file::Hook::Auto => HookMode::Auto,
            file::Hook::Xdp => HookMode::Xdp,
            file::Hook::Tc => HookMode::Tc,
            file::Hook::Generic => HookMode::Generic,
        };
        interfaces.push(Interface { name: name.into_inner(), hook });
    }
    Ok(interfaces)
}

/// The kernel's rules for names (`dev_valid_name`, `net/core/dev.c`), and no control characters.
pub(super) fn bad_interface_name(name: &str) -> Option<String> {
    if name.is_empty() {
        Some("is empty".into())
    } else if name.len() > LONGEST_NAME {
        Some(format!("has {} bytes; an interface name has at most {LONGEST_NAME}", name.len()))
    } else if matches!(name, "." | "..") {
        Some("is not an interface name".into())
    } else {
        name.chars()
            .find(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':'))
            .map(|c| format!("holds {c:?}, which no interface name does"))
    }
}

fn mark(source: &Source<'_>, spec: Option<&file::Mark>) -> Result<Mark, ConfigError> {
    let Some(file::Mark { value: at, mask, .. }) = spec else { return Ok(Mark::default()) };
    let value = *at.get_ref();
    let mask = mask.as_ref().map_or(value, |mask| *mask.get_ref());
    if value == 0 {
        return Err(source.refuse(at, "mark.value", "0 would mark nothing; set at least one bit"));
    }
    if value & !mask != 0 {
        let problem = format_args!("{value:#x} has bits outside mark.mask {mask:#x}");
        return Err(source.refuse(at, "mark.value", problem));
    }
    Ok(Mark { value, mask })
}

fn policy(
    source: &Source<'_>,
    spec: file::Policy,
    interfaces: &[Interface],
) -> Result<Policy, ConfigError> {
    let default = Policy::default();
    let include_sets: BTreeSet<u32> = spec.include_sets.into_iter().collect();
    if let Some(both) = spec.exclude_sets.iter().find(|id| include_sets.contains(id.get_ref())) {
        let problem = format_args!("set {} is in include-sets too; take one out", both.get_ref());
        return Err(source.refuse(both, "policy.exclude-sets", problem));
    }
    let (includes, excludes) = own::entries(source, spec.include, spec.exclude)?;
    let named = !include_sets.is_empty() || !includes.is_empty();
    let categories = match spec.categories {
        Some(list) => categories(source, &list, named)?,
        None => default.categories,
    };
    let service_areas = match spec.service_areas {
        Some(list) if list.get_ref().is_empty() && !named => {
            let problem = "empty, and no include-sets: nothing would go direct";
            return Err(source.refuse(&list, "policy.service-areas", problem));
        }
        list => list.map(|list| list.into_inner().into_iter().collect()),
    };
    let is_on = |family: &Option<Spanned<bool>>| family.as_ref().is_none_or(|on| *on.get_ref());
    if let (Some(_), Some(at)) = (&spec.ipv4, &spec.ipv6)
        && !is_on(&spec.ipv4)
        && !is_on(&spec.ipv6)
    {
        let problem = "off, as is policy.ipv4: nothing would go direct";
        return Err(source.refuse(at, "policy.ipv6", problem));
    }
    Ok(Policy {
        categories,
        service_areas,
        required_only: spec.required_only.unwrap_or(default.required_only),
        include_sets,
        exclude_sets: spec.exclude_sets.into_iter().map(Spanned::into_inner).collect(),
        ipv4: is_on(&spec.ipv4),
        ipv6: is_on(&spec.ipv6),
        includes,
        excludes,
        sources: own::sources(source, spec.sources, interfaces)?,
    })
}

fn categories(
    source: &Source<'_>,
    list: &Spanned<Vec<Spanned<String>>>,
    named: bool,
) -> Result<BTreeSet<Category>, ConfigError> {
    let field = "policy.categories";
    if list.get_ref().is_empty() && !named {
        let problem = "empty, and no include-sets: nothing would go direct";
        return Err(source.refuse(list, field, problem));
    }
    list.get_ref()
        .iter()
        .map(|name| {
            name.get_ref().parse().map_err(|reason| {
                let problem = format_args!("{:?}: {reason}", name.get_ref());
                source.refuse(name, field, problem)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{FeedOptions, FeedSource};
    use crate::plan::Guards;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/b/c.toml")).map_err(|error| error.to_string())
    }

    /// A file with version and interface, and `more` from line 4 on.
    fn with(more: &str) -> String {
        format!("version = 1\n[[interface]]\nname = \"lan0\"\n{more}")
    }

    #[test]
    fn the_smallest_file_means_the_defaults() {
        let config = parse(&with("")).unwrap();
        assert_eq!(
            config,
            Config {
                interfaces: vec![Interface { name: "lan0".into(), hook: HookMode::Auto }],
                mark: Mark { value: 0x0100_0000, mask: 0x0100_0000 },
                mode: Mode::Mark,
                policy: Policy::default(),
                on_stop: OnStop::Keep,
                deadline: Some(Duration::from_mins(1)),
                self_check: 1000,
                feed: FeedSource::Embedded,
                feed_options: FeedOptions::default(),
                guards: Guards::default(),
                egress: None,
            }
        );
    }

    #[test]
    fn every_key_has_its_meaning() {
        let config = parse(
            r#"
            version = 1
            mode = "shadow"
            on-stop = "detach"
            deadline = "0s"
            [[interface]]
            name = "lan0"
            hook = "xdp"
            [[interface]]
            name = "lan0.100"
            hook = "tc"
            [[interface]]
            name = "wg0"
            hook = "generic"
            [mark]
            value = 0x10
            mask = 0x30
            [policy]
            categories = ["Optimize", "Allow"]
            service-areas = ["Exchange"]
            required-only = true
            include-sets = [56]
            exclude-sets = [9, 10]
            ipv4 = false
            ipv6 = true
            [feed]
            file = "feed.json"
            "#,
        )
        .unwrap();
        let interface = |name: &str, hook| Interface { name: name.into(), hook };
        assert_eq!(
            config,
            Config {
                interfaces: vec![
                    interface("lan0", HookMode::Xdp),
                    interface("lan0.100", HookMode::Tc),
                    interface("wg0", HookMode::Generic),
                ],
                mark: Mark { value: 0x10, mask: 0x30 },
                mode: Mode::Shadow,
                policy: Policy {
                    categories: [Category::Optimize, Category::Allow].into(),
                    service_areas: Some(["Exchange".into()].into()),
                    required_only: true,
                    include_sets: [56].into(),
                    exclude_sets: [9, 10].into(),
                    ipv4: false,
                    ipv6: true,
                    ..Policy::default()
                },
                on_stop: OnStop::Detach,
                deadline: None,
                self_check: 1000,
                feed: FeedSource::File(PathBuf::from("/etc/b/feed.json")),
                feed_options: FeedOptions::default(),
                guards: Guards::default(),
                egress: None,
            }
        );
    }

    #[test]
    fn contradictions_are_refused_with_line_and_field() {
        let long = with("[[interface]]\nname = \"abcdefghijklmnop\"");
        let nothing = "empty, and no include-sets: nothing would go direct";
        let cases: &[(&str, &str)] = &[
            ("version = 1", "/etc/b/c.toml: no [[interface]]: name at least one inside interface"),
            ("\nversion = 2", "/etc/b/c.toml:2: version: 2 is not supported; this binary reads 1"),
            (
                &with("[[interface]]\nname = \"lan0\""),
                "/etc/b/c.toml:5: interface.name: \"lan0\" stands in line 3 already",
            ),
            (&with("[[interface]]\nname = \"\""), "/etc/b/c.toml:5: interface.name: \"\" is empty"),
            (
                &long,
                "/etc/b/c.toml:5: interface.name: \"abcdefghijklmnop\" has 16 bytes; an \
                 interface name has at most 15",
            ),
            (
                &with("[[interface]]\nname = \"a/b\""),
                "/etc/b/c.toml:5: interface.name: \"a/b\" holds '/', which no interface name does",
            ),
            (
                &with("[[interface]]\nname = \"a b\""),
                "/etc/b/c.toml:5: interface.name: \"a b\" holds ' ', which no interface name does",
            ),
            (
                &with("[mark]\nvalue = 0"),
                "/etc/b/c.toml:5: mark.value: 0 would mark nothing; set at least one bit",
            ),
            (
                &with("[mark]\nvalue = 0x11\nmask = 0x10"),
                "/etc/b/c.toml:5: mark.value: 0x11 has bits outside mark.mask 0x10",
            ),
            (
                &with("[policy]\ninclude-sets = [1, 2]\nexclude-sets = [3,\n2]"),
                "/etc/b/c.toml:7: policy.exclude-sets: set 2 is in include-sets too; take one out",
            ),
            (
                &with("[policy]\ncategories = [\"optimize\"]"),
                "/etc/b/c.toml:5: policy.categories: \"optimize\": expected Optimize, Allow or \
                 Default",
            ),
            (
                &with("[policy]\ncategories = []"),
                &format!("/etc/b/c.toml:5: policy.categories: {nothing}"),
            ),
            (
                &with("[policy]\nservice-areas = []"),
                &format!("/etc/b/c.toml:5: policy.service-areas: {nothing}"),
            ),
            (
                &with("[policy]\nipv4 = false\nipv6 = false"),
                "/etc/b/c.toml:6: policy.ipv6: off, as is policy.ipv4: nothing would go direct",
            ),
            (
                &with("[feed]\nfile = \"\""),
                "/etc/b/c.toml:5: feed.file: empty; leave it out for the feed in the binary",
            ),
        ];
        for (text, refusal) in cases {
            assert_eq!(parse(text), Err((*refusal).to_owned()));
        }
    }

    #[test]
    fn what_the_file_may_not_say_is_refused_in_one_line_with_its_place() {
        let cases: &[(&str, &str)] = &[
            ("", "/etc/b/c.toml: missing field `version`"),
            (&with("marc = 1"), "/etc/b/c.toml:4: `marc = 1`: unknown field `marc`"),
            (&with("[policy]\nurls = []"), "/etc/b/c.toml:5: `urls = []`: unknown field `urls`"),
            (&with("[mark]\nvalue = -1"), "/etc/b/c.toml:5: `value = -1`: invalid value"),
            (&with("[mark]\nvalue = \"1\""), "/etc/b/c.toml:5: `value = \"1\"`: invalid type"),
            (
                &with("hook = \"fast\""),
                "/etc/b/c.toml:4: `hook = \"fast\"`: unknown variant `fast`",
            ),
            ("version = 1\nversion = 1", "/etc/b/c.toml:2: `version = 1`: duplicate key"),
            ("version == 1", "/etc/b/c.toml:1: `version == 1`:"),
        ];
        for (text, start) in cases {
            let refusal = parse(text).unwrap_err();
            assert!(refusal.starts_with(start), "{refusal}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
    }

    #[test]
    fn the_packaged_file_is_valid_follows_the_feed_and_else_means_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pkg/config/config.toml");
        let config = Config::read(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            config,
            Config {
                interfaces: config.interfaces.clone(),
                ..parse(&with("[feed]\ninstance = \"Worldwide\"")).unwrap()
            }
        );
        // Every key that the file explains, taken out of its comment, is valid as well.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix("#") {
                Some(key) if !key.starts_with(' ') && !key.is_empty() => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_ne!(all, text);
        parse(&all).unwrap();
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(version = 1\n)?([a-z\\[\\]=\"' 0-9.\n\u{e9}-]{0,80})") {
            if let Err(refusal) = parse(&text) {
                prop_assert!(refusal.starts_with("/etc/b/c.toml"));
            }
        }
    }
}
