//! Which offloads a driver has on, over generic netlink (family `ethtool`).

use std::collections::BTreeMap;

use ethtool::{EthtoolAttr, EthtoolFeatureAttr};
use futures_util::TryStreamExt as _;

/// Features of `name` by their names, and whether each is on.
pub(super) async fn offloads(name: &str) -> Result<BTreeMap<String, bool>, String> {
    let (connection, mut handle, _) =
        ethtool::new_connection().map_err(|error| format!("ethtool: {error}"))?;
    let connection = tokio::spawn(connection);
    let asked = async {
        let replies = handle.feature().get(Some(name)).execute().await?;
        replies.try_collect::<Vec<_>>().await
    }
    .await;
    connection.abort();
    let replies = asked.map_err(|error| format!("ethtool: {error}"))?;
    let mut offloads = BTreeMap::new();
    for attribute in replies.into_iter().flat_map(|reply| reply.payload.nlas) {
        if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) = attribute {
            offloads.extend(bits.into_iter().map(|bit| (bit.name, bit.value)));
        }
    }
    if offloads.is_empty() { Err("ethtool: no features".to_owned()) } else { Ok(offloads) }
}
