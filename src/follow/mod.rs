//! The host's network is followed: what the guest is told, where its traffic may go and where we listen depend on
//! the host's addresses, routes and name servers, which come and go while the program runs.
//!
//! ```text
//!   kernel: links, addresses, routes, rules      /etc/resolv.conf, and where it leads
//!                  \ netlink                       / inotify, and DNS for the name of --dns-host
//!                   helper                outside of the sandbox, by whoever has started the program
//!                  /      \ snapshots, one way
//!     addresses and        program        in the sandbox
//!     routes of pasta's       |  conf::told: the options, on a host that looks like this
//!     namespace               |  Engine::follow_host: advertisements, mappings, policy, sockets, flows
//! ```
//!
//! A snapshot is the whole state, so that a lost notification is harmless ([`snapshot`]). What options say stays as it
//! is: they are applied to each snapshot, as they are at start. What has gone without a successor stays, too: a guest
//! whose host is offline for a moment keeps its addresses.

mod helper;
mod name;
mod resolver_file;
mod snapshot;

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use passt_frame::ToGuest;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::conf::{Device, Options, Told, egress, told};
use crate::engine::{Engine, EventType, Exit, HostChange, NeighbourWatch, Source};
use crate::flow::network::Network;
use crate::helpers::Helper;
use crate::limits::{SNAPSHOT_BYTES_MAX, SNAPSHOT_PARTS_PER_TURN};
use crate::pasta::Reconfigure;
use crate::sys::events;
use crate::sys::process::WhenTold;
use helper::{LAST, MORE, NOTE};
pub(crate) use name::HostName;
pub(crate) use snapshot::Snapshot;

/// How long the end waits for the helper's.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// How often it looks whether that has come.
const LOOKS_AFTER: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Room for one message of the helper.
const MESSAGE_BYTES: usize = 64 * 1024;

/// The program's end of what the helper tells.
pub(crate) struct HostWatch {
    channel: OwnedFd,
    /// The helper, a child of the process that follows.
    helper: Option<Pid>,
    /// Nothing happens in it: to wait for a time.
    nothing: OwnedFd,
    epoll: Option<Rc<OwnedFd>>,
    options: Options,
    /// What the host has looked like.
    seen: Snapshot,
    /// The guest's addresses are set by the helper.
    configured: bool,
    neighbours: Option<Rc<RefCell<NeighbourWatch>>>,
    message: Box<[u8; MESSAGE_BYTES]>,
    /// Parts of a snapshot of which more is to come.
    parts: Vec<u8>,
}

impl HostWatch {
    /// Forks the helper. `seen` is what the host looked like when the `options` were applied to it. With `namespace`
    /// that is configured, too.
    ///
    /// # Errors
    /// What epoll_create1(2), socketpair(2) or fork(2) report.
    pub(crate) fn start(
        options: Options,
        seen: Snapshot,
        namespace: Option<Reconfigure>,
        when_told: WhenTold,
    ) -> Result<Self, Errno> {
        let configured = namespace.is_some();
        let nothing = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (channel, helper) = helper::start(&options, seen.clone(), namespace, when_told)?;
        Ok(Self {
            channel,
            helper,
            nothing,
            epoll: None,
            options,
            seen,
            configured,
            neighbours: None,
            message: Box::new([0; MESSAGE_BYTES]),
            parts: Vec::new(),
        })
    }

    /// Has `neighbours` follow the interfaces, too; events come by `epoll`.
    pub(crate) fn lead(
        &mut self,
        epoll: Rc<OwnedFd>,
        neighbours: Option<Rc<RefCell<NeighbourWatch>>>,
    ) {
        (self.epoll, self.neighbours) = (Some(epoll), neighbours);
    }

    /// A message of the helper.
    fn on_message(&mut self, length: usize, engine: &mut Engine, out: &mut dyn ToGuest) {
        let Some((&kind, part)) = self.message[..length].split_first() else { return };
        match kind {
            MORE | LAST if self.parts.len() + part.len() <= SNAPSHOT_BYTES_MAX => {
                self.parts.extend_from_slice(part);
            }
            MORE | LAST => log::warn!("The host has too many addresses to follow them"),
            NOTE => return log::warn!("{}", String::from_utf8_lossy(part)),
            _ => {}
        }
        if kind == LAST {
            let parts = std::mem::take(&mut self.parts);
            match std::str::from_utf8(&parts).ok().and_then(Snapshot::read) {
                Some(snapshot) => self.follow(snapshot, engine, out),
                None => log::debug!("host network watch: a snapshot that cannot be read"),
            }
        }
    }

