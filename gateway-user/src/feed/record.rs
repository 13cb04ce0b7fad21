//! One record of the feed: from JSON fields to an [`EndpointSet`], or a refusal that names the
//! field.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::Value;

use super::parse::Object;
use super::{EndpointSet, FIRST_OWN_ID, Ports, SetId};

/// Why a record is refused: the field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldError {
    pub(super) field: &'static str,
    pub(super) problem: String,
}

/// The id of a record; it comes first, so that refusals of the other fields can name it.
pub(super) fn id(record: &Object) -> Result<SetId, FieldError> {
    let field = "id";
    required(record, field)?
        .as_u64()
        .and_then(|id| SetId::try_from(id).ok())
        .filter(|id| *id < FIRST_OWN_ID)
        .ok_or_else(|| error(field, "is not a whole number from 0 to 2147483647"))
}

/// Reads the record with this id. Fields that are not known are left alone: Microsoft may add
/// some.
pub(super) fn endpoint_set(id: SetId, record: &Object) -> Result<EndpointSet, FieldError> {
    let service_area = name(record, "serviceArea")?.to_owned();
    let display_name = match record.get("serviceAreaDisplayName") {
        Some(value) => text(value, "serviceAreaDisplayName")?.to_owned(),
        None => service_area.clone(),
    };
    Ok(EndpointSet {
        id,
        display_name,
        category: parsed("category", name(record, "category")?)?,
        required: truth(required(record, "required")?, "required")?,
        express_route: match record.get("expressRoute") {
            Some(value) => truth(value, "expressRoute")?,
            None => false,
        },
        prefixes: texts(record, "ips", prefix)?,
        tcp: ports(record, "tcpPorts")?,
        udp: ports(record, "udpPorts")?,
        urls: texts(record, "urls", |url| {
            if is_tidy(url) {
                Ok(url.to_owned())
            } else {
                Err(format!("{url:?} is not a host name"))
            }
        })?,
        notes: match record.get("notes") {
            Some(value) => text(value, "notes")?.to_owned(),
            None => String::new(),
        },
        service_area,
    })
}

fn error(field: &'static str, problem: impl fmt::Display) -> FieldError {
    FieldError { field, problem: problem.to_string() }
}

fn required<'a>(record: &'a Object, field: &'static str) -> Result<&'a Value, FieldError> {
    record.get(field).ok_or_else(|| error(field, "is missing"))
}

fn text<'a>(value: &'a Value, field: &'static str) -> Result<&'a str, FieldError> {
    value.as_str().ok_or_else(|| error(field, "is not a text"))
}

fn name<'a>(record: &'a Object, field: &'static str) -> Result<&'a str, FieldError> {
    let name = text(required(record, field)?, field)?;
    if is_tidy(name) { Ok(name) } else { Err(error(field, format!("{name:?} is not a name"))) }
}

/// Whether a text can be a name: it is shown to people and typed by them.
pub(crate) fn is_tidy(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn truth(value: &Value, field: &'static str) -> Result<bool, FieldError> {
    value.as_bool().ok_or_else(|| error(field, "is neither true nor false"))
}

fn ports(record: &Object, field: &'static str) -> Result<Ports, FieldError> {
    match record.get(field) {
        Some(value) => parsed(field, text(value, field)?),
        None => Ok(Ports::default()),
    }
}

fn parsed<T: FromStr<Err: fmt::Display>>(field: &'static str, text: &str) -> Result<T, FieldError> {
    text.parse().map_err(|reason| error(field, format_args!("{text:?}: {reason}")))
}

fn texts<T: Ord>(
    record: &Object,
    field: &'static str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeSet<T>, FieldError> {
    let Some(value) = record.get(field) else { return Ok(BTreeSet::new()) };
    let list = value.as_array().ok_or_else(|| error(field, "is not a list"))?;
    list.iter()
        .map(|item| {
            let item =
                item.as_str().ok_or_else(|| error(field, "holds something else than texts"))?;
            read(item).map_err(|problem| error(field, problem))
        })
        .collect()
}

/// Reads a prefix in CIDR notation. Stricter than ipnet's own reader, which takes leading zeros and host bits.
pub(crate) fn prefix(text: &str) -> Result<IpNet, String> {
    let not_a_prefix = || format!("{text:?} is not a prefix in CIDR notation");
    let (address, length) = text.split_once('/').ok_or_else(not_a_prefix)?;
    let address: IpAddr = address.parse().map_err(|_| not_a_prefix())?;
    let plain = length == "0" || !length.starts_with(['0', '+']);
    let length = length.parse().ok().filter(|_| plain).ok_or_else(not_a_prefix)?;
    let prefix = IpNet::new(address, length).map_err(|_| not_a_prefix())?;
    if prefix.trunc() != prefix {
        return Err(format!("{text:?} has host bits set; its network is {}", prefix.trunc()));
    }
    // Within ::ffff:0:0/96 (RFC 4291, section 2.5.5.2).
    if let IpNet::V6(v6) = prefix
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(format!("{text:?} is IPv4 mapped into IPv6, which no packet on the wire is"));
    }
    Ok(prefix)
}
