//! What the configuration file says: the shape of the TOML, every value with its place.

use serde::Deserialize;
use toml::Spanned;

use super::feed::Feed;
use super::own::{ExcludeSpec, IncludeSpec, SourcesSpec};

/// The whole file. A key that is not here is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    pub(super) version: Spanned<i64>,
    #[serde(default)]
    pub(super) mode: Mode,
    #[serde(default)]
    pub(super) on_stop: OnStop,
    pub(super) deadline: Option<Spanned<String>>,
    pub(super) self_check: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) interface: Vec<Interface>,
    pub(super) mark: Option<Mark>,
    #[serde(default)]
    pub(super) policy: Policy,
    #[serde(default)]
    pub(super) feed: Feed,
    #[serde(default)]
    pub(super) guards: super::guards::Spec,
    pub(super) egress: Option<Spanned<super::egress::Spec>>,
}

/// `mode`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    #[default]
    Mark,
    Shadow,
}

/// `on-stop`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OnStop {
    #[default]
    Keep,
    Detach,
}

/// `[[interface]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Interface {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) hook: Hook,
}

/// `hook`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Hook {
    #[default]
    Auto,
    Xdp,
    Tc,
    Generic,
}

/// `[mark]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Mark {
    pub(super) value: Spanned<u32>,
    pub(super) mask: Option<Spanned<u32>>,
    pub(super) decided: Option<Spanned<u32>>,
}

/// `[policy]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Policy {
    pub(super) categories: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) service_areas: Option<Spanned<Vec<String>>>,
    pub(super) required_only: Option<bool>,
    #[serde(default)]
    pub(super) include_sets: Vec<u32>,
    #[serde(default)]
    pub(super) exclude_sets: Vec<Spanned<u32>>,
    pub(super) ipv4: Option<Spanned<bool>>,
    pub(super) ipv6: Option<Spanned<bool>>,
    #[serde(default)]
    pub(super) include: Vec<IncludeSpec>,
    #[serde(default)]
    pub(super) exclude: Vec<ExcludeSpec>,
    pub(super) sources: Option<Spanned<SourcesSpec>>,
}
