//! The addresses of the name that `--dns-host` gives: asked for at the host's own name servers, those of resolv.conf, or
//! found in the host's table of names, and asked for again when those change or what was answered is not good any more.
//!
//! A question goes to one server after the other, a few times. What has failed is tried again, less and less often. What
//! was found stays until something else is.
//!
//! All sockets are opened at start, for the process that asks may open none later.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, connect, connect_unspec, recv, send};

use crate::conf::host::{HostFacts, NamedHost};
use crate::conf::resolv;
use crate::flow::fwd::is_one_host;
use crate::flow::network::MAX_DNS;
use crate::sys::errno_text;
use crate::sys::process;
use crate::sys::socket::{self, Transport};
use crate::wire::dns::{self, Kind, Name, Question};

/// The host's table of names (hosts(5)).
const HOSTS: &str = "/etc/hosts";

/// Bytes of it that are read: lists of unwanted names have a few million.
const HOSTS_BYTES: u64 = 4 << 20;

/// How long one server is waited for, and how often all of them are asked before that is a failure.
const PATIENCE: Duration = Duration::from_secs(1);
const ROUNDS: u32 = 2;

/// For how long what was answered counts: as long as it says, but within this.
const LEAST: Duration = Duration::from_secs(30);
const MOST: Duration = Duration::from_secs(3600);

/// Until what has failed is tried again: at first, and at last.
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// How long a start waits.
const START_WITHIN: Duration = Duration::from_secs(2);

/// Bytes of an answer by UDP; what is longer says so (RFC 1035, section 4.2.1).
const ANSWER_BYTES: usize = 512;

type Servers = ArrayVec<SocketAddr, { 2 * MAX_DNS }>;

/// Both kinds of addresses are asked for.
const KINDS: [Kind; 2] = [Kind::V4, Kind::V6];

/// A name and what is known of it.
pub(crate) struct HostName {
    text: String,
    name: Name,
    /// One socket for servers of each family, where there is that family.
    sockets: [Option<OwnedFd>; 2],
    servers: Servers,
    found: NamedHost,
    state: State,
    /// What is to be said about it, and what was said last.
    note: Option<String>,
    noted: String,
    /// Until the next attempt after a failure.
    retry: Duration,
}

/// What is done about it.
enum State {
    /// A server was asked.
    Asking(Box<Asking>),
    /// Nothing until then.
    Resting(Instant),
}

/// A question that is under way.
struct Asking {
    /// Which server is asked, counted over all rounds.
    attempt: u32,
    /// Questions that it has not answered yet.
    open: ArrayVec<Question, 2>,
    /// Until when it is waited for.
    until: Instant,
    found: NamedHost,
    /// For how long what was answered so far is good.
    good_s: u32,
    /// Why nothing was found so far.
    why: String,
}

impl HostName {
    /// `text` is a name as [`Name::parse`] takes it, of which these addresses are known. Nothing is asked yet.
    pub(crate) fn new(text: &str, name: Name, found: NamedHost) -> Self {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        Self {
            text: text.to_owned(),
            name,
            sockets: any.map(|address| socket::create(Transport::Udp, address).ok()),
            servers: Servers::new(),
            found,
            state: State::Resting(Instant::now()),
            note: None,
            noted: String::new(),
            retry: RETRY,
        }
    }

    /// What was found last.
    pub(crate) fn found(&self) -> NamedHost {
        self.found
    }

    /// What the operator is to know, once.
    pub(crate) fn take_note(&mut self) -> Option<String> {
        self.note.take()
    }

    /// Asks those that the text of resolv.conf names, whatever was known before.
    pub(crate) fn ask(&mut self, resolv: &str, facts: &HostFacts) {
        self.servers = servers(resolv, facts);
        self.retry = RETRY;
        self.begin(Instant::now());
    }

