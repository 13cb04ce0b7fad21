//! Whether names of selected sets lead to addresses that go direct.

use std::net::IpAddr;

use super::{Check, DnsAnswer, Facts, Finding, Forwarding, Severity};

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let check = Check::Dns;
    let answers = match &facts.dns {
        Ok(answers) => answers,
        Err(why_not) => return vec![Finding::unseen(check, why_not)],
    };
    if answers.is_empty() {
        return vec![Finding::unseen(
            check,
            "no selected set has both prefixes and a whole host name",
        )];
    }
    answers.iter().map(|answer| told(facts, answer)).collect()
}

fn told(facts: &Facts, DnsAnswer { host, addresses }: &DnsAnswer) -> Finding {
    let check = Check::Dns;
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(why_not) => return Finding::unseen(check, format_args!("{host}: {why_not}")),
    };
    let (of_use, idle): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|(address, _)| reaches_clients(facts, *address));
    let is_direct = |address: &IpAddr, listed: bool| listed && has_way(facts, *address);
    let inspected: Vec<&IpAddr> = of_use
        .iter()
        .filter(|(address, listed)| !is_direct(address, *listed))
        .map(|(address, _)| address)
        .collect();
    let Some(first) = inspected.first() else {
        let idle = if idle.is_empty() {
            String::new()
        } else {
            format!(", {} of a family that is not forwarded", idle.len())
        };
        return Finding::ok(check, format_args!("{host}: {} direct{idle}", of_use.len()));
    };
    let list = inspected.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if inspected.iter().all(|address| !has_way(facts, **address)) {
        let family = if first.is_ipv6() { 6 } else { 4 };
        let what = format_args!("{host}: {list} inspected, since [egress] has no gateway{family}");
        return Finding::of(check, Severity::Warning, what).fixed_by(facts.edit());
    }
    let what = format_args!(
        "{host}: {list} inspected; another resolver, one that asks from behind the direct uplink, \
         may know another front door"
    );
    Finding::of(check, Severity::Warning, what)
        .fixed_by(format!("breakout365 explain {first} tcp/443"))
}

/// Whether `[egress]` has a next hop of its family; without `[egress]`, that is left to others.
fn has_way(facts: &Facts, address: IpAddr) -> bool {
    let egress = facts.config().and_then(|config| config.egress.as_ref());
    egress.is_none_or(|egress| match address {
        IpAddr::V4(_) => egress.gateway4.is_some(),
        IpAddr::V6(_) => egress.gateway6.is_some(),
    })
}

/// Whether clients can send to it through here at all: a family that is not forwarded is not theirs.
fn reaches_clients(facts: &Facts, address: IpAddr) -> bool {
    has_way(facts, address)
        || facts.inside().any(|(interface, ..)| {
            let Forwarding { v4, v6, .. } = interface.forwarding;
            if address.is_ipv4() { v4 == Some(true) } else { v6 == Some(true) }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_inspected_is_a_warning_and_none_is_a_note() {
        let mut facts = Facts::healthy();
        let answer = |addresses| DnsAnswer { host: "outlook.office365.com".into(), addresses };
        facts.dns = Ok(vec![answer(Ok(vec![("192.0.2.1".parse().unwrap(), false)]))]);
        assert_eq!(facts.told(Severity::Warning), ["dns"]);
        facts.dns = Ok(vec![answer(Err("no answer".into()))]);
        assert_eq!(facts.told(Severity::Note), ["dns"]);
    }

    #[test]
    fn a_family_without_a_next_hop_is_inspected_where_it_is_forwarded() {
        let mut facts = Facts::healthy();
        let answers = ["40.96.0.1", "2603:1006::1"].map(|it| (it.parse().unwrap(), true));
        facts.dns = Ok(vec![DnsAnswer { host: "h".into(), addresses: Ok(answers.into()) }]);
        assert!(facts.told(Severity::Warning).is_empty());
        let config = facts.config.as_mut().unwrap().as_mut().unwrap();
        config.egress.as_mut().unwrap().gateway6 = None;
        assert_eq!(facts.told(Severity::Warning), ["dns"]);
        facts.interfaces[0].forwarding.v6 = Some(false);
        assert!(facts.told(Severity::Warning).is_empty());
    }
}
