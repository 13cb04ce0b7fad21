//! Who translates source addresses on the way out of an interface: what XDP sends there passes all of
//! netfilter by, so its answers would come to nobody.
//!
//! `nft` and `iptables` read what is loaded into chains, without a kernel; here they are walked as a
//! packet that leaves by the uplink would. A condition that is not understood may hold.

mod iptables;
mod nft;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressAttribute;

use crate::config::Egress;
use crate::egress::Family;
use crate::marks::{program, saved_by_iptables};

/// Chains that a packet goes through after routing, of one table.
#[derive(Debug, Default)]
struct Chains {
    /// Rules by chain, in their order.
    rules: BTreeMap<String, Vec<Rule>>,
    /// Where packets come in.
    entries: BTreeSet<String>,
    /// The families of the table's packets.
    families: BTreeSet<Family>,
}

/// A rule, as far as it matters here.
#[derive(Debug, Default)]
struct Rule {
    /// Where it stands, in words.
    place: String,
    /// The interfaces that packets leave by, and whether these are the ones that it does not take.
    out: Option<(Vec<String>, bool)>,
    /// The only family it takes, where it says so.
    family: Option<Family>,
    /// The source prefixes it takes; `None`, any.
    sources: Option<Vec<IpNet>>,
    /// Whether it asks for more than that.
    asks_more: bool,
    does: Does,
}

#[derive(Debug, Default)]
enum Does {
    /// It gives packets another source address.
    Translate,
    /// It goes to one of these chains.
    Jump(Vec<String>),
    /// It goes to some chain of its table.
    JumpSomewhere,
    /// It ends the walk through its chain.
    End,
    #[default]
    Nothing,
}

/// A packet that would be redirected.
struct Leaving<'a> {
    uplink: &'a str,
    families: BTreeSet<Family>,
    /// Networks of interfaces that are not inside: packets from there are not redirected.
    elsewhere: &'a [IpNet],
}

/// The rule that translates what leaves by the uplink of `egress`, in words, if there is one. `inside`
/// are the interfaces that packets come in by.
///
/// # Errors
///
/// What is loaded cannot be looked at, in one line.
pub(crate) async fn on_the_way_out(
    egress: &Egress,
    inside: &BTreeSet<String>,
) -> Result<Option<String>, String> {
    let elsewhere = networks_elsewhere(inside).await?;
    let families =
        [(Family::V4, egress.gateway4.is_some()), (Family::V6, egress.gateway6.is_some())];
    let families: BTreeSet<Family> =
        families.into_iter().filter_map(|(family, has)| has.then_some(family)).collect();
    let uplink = egress.interface.clone();
    let printed = Printed::now().await?;
    let look = move || {
        let leaving = Leaving { uplink: &uplink, families, elsewhere: &elsewhere };
        Ok(printed.chains()?.iter().find_map(|chains| chains.translate(&leaving)))
    };
    // Long rulesets are read beside everything else.
    tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?
}

/// Everything that is loaded in this network namespace, as the programs print it. One that is not
/// installed has made no rule.
struct Printed {
    nft: Option<String>,
    saved: Vec<(&'static str, Family, String)>,
}

impl Printed {
    async fn now() -> Result<Self, String> {
        // Without the elements of named sets, of which there may be many.
        let nft = program("nft", &["--json", "--terse", "list", "ruleset"]).await?;
        let mut saved = Vec::new();
        for (name, family, printed) in saved_by_iptables().await {
            saved.extend(printed?.map(|text| (name, family, text)));
        }
        Ok(Self { nft, saved })
    }

    fn chains(&self) -> Result<Vec<Chains>, String> {
        let mut all = Vec::new();
        if let Some(text) = &self.nft {
            let ruleset = serde_json::from_str(text)
                .map_err(|error| format!("`nft --json --terse list ruleset`: {error}"))?;
            all.extend(nft::chains(&ruleset));
        }
        for (name, family, text) in &self.saved {
            all.push(iptables::chains(name, *family, text));
        }
        Ok(all)
    }
}

/// The networks of all interfaces that are not `inside`, but for those that an inside one has too.
async fn networks_elsewhere(inside: &BTreeSet<String>) -> Result<Vec<IpNet>, String> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| format!("netlink: {error}"))?;
    let connection = tokio::spawn(connection);
    let addresses = handle.address().get().execute().try_collect::<Vec<_>>().await;
    connection.abort();
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for message in addresses.map_err(|error| format!("netlink: {error}"))? {
        let name = nix::net::if_::if_indextoname(message.header.index);
        let is_inside = name.is_ok_and(|name| inside.contains(&*name.to_string_lossy()));
        let networks = if is_inside { &mut ours } else { &mut others };
        networks.extend(message.attributes.iter().filter_map(|attribute| {
            let AddressAttribute::Address(address) = attribute else { return None };
            IpNet::new(*address, message.header.prefix_len).ok().map(|net| net.trunc())
        }));
    }
    others.retain(|other| !ours.iter().any(|our| overlap(our, other)));
    Ok(others)
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

impl Chains {
    /// The first rule that translates what leaves.
    fn translate(&self, leaving: &Leaving<'_>) -> Option<String> {
        if self.families.is_disjoint(&leaving.families) {
            return None;
        }
        self.entries.iter().find_map(|chain| self.walk(chain, leaving, &mut BTreeSet::new()))
    }

    fn walk<'a>(
        &'a self,
        chain: &'a str,
        leaving: &Leaving<'_>,
        seen: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        if !seen.insert(chain) {
            return None;
        }
        for rule in self.rules.get(chain)?.iter().filter(|rule| rule.may_take(leaving)) {
            let found = match &rule.does {
                Does::Translate => Some(rule.place.clone()),
                Does::Jump(chains) => {
                    chains.iter().find_map(|chain| self.walk(chain, leaving, seen))
                }
                Does::JumpSomewhere => {
                    self.rules.keys().find_map(|chain| self.walk(chain, leaving, seen))
                }
                Does::End if rule.takes_all(leaving) => return None,
                Does::End | Does::Nothing => None,
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

impl Rule {
    fn may_take(&self, leaving: &Leaving<'_>) -> bool {
        let by_interface = self.out.as_ref().is_none_or(|(names, others)| {
            names.iter().any(|name| is_named(leaving.uplink, name)) != *others
        });
        let from = |net: &IpNet| !leaving.elsewhere.iter().any(|other| other.contains(net));
        by_interface
            && self.family.is_none_or(|family| leaving.families.contains(&family))
            && self.sources.as_ref().is_none_or(|sources| sources.iter().any(from))
    }

    fn takes_all(&self, leaving: &Leaving<'_>) -> bool {
        let by_family = self.family.is_none_or(|family| leaving.families == [family].into());
        by_family && !self.asks_more && self.sources.is_none() && self.may_take(leaving)
    }
}

/// Whether an interface has this name, or begins with it where that ends with an asterisk.
fn is_named(interface: &str, name: &str) -> bool {
    name.strip_suffix('*').map_or(interface == name, |begin| interface.starts_with(begin))
}
