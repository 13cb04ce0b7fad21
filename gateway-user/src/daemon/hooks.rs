//! Interfaces: which hooks a generation is asked for, and what is said of those it got.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, info, warn};

use super::journal::Trigger;
use crate::config::{Config, HookMode, Mode};
use crate::datapath::{DatapathError, HookRequest, Interface, Published, TcCarrier, XdpRequest};

/// Interfaces a generation is asked for, by name, with their index; `None` while one is away.
pub(super) type Present = BTreeMap<String, Option<u32>>;

/// The hooks of a configuration. Interfaces that do not exist are refused, but for those in
/// `may_be_away`.
pub(super) async fn wanted(
    config: &Config,
    may_be_away: &BTreeSet<String>,
) -> Result<(Vec<HookRequest>, Present), DatapathError> {
    let mut hooks = Vec::new();
    let mut present = Present::new();
    for wanted in &config.interfaces {
        match Interface::find(&wanted.name).await {
            Ok(interface) => {
                present.insert(wanted.name.clone(), Some(interface.index));
                hooks.push(hook_request(interface, wanted.hook)?);
            }
            Err(DatapathError::NoInterface { name }) if may_be_away.contains(&name) => {
                present.insert(name, None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((hooks, present))
}

fn hook_request(interface: Interface, mode: HookMode) -> Result<HookRequest, DatapathError> {
    let has_header = interface.mac.is_some();
    let xdp = match mode {
        HookMode::Xdp | HookMode::Generic if !has_header => {
            return Err(DatapathError::NoXdpWithoutEthernet { name: interface.name });
        }
        HookMode::Auto if !has_header => XdpRequest::No,
        HookMode::Auto => XdpRequest::IfPossible,
        HookMode::Xdp => XdpRequest::Native,
        HookMode::Tc => XdpRequest::No,
        HookMode::Generic => XdpRequest::Generic,
    };
    Ok(HookRequest { interface, xdp, tc: TcCarrier::Best })
}

/// Says what serves now, and where it is less than was hoped for.
pub(super) fn report(config: &Config, published: &Published, trigger: Trigger) {
    let manifest = &published.manifest;
    let hooks: Vec<String> = published.attached.iter().map(ToString::to_string).collect();
    info!(
        event = "published",
        generation = manifest.generation,
        trigger = %trigger,
        feed_version = manifest.feed.version,
        "generation {} published: feed {}, {} IPv4 and {} IPv6 prefixes, {} probes agreed, on {}",
        manifest.generation,
        manifest.feed.version.as_deref().unwrap_or("without version"),
        manifest.prefixes_v4,
        manifest.prefixes_v6,
        published.self_test.probes,
        hooks.join(", "),
    );
    debug!("instructions verified: {}", verified(published));
    if config.mode == Mode::Shadow {
        warn!("mode is shadow: direct packets are counted, none is marked");
    }
    for interface in &config.interfaces {
        if interface.hook == HookMode::Auto && !has_xdp(published, &interface.name) {
            warn!("interface {}: no native XDP here, tc classifies alone", interface.name);
        }
    }
}

/// What the verifier walked for each program; kernels before 5.16 do not say.
fn verified(published: &Published) -> String {
    let counts = published.generation.verified_instructions().into_iter();
    let texts = counts.map(|(program, count)| match count {
        Some(count) => format!("{program} {count}"),
        None => format!("{program} unknown"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn has_xdp(published: &Published, name: &str) -> bool {
    published
        .attached
        .iter()
        .any(|hook| hook.interface.as_deref() == Some(name) && hook.xdp.is_some())
}
