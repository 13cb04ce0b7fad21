//! Direct TCP flows whose conntrack entries have vanished a moment ago. The kernel removes those that it
//! masquerades when their interface or its address goes (`nf_nat_masquerade.c`), before anybody can list
//! them; their clients are to be reset all the same.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use netlink_packet_netfilter::NetfilterMessage;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::proto::new_connection;
use rtnetlink::proto::sys::AsyncSocket as _;
use rtnetlink::proto::sys::protocols::NETLINK_NETFILTER;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::ending::is_tcp;
use super::flows::{Flow, removed};
use super::netlink::failed;
use super::{EgressError, Words};

/// `NFNLGRP_CONNTRACK_DESTROY` in the kernel's `uapi/linux/netfilter/nfnetlink.h`.
const DESTROYED: u32 = 3;
/// Bytes: thousands of entries may go at once, each with a message.
const ROOM: usize = 16 << 20;
/// How long after its link a family may be found to be down.
const A_MOMENT: Duration = Duration::from_secs(5);
/// What is said of an entry that is no longer listed has been sent by then, but not read.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
/// So many are remembered: some ten megabytes.
const MOST: usize = 65_536;

type Recent = Arc<Mutex<VecDeque<(Instant, Flow)>>>;

/// A subscription to the ends of entries. Those of flows that began while nobody listened are told only
/// where `nf_conntrack_events` is 1 (its default is 2 from kernel 5.18 on, commit 90d1daa45849).
pub(super) struct Vanished {
    recent: Recent,
    tasks: [JoinHandle<()>; 2],
}

impl Vanished {
    /// Subscribes, for flows that are direct by these words.
    pub(super) fn listen(words: Words) -> Result<Self, EgressError> {
        let cannot = |source| failed("watch the ends of flows", source);
        let (mut connection, _, mut messages) =
            new_connection::<NetfilterMessage>(NETLINK_NETFILTER).map_err(cannot)?;
        let socket = connection.socket_mut().socket_mut();
        // Without a name, it would pass for the kernel's own, which is not told (`do_one_broadcast`).
        socket.bind_auto().map_err(cannot)?;
        // With less, some of many are not told of.
        setsockopt(&*socket, sockopt::RcvBufForce, &ROOM).ok();
        socket.add_membership(DESTROYED).map_err(cannot)?;
        let recent = Recent::default();
        let noted = Arc::clone(&recent);
        let reader = async move {
            while let Some((message, _)) = messages.next().await {
                if let Some(flow) = removed(message, words).filter(is_tcp) {
                    note(&noted, flow);
                }
            }
        };
        Ok(Self { recent, tasks: [tokio::spawn(connection.map(drop)), tokio::spawn(reader)] })
    }

    /// Those of the last moment.
    pub(super) async fn recent(&self) -> Vec<Flow> {
        sleep(ON_ITS_WAY).await;
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = recent.iter().filter(|(when, _)| when.elapsed() < A_MOMENT);
        recent.map(|(_, flow)| flow.clone()).collect()
    }
}

impl Drop for Vanished {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn note(recent: &Recent, flow: Flow) {
    let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
    let is_old = |first: &(Instant, Flow)| first.0.elapsed() >= A_MOMENT;
    while recent.len() >= MOST || recent.front().is_some_and(is_old) {
        recent.pop_front();
    }
    recent.push_back((Instant::now(), flow));
}
