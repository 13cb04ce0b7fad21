//! What `explain` is asked: from words of the command line to a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use gateway_common::Transport;

use crate::datapath::Probe;
use crate::exit::{Exit, Failure};
use crate::policy::{Sources, transport_name};

/// Which packets are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Where they come from; `None` is not said.
    pub(super) source: Option<IpAddr>,
    /// The interface they come in by; `None` is not said.
    pub(super) ingress: Option<String>,
    pub(super) destination: IpAddr,
    pub(super) service: Service,
}

impl Question {
    /// Reads `[SOURCE] DESTINATION PROTOCOL/PORT`.
    pub(super) fn read(words: &[String], ingress: Option<String>) -> Result<Self, Failure> {
        let (source, destination, service) = match words {
            [destination, service] => (None, destination, service),
            [source, destination, service] => (Some(source), destination, service),
            _ => return Err(usage("expected [SOURCE] DESTINATION PROTOCOL/PORT")),
        };
        let source = source.map(|source| address(source)).transpose()?;
        let destination = address(destination)?;
        if let Some(source) = source.filter(|source| source.is_ipv4() != destination.is_ipv4()) {
            return Err(usage(format_args!("{source} and {destination} are of two families")));
        }
        let service = service.parse().map_err(|problem: String| usage(problem))?;
        Ok(Self { source, ingress, destination, service })
    }

    /// The same question with a source that is listed, where nothing is said of where the packets
    /// come from and only listed sources go direct.
    pub(super) fn with_a_listed_source(self, sources: &Sources) -> Self {
        if self.source.is_some() || self.ingress.is_some() {
            return self;
        }
        let same_family = sources
            .prefixes
            .iter()
            .find(|prefix| prefix.addr().is_ipv4() == self.destination.is_ipv4());
        match same_family {
            Some(prefix) => Self { source: Some(prefix.network()), ..self },
            None => Self { ingress: sources.interfaces.first().cloned(), ..self },
        }
    }

    /// The packet; `None` for protocols without ports. `ingress` is the index of its interface.
    pub(super) fn probe(&self, ingress: u32) -> Option<Probe> {
        let Service::Port(transport, port) = self.service else { return None };
        let nobody = match self.destination {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let probe = Probe::new(self.destination, transport, port);
        Some(probe.from(self.source.unwrap_or(nobody)).through(ingress))
    }
}

fn address(text: &str) -> Result<IpAddr, Failure> {
    text.parse().map_err(|_| usage(format_args!("{text:?} is not an IPv4 or IPv6 address")))
}

fn usage(problem: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format_args!("{problem}; see `breakout365 explain --help`"))
}

/// What packets are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// A protocol that has rules, and a port.
    Port(Transport, u16),
    /// Another protocol, and a number that means nothing to it.
    Other(String, Option<u16>),
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, port) = match text.split_once('/') {
            Some((protocol, port)) => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                let number = port.parse::<u16>().ok().filter(|_| digits);
                let number =
                    number.ok_or_else(|| format!("{port:?} is not a port from 0 to 65535"))?;
                (protocol.to_ascii_lowercase(), Some(number))
            }
            None => (text.to_ascii_lowercase(), None),
        };
        let transport = match protocol.as_str() {
            "tcp" | "6" => Transport::Tcp,
            "udp" | "17" => Transport::Udp,
            _ => return Self::other(protocol, port),
        };
        match port {
            Some(port) => Ok(Self::Port(transport, port)),
            None => Err("the port is missing, as in tcp/443".into()),
        }
    }
}

impl Service {
    /// Its protocol and port.
    pub(super) fn words(&self) -> (String, Option<u16>) {
        match self {
            Self::Port(transport, port) => (transport_name(*transport).to_owned(), Some(*port)),
            Self::Other(protocol, port) => (protocol.clone(), *port),
        }
    }

    fn other(protocol: String, port: Option<u16>) -> Result<Self, String> {
        let word = protocol.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let number = protocol.bytes().all(|byte| byte.is_ascii_digit());
        if protocol.is_empty() || !word || number && protocol.parse::<u8>().is_err() {
            return Err(format!("{protocol:?} is neither the name nor the number of a protocol"));
        }
        Ok(Self::Other(protocol, port))
    }
}