    /// Waits until there is an answer, or none, but not for long: for a start.
    pub(crate) fn await_answer(&mut self) {
        let end = Instant::now() + START_WITHIN;
        while let State::Asking(_) = self.state
            && Instant::now() < end
        {
            let left = self.due().min(end).saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            let mut fds: Vec<PollFd<'_>> = Vec::new();
            fds.extend(self.socket().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let _looked_at_anyway = poll(&mut fds, left.as_ref());
            drop(fds);
            self.go_on();
        }
    }

    /// What to wait for: an answer on this socket.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        let State::Asking(asking) = &self.state else { return None };
        self.socket_to(self.server(asking.attempt)?).map(AsFd::as_fd)
    }

    /// When to go on at the latest.
    pub(crate) fn due(&self) -> Instant {
        match &self.state {
            State::Asking(asking) => asking.until,
            State::Resting(until) => *until,
        }
    }

    /// Reads answers, and does what is due. True if there are other addresses than before.
    pub(crate) fn go_on(&mut self) -> bool {
        let now = Instant::now();
        match &self.state {
            State::Asking(_) => {
                self.read();
                self.conclude(now)
            }
            State::Resting(until) if *until <= now => self.begin(now),
            State::Resting(_) => false,
        }
    }

    /// Looks into the table of names, and asks the first server if it says nothing.
    fn begin(&mut self, now: Instant) -> bool {
        let hosts = resolv::read_some(HOSTS, HOSTS_BYTES).unwrap_or_default();
        let found = in_hosts(&String::from_utf8_lossy(&hosts), &self.text);
        if found.is_some() {
            self.state = State::Resting(now + LEAST);
            return self.keep(found);
        }
        let why = match self.servers.is_empty() {
            true => "the host has no name server".to_owned(),
            false => String::new(),
        };
        let asking = Asking {
            attempt: 0,
            open: ArrayVec::new(),
            until: now,
            found: NamedHost::default(),
            good_s: u32::MAX,
            why,
        };
        self.state = State::Asking(Box::new(asking));
        self.ask_server(now);
        self.conclude(now)
    }

    /// The server of an attempt; `None` if all were asked often enough.
    fn server(&self, attempt: u32) -> Option<SocketAddr> {
        let count = self.servers.len() as u32;
        let server = self.servers.get(attempt.checked_rem(count)? as usize)?;
        (attempt < ROUNDS * count).then_some(*server)
    }

    fn socket_to(&self, server: SocketAddr) -> Option<&OwnedFd> {
        self.sockets[usize::from(server.is_ipv6())].as_ref()
    }

    /// Sends both questions to the server whose turn it is, or to the next that can be asked.
    fn ask_server(&mut self, now: Instant) {
        loop {
            let Some(server) = self.asked() else { return };
            let sent = self.send_to(server);
            let State::Asking(asking) = &mut self.state else { return };
            match sent {
                Ok(open) => {
                    (asking.open, asking.until) = (open, now + PATIENCE);
                    return;
                }
                Err(errno) => {
                    asking.why = format!("{}: {}", server.ip(), errno_text(errno));
                    asking.attempt += 1;
                }
            }
        }
    }

    fn send_to(&self, server: SocketAddr) -> Result<ArrayVec<Question, 2>, Errno> {
        let socket = self.socket_to(server).ok_or(Errno::AFNOSUPPORT)?;
        // A port of its own for each server, which nobody who did not see the question knows.
        let _never_connected = connect_unspec(socket);
        connect(socket, &server)?;
        let mut open = ArrayVec::new();
        for kind in KINDS {
            let id = u16::from_ne_bytes(process::random_bytes()?);
            let question = Question::new(id, self.name.clone(), kind);
            send(socket, &question.to_bytes(), SendFlags::NOSIGNAL)?;
            open.push(question);
        }
        Ok(open)
    }

