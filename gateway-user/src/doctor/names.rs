//! Whether names of selected sets lead to addresses that go direct.

use super::{Check, Facts, Finding, Severity};

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
    let told = answers.iter().map(|answer| {
        let host = &answer.host;
        let addresses = match &answer.addresses {
            Ok(addresses) => addresses,
            Err(why_not) => return Finding::unseen(check, format_args!("{host}: {why_not}")),
        };
        let inspected: Vec<String> = addresses
            .iter()
            .filter(|(_, is_direct)| !is_direct)
            .map(|(address, _)| address.to_string())
            .collect();
        if inspected.is_empty() {
            return Finding::ok(check, format_args!("{host}: {} direct", addresses.len()));
        }
        let what = format_args!(
            "{host}: {} inspected; another resolver, one that asks from behind the direct uplink, \
             may know another front door",
            inspected.join(", ")
        );
        let first = inspected.first().map_or("", String::as_str);
        Finding::of(check, Severity::Warning, what)
            .fixed_by(format!("breakout365 explain {first} tcp/443"))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::super::DnsAnswer;
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
}
