//! The lease of the direct table: while nobody disputes it, what is redirected is looked up there alone.
//!
//! Renewed every few seconds, and given back with the first message of a rule or route that may matter; a
//! daemon that is gone or hangs leaves look-ups by all rules behind once the lease has run out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use ipnet::IpNet;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::Wanted;
use super::dispute::Subject;
use super::netlink::Netlink;
use super::routing::Family;

/// How long look-ups may be in the direct table alone after the last word of the daemon.
const LEASE: Duration = Duration::from_secs(10);
/// A loop that is late by two of these still keeps the lease.
const RENEWAL: Duration = Duration::from_secs(3);
/// When rules and routes are looked at again after one has changed.
const SETTLE: Duration = Duration::from_secs(1);
/// At least so many times what the last look took: there may be a million routes, and they may change all
/// the time.
const SHARE: u32 = 50;
/// When they are looked at again although nothing was heard: the kernel has no word for routes of IPv4 that
/// go with their interface (kernel `net/ipv4/fib_frontend.c`).
const LONGEST: Duration = Duration::from_mins(1);

/// Hears for how long each family's way may be looked up in the direct table, IPv4 first.
type Leases = Box<dyn Fn([Option<Duration>; 2]) + Send + Sync>;
type Disputes = Arc<Mutex<BTreeMap<Family, String>>>;

/// Watches over one way out until it is dropped; the lease runs out by itself then.
pub struct Undisputed {
    task: JoinHandle<()>,
    disputes: Disputes,
}

impl Undisputed {
    /// For packets to these prefixes, marked as `wanted` says. Each change of mind is told to `leases`.
    #[must_use]
    pub fn watch(
        wanted: Wanted,
        prefixes: impl Iterator<Item = IpNet>,
        leases: impl Fn([Option<Duration>; 2]) + Send + Sync + 'static,
    ) -> Self {
        let disputes = Arc::new(Mutex::new(both("nobody has looked yet")));
        let subject = Subject::new(wanted, prefixes);
        let task = tokio::spawn(follow(subject, Arc::clone(&disputes), Box::new(leases)));
        Self { task, disputes }
    }

    /// By whom the way of a family is disputed, in words; the others are looked up in the direct table
    /// alone.
    #[must_use]
    pub fn disputes(&self) -> BTreeMap<Family, String> {
        self.disputes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Undisputed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(subject: Subject, disputes: Disputes, leases: Leases) {
    let say = |found: BTreeMap<Family, String>| {
        *disputes.lock().unwrap_or_else(PoisonError::into_inner) = found;
    };
    loop {
        let (why, look) = match until_touched(&subject, &leases, &say).await {
            Ok(look) => ("rules or routes changed a moment ago".to_owned(), look),
            Err(problem) => (problem, LONGEST),
        };
        leases([None; 2]);
        say(both(&why));
        sleep(look.saturating_mul(SHARE).clamp(SETTLE, LONGEST)).await;
    }
}

fn both(why: &str) -> BTreeMap<Family, String> {
    Family::ALL.map(|family| (family, why.to_owned())).into()
}

/// Looks, and renews the lease until something may have changed; gives how long the look took.
async fn until_touched(
    subject: &Subject,
    leases: &Leases,
    say: &impl Fn(BTreeMap<Family, String>),
) -> Result<Duration, String> {
    let groups = [
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    // Before the look: what changes meanwhile is heard after it.
    let (connection, _, mut messages) = new_multicast_connection(&groups)
        .map_err(|error| format!("rules and routes cannot be watched: {error}"))?;
    // Ends what it holds when it is dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let touched = async {
        while let Some((message, _)) = messages.next().await {
            if subject.is_touched_by(&message) {
                return Ok(());
            }
        }
        Err("the kernel says no more of rules and routes".to_owned())
    };
    tokio::pin!(touched);
    loop {
        let begin = Instant::now();
        let found = tokio::select! {
            // Nothing is taken for granted that has changed meanwhile.
            biased;
            outcome = &mut touched => return outcome.map(|()| begin.elapsed()),
            found = disputes(subject) => found?,
        };
        let look = begin.elapsed();
        let lease = Family::ALL.map(|family| (!found.contains_key(&family)).then_some(LEASE));
        say(found);
        let until_next = begin + look.saturating_mul(SHARE).max(LONGEST);
        while Instant::now() < until_next {
            tokio::select! {
                // What was heard comes first.
                biased;
                outcome = &mut touched => return outcome.map(|()| look),
                () = async { leases(lease); sleep(RENEWAL).await } => {}
            }
        }
    }
}

/// Who disputes the way of a family, of those that are disputed.
async fn disputes(subject: &Subject) -> Result<BTreeMap<Family, String>, String> {
    let mut found = BTreeMap::new();
    for family in Family::ALL {
        // A socket of its own: the first route that is found ends a list, and the kernel is not done with it.
        let netlink = Netlink::open().map_err(|error| error.to_string())?;
        let who = subject.look(&netlink, family).await;
        let who = who.map_err(|error| format!("rules and routes cannot be listed: {error}"))?;
        found.extend(who.map(|who| (family, who)));
    }
    Ok(found)
}
