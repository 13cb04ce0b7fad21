//! Who has a connection: as many as are served at a time, and of one client not all of them.
//!
//! Nobody waits for a place: where there is none, the oldest connection ends. One that scrapes is
//! through in milliseconds, so what is old is a client that keeps its place for nothing.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};

use tokio::task::AbortHandle;

/// Connections at a time.
const CONNECTIONS: usize = 32;
/// Connections of one client at a time.
const PER_CLIENT: usize = 16;

/// Connections, oldest first.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: VecDeque<(IpAddr, AbortHandle)>,
}

impl Places {
    /// Gives a place to a connection of `peer`, which `task` serves.
    pub(super) fn take(&mut self, peer: IpAddr, task: AbortHandle) {
        self.taken.retain(|(_, task)| !task.is_finished());
        let client = client(peer);
        let is_its = |(of, _): &&(IpAddr, AbortHandle)| *of == client;
        let its = self.taken.iter().filter(is_its).count();
        let leaves = if its >= PER_CLIENT {
            self.taken.iter().position(|it| is_its(&it))
        } else {
            (self.taken.len() >= CONNECTIONS).then_some(0)
        };
        if let Some((_, oldest)) = leaves.and_then(|place| self.taken.remove(place)) {
            oldest.abort();
        }
        self.taken.push_back((client, task));
    }
}

/// Who is one client: an address of IPv4, a /64 of IPv6, of which a host has all addresses.
fn client(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    fn taken(places: &mut Places, peer: &str, count: usize) -> Vec<JoinHandle<()>> {
        let connection = |_| {
            let task = tokio::spawn(std::future::pending());
            places.take(peer.parse().unwrap(), task.abort_handle());
            task
        };
        (0..count).map(connection).collect()
    }

    async fn ended(tasks: &[JoinHandle<()>]) -> Vec<bool> {
        tokio::task::yield_now().await;
        tasks.iter().map(JoinHandle::is_finished).collect()
    }

    #[tokio::test]
    async fn a_client_with_many_connections_ends_its_own_oldest() {
        let mut places = Places::default();
        let other = taken(&mut places, "192.0.2.1", 1);
        let mut busy = Vec::new();
        // One host with all addresses of its network.
        for host in 1..=20 {
            busy.extend(taken(&mut places, &format!("2001:db8::{host:x}"), 1));
        }
        assert_eq!(ended(&other).await, [false]);
        let gone: Vec<bool> = (1..=20).map(|number| number <= 20 - PER_CLIENT).collect();
        assert_eq!(ended(&busy).await, gone);
    }

    #[tokio::test]
    async fn where_all_places_are_taken_the_oldest_connection_ends() {
        let mut places = Places::default();
        let mut tasks = Vec::new();
        for network in 0..CONNECTIONS {
            tasks.extend(taken(&mut places, &format!("2001:db8:0:{network:x}::1"), 1));
        }
        assert!(!ended(&tasks).await.contains(&true));
        tasks[3].abort();
        tokio::task::yield_now().await;
        taken(&mut places, "192.0.2.1", 1);
        assert!(!ended(&tasks).await[0], "a place was free");
        taken(&mut places, "192.0.2.2", 1);
        assert_eq!(ended(&tasks).await[..3], [true, false, false]);
    }
}
