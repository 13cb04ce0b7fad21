//! What an interface's driver can do with XDP, over the `netdev` family of generic netlink (kernel 6.3,
//! commit d3d854fd6a1d).

use futures_util::TryStreamExt as _;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

/// `NETDEV_CMD_DEV_GET` and its attributes, `include/uapi/linux/netdev.h`.
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// The packets it receives can be redirected elsewhere.
pub(super) const ACT_REDIRECT: u64 = 1 << 1;
/// It sends what is redirected to it.
pub(super) const ACT_NDO_XMIT: u64 = 1 << 2;

/// `NETDEV_XDP_ACT_*` of the interface with this index: what its driver can do at the moment. Some can
/// send only while a program is attached.
///
/// # Errors
///
/// The kernel does not say, in one line.
pub(crate) async fn xdp_features(index: u32) -> Result<u64, String> {
    let (connection, handle, _) =
        genetlink::new_connection().map_err(|error| format!("netdev: {error}"))?;
    let connection = tokio::spawn(connection);
    let features = ask(handle, index).await;
    connection.abort();
    features.map_err(|why| format!("the kernel does not say (before 6.3 it cannot): {why}"))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the others carry no answer")]
async fn ask(mut handle: GenetlinkHandle, index: u32) -> Result<u64, String> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let request = Device { index, features: None };
    let message = NetlinkMessage::new(header, GenlMessage::from_payload(request).into());
    let mut replies = handle.request(message).await.map_err(|error| error.to_string())?;
    while let Some(reply) = replies.try_next().await.map_err(|error| error.to_string())? {
        match reply.payload {
            NetlinkPayload::InnerMessage(reply) => {
                return reply.payload.features.ok_or_else(|| "no features".to_owned());
            }
            NetlinkPayload::Error(error) => return Err(error.to_string()),
            _ => {}
        }
    }
    Err("no answer".to_owned())
}

/// A request or a reply.
#[derive(Clone, Debug)]
struct Device {
    index: u32,
    features: Option<u64>,
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.attribute().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attribute().emit(buffer);
    }
}

impl Device {
    fn attribute(&self) -> DefaultNla {
        DefaultNla::new(IFINDEX, self.index.to_ne_bytes().to_vec())
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(buffer: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self { index: 0, features: None };
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            if attribute.kind() == XDP_FEATURES
                && let Some(bytes) = attribute.value().first_chunk()
            {
                device.features = Some(u64::from_ne_bytes(*bytes));
            }
        }
        Ok(device)
    }
}