    /// Puts in force what follows from a new look at the host.
    fn follow(&mut self, mut now: Snapshot, engine: &mut Engine, out: &mut dyn ToGuest) {
        let facts = &mut now.facts;
        facts.no_ipv6 = self.seen.facts.no_ipv6;
        facts.no_device_binding = self.seen.facts.no_device_binding;
        let mut notes = Vec::new();
        let Told { network, mapping, template_v4, template_v6 } =
            told(&self.options, facts, &now.resolv, &mut notes);
        let before = std::mem::replace(&mut self.seen, now);
        let gone = before.own.addresses.iter().map(|(address, _)| *address);
        let there = self.seen.addresses();
        let gone = gone.filter(|address| !there.contains(address)).collect();
        let line = describe(&network);
        let Snapshot { own, held, .. } = self.seen.clone();
        let configured = self.configured;
        let change = HostChange { network, map: mapping, own, gone, configured, held };
        if engine.follow_host(change, out) {
            log::info!("Host network changed: {line}");
            engine.note_host_change(&line);
            for note in notes.iter().filter(|note| note.level <= log::Level::Warn) {
                log::log!(note.level, "{}", note.text);
            }
        }
        if self.seen.own.is_full()
            && !before.own.is_full()
            && let Some(note) = egress::missed(&engine.view().egress)
        {
            log::log!(note.level, "{}", note.text);
        }
        if let Some(neighbours) = &self.neighbours {
            let interfaces =
                [template_v4, template_v6].map(|device| device.map(|one: Device| one.index));
            neighbours.borrow_mut().look_elsewhere(engine, interfaces);
        }
    }

    /// The helper.
    pub(crate) fn helper(&self) -> Option<Helper> {
        self.helper.map(Helper::watches_host)
    }

    /// The helper is gone, which only happens from outside; whoever reaps it says so ([`helpers`](crate::helpers)).
    fn give_up(&self) {
        if let Some(epoll) = &self.epoll {
            let _gone_already = epoll::delete(&**epoll, &self.channel);
        }
    }
}

impl Drop for HostWatch {
    /// Waits for the helper's end: nobody else may have to reap it. One that stands still is left to the kernel, which ends
    /// it with this process. One that is well takes some ten milliseconds: that long the kernel takes to close its
    /// descriptors. The calls that are left to us here can wait for nothing else.
    fn drop(&mut self) {
        self.end();
        let Some(helper) = self.helper else { return };
        let begin = Instant::now();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let mut events = Vec::with_capacity(1);
        while let Ok(None) | Err(Errno::INTR) = waitid(WaitId::Pid(helper), options) {
            if begin.elapsed() > ENDS_WITHIN {
                break;
            }
            let _it_is_over = events::wait(&self.nothing, &mut events, Some(&LOOKS_AFTER));
        }
    }
}

impl Source for HostWatch {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Host
    }

    fn end(&mut self) {
        let _gone_already = shutdown(&self.channel, Shutdown::Both);
    }

    fn on_event(&mut self, engine: &mut Engine, out: &mut dyn ToGuest) -> Option<Exit> {
        for _ in 0..SNAPSHOT_PARTS_PER_TURN {
            match recv(&self.channel, &mut self.message[..], RecvFlags::empty()) {
                Ok((0, _)) => self.give_up(),
                Ok((length, _)) => {
                    self.on_message(length.min(MESSAGE_BYTES), engine, out);
                    continue;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => self.give_up(),
            }
            break;
        }
        None
    }
}

/// One line for the log.
fn describe(network: &Network) -> String {
    let mut words: Vec<String> = Vec::new();
    if let Some(v4) = &network.v4 {
        words.push(format!("{}/{}", v4.addr, v4.prefix_len));
        words.extend(v4.gateway.map(|gateway| format!("router {gateway}")));
        words.extend(v4.dns.iter().map(|server| format!("DNS {server}")));
    }
    if let Some(v6) = &network.v6 {
        words.extend(v6.addr.map(|addr| addr.to_string()));
        words.extend(v6.gateway.map(|gateway| format!("router {gateway}")));
        words.extend(v6.dns.iter().map(|server| format!("DNS {server}")));
    }
    words.join(", ")
}