    /// Reads what the server has answered.
    fn read(&mut self) {
        let Some(server) = self.asked() else { return };
        let mut message = [0; ANSWER_BYTES];
        loop {
            let Some(socket) = self.socket_to(server) else { return };
            let received = recv(socket, &mut message[..], RecvFlags::DONTWAIT);
            let State::Asking(asking) = &mut self.state else { return };
            match received {
                Ok((length, _)) => asking.take(server, &message[..length.min(ANSWER_BYTES)]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(errno) => {
                    asking.why = format!("{}: {}", server.ip(), errno_text(errno));
                    asking.until = Instant::now();
                    return;
                }
            }
        }
    }

    fn asked(&self) -> Option<SocketAddr> {
        let State::Asking(asking) = &self.state else { return None };
        self.server(asking.attempt)
    }

    /// Goes on to the next server, or comes to an end, if it is time. True if there are other addresses than before.
    fn conclude(&mut self, now: Instant) -> bool {
        loop {
            let over = self.asked().is_none();
            let State::Asking(asking) = &mut self.state else { return false };
            let found = asking.found;
            if found.is_some() && asking.open.is_empty() || over {
                break;
            }
            if !asking.open.is_empty() && now < asking.until {
                return false;
            }
            if found.is_some() {
                // One kind of addresses is as good as both.
                break;
            }
            if !asking.open.is_empty() && asking.why.is_empty() {
                asking.why.push_str("no server has answered in time");
            }
            asking.attempt += 1;
            asking.open.clear();
            self.ask_server(now);
        }
        let State::Asking(asking) = &self.state else { return false };
        let (found, good_s, why) = (asking.found, asking.good_s, asking.why.clone());
        if found.is_some() {
            let good = Duration::from_secs(good_s.into()).clamp(LEAST, MOST);
            self.state = State::Resting(now + good);
            return self.keep(found);
        }
        self.state = State::Resting(now + self.retry);
        self.retry = (2 * self.retry).min(RETRY_MOST);
        self.say(&why);
        false
    }

    fn keep(&mut self, found: NamedHost) -> bool {
        self.retry = RETRY;
        self.noted.clear();
        std::mem::replace(&mut self.found, found) != found
    }

    fn say(&mut self, why: &str) {
        let mut text = format!("--dns-host {}: no address: {why}: ", self.text);
        let still = match self.found.is_some() {
            true => "the one of before stays",
            false => "name one that the host's name servers know, or give an address",
        };
        let _infallible = write!(text, "{still}");
        if self.noted != text {
            self.noted.clone_from(&text);
            self.note = Some(text);
        }
    }
}

impl Asking {
    /// Uses an answer of `server`, if it is one to an open question.
    fn take(&mut self, server: SocketAddr, message: &[u8]) {
        let Some((question, result)) = dns::result(message) else { return };
        let Some(place) = self.open.iter().position(|open| *open == question) else { return };
        self.open.remove(place);
        if let Some(answer) = dns::answer(message) {
            let Self { found, good_s, .. } = self;
            answer.addresses(|address, ttl_s| {
                if found.add(address) {
                    *good_s = ttl_s.min(*good_s);
                }
            });
        }
        self.why = match result {
            0 => format!("{} knows none that is one host's", server.ip()),
            3 => format!("{} says that there is no such name", server.ip()),
            code => format!("{} answers with error {code}", server.ip()),
        };
    }
}

impl NamedHost {
    /// Takes an address of the name, the first of each family. A name server that others answer for is not one of this
    /// host itself, or of its links. False if it is not taken.
    fn add(&mut self, address: IpAddr) -> bool {
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        is_one_host(address) && !link_local && self.set(address)
    }
}

/// Where to ask, in order.
fn servers(resolv: &str, facts: &HostFacts) -> Servers {
    let servers = resolv::parse(resolv).servers;
    let address = |server: &resolv::Server| {
        facts.socket_address(server.address, server.zone.as_deref(), dns::PORT)
    };
    servers.iter().map(address).collect()
}

/// What the text of the table of names says about a name.
fn in_hosts(hosts: &str, name: &str) -> NamedHost {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = NamedHost::default();
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        let Some(address) = address else { continue };
        let usable = address.is_loopback() || is_one_host(address);
        if usable && words.any(|word| word.eq_ignore_ascii_case(name)) {
            let _first_of_its_family = found.set(address);
        }
    }
    found
}

#[cfg(test)]
mod tests;
