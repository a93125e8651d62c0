//! The process that watches the host's network. It stays outside of the program's sandbox, for resolv.conf is a path
//! that has to be opened again and again; and it takes from the program whatever a host does at once with its links,
//! addresses and routes.
//!
//! It listens to nobody but the kernel: the channel to the program goes one way, and whoever takes the program over
//! cannot ask it for anything. It ends with the channel.
//!
//! With `--config-net` it also changes addresses and routes in pasta's namespace ([`Reconfigure`]), for which it has the
//! right over that namespace, and a socket in it.
//!
//! # Pace
//! After a change nothing happens for a moment ([`SETTLED`]), because changes come together; then all is asked for at
//! once, and told if it is news. As long as changes go on and are no news - routes of others, a link that flaps - the
//! pauses between two looks grow, up to [`PAUSE_MAX`], and notifications are not even read: that some were lost is
//! told, too.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType};
use rustix::net::{send, shutdown, socketpair};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use super::name::HostName;
use super::resolver_file::ResolverFile;
use super::snapshot::Snapshot;
use crate::conf::host::Asker;
use crate::conf::{Options, Told, copying, resolv, told};
use crate::flow::fwd::InterfaceName;
use crate::pasta::{Means, Reconfigure};
use crate::sandbox;
use crate::sys::capability::{self, Capabilities};
use crate::sys::errno_text;
use crate::sys::process::{self, Forked, WhenTold};
use crate::sys::route_events::RouteEvents;

/// How long changes settle.
const SETTLED: Duration = Duration::from_millis(20);

/// Between two looks: at first, and when all that changes is no news.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// A look takes at most one part of so many of the time.
const SHARE: u32 = 5;

/// After so much silence, looks are as soon as at first.
const SILENCE: Duration = Duration::from_secs(1);

/// Bytes of one message on the channel, behind the one that says whether it is the last of its snapshot.
const PART_BYTES: usize = 32 * 1024;

/// The first byte of a message.
pub(super) const MORE: u8 = b'+';
pub(super) const LAST: u8 = b'.';
/// Of one that is a line for the log.
pub(super) const NOTE: u8 = b'!';
/// Starts the helper; the descriptor is the program's end of the channel, which does not block. `seen` is what the
/// program knows already. Waits for the helper's first message: the number of an error, or 0 when it is ready and has left
/// the program's descriptors. A port that the program closes would be open as long as another process has its socket.
///
/// # Errors
/// What socketpair(2) or fork(2) report, or what the helper lacks.
pub(super) fn start(
    options: &Options,
    seen: Snapshot,
    namespace: Option<Reconfigure>,
    when_told: WhenTold,
) -> Result<(OwnedFd, Option<Pid>), Errno> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    match process::fork()? {
        Forked::Parent(pid) => {
            drop(theirs);
            let helper = Pid::from_raw(pid);
            if let Err(errno) = await_ready(&ours) {
                // One that is ready ends with the channel.
                drop(ours);
                reap(helper);
                return Err(errno);
            }
            rustix::io::ioctl_fionbio(&ours, true)?;
            Ok((ours, helper))
        }
        Forked::Child => {
            // Whoever looks for the program is not to find its helper.
            let _only_a_name = rustix::thread::set_name(c"host-watch");
            log::set_max_level(log::LevelFilter::Off);
            std::panic::set_hook(Box::new(|_| process::end(0)));
            drop(ours);
            help(&theirs, options, seen, namespace, when_told);
            process::end(0);
        }
    }
}

/// Waits until the helper is ready.
fn await_ready(channel: &OwnedFd) -> Result<(), Errno> {
    let mut error = [0; 4];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(channel, &mut error))?;
    match i32::from_ne_bytes(error) {
        0 if length == error.len() => Ok(()),
        0 => Err(Errno::PIPE),
        error => Err(Errno::from_raw_os_error(error)),
    }
}

/// Waits for the end of a helper that nobody hears.
fn reap(helper: Option<Pid>) {
    let wait = |pid| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    let _gone = helper.map(|pid| rustix::io::retry_on_intr(|| wait(pid)));
}

/// What the process does.
fn help(
    channel: &OwnedFd,
    options: &Options,
    seen: Snapshot,
    namespace: Option<Reconfigure>,
    when_told: WhenTold,
) {
    let kept = [channel.as_fd()].into_iter().chain(namespace.as_ref().map(AsFd::as_fd));
    let left = process::become_helper(when_told, &kept.collect::<Vec<_>>());
    let helper = left.and_then(|()| Helper::prepare(channel, options, seen, namespace));
    let error = helper.as_ref().err().map_or(0, |errno| errno.raw_os_error());
    if send(channel, &error.to_ne_bytes(), SendFlags::NOSIGNAL).is_ok()
        && let Ok(mut helper) = helper
    {
        helper.run();
    }
}

fn unwatched_note(errno: Errno) -> String {
    let (path, why) = (resolv::PATH, errno_text(errno));
    let cure = match errno {
        Errno::NOSYS | Errno::PERM | Errno::ACCESS => {
            "allow inotify_init1 and inotify_add_watch in the container's seccomp profile, or use a kernel with \
             CONFIG_INOTIFY_USER"
        }
        _ => "raise fs.inotify.max_user_instances",
    };
    format!(
        "Cannot watch {path}: {why}: it is read only when something else of the host's network changes: {cure}"
    )
}

/// The process.
struct Helper<'a> {
    channel: &'a OwnedFd,
    options: &'a Options,
    /// Interfaces that options name.
    named: Vec<InterfaceName>,
    /// What the program knows.
    seen: Snapshot,
    asker: Asker,
    events: RouteEvents,
    resolver: ResolverFile,
    /// The name that `--dns-host` gives.
    name: Option<HostName>,
    namespace: Option<Reconfigure>,
    /// What the operator is to know of it from the begin.
    note: Option<String>,
}

impl<'a> Helper<'a> {
    /// Gives up what is not needed, and confines the process.
    fn prepare(
        channel: &'a OwnedFd,
        options: &'a Options,
        mut seen: Snapshot,
        namespace: Option<Reconfigure>,
    ) -> Result<Self, Errno> {
        shutdown(channel, Shutdown::Read)?;
        capability::empty_bounding_set()?;
        let rights = match &namespace {
            Some(_) => Capabilities::NET_ADMIN,
            None => Capabilities::empty(),
        };
        capability::keep(rights)?;
        // What is opened without the right to change a network is never good for that.
        capability::put_in_effect(Capabilities::empty())?;
        let (asker, events) = (Asker::new()?, RouteEvents::open()?);
        let path = Path::new(resolv::PATH);
        let (resolver, note) = match ResolverFile::watch(path) {
            Ok(resolver) => (resolver, None),
            Err(errno) => (ResolverFile::unwatched(path), Some(unwatched_note(errno))),
        };
        let name = options.dns_host_name.as_ref();
        let mut name = name.map(|(text, name)| HostName::new(text, name.clone(), seen.facts.named));
        if let Some(name) = &mut name {
            name.ask(&seen.resolv, &seen.facts);
        }
        capability::put_in_effect(rights)?;
        let interfaces = &options.interfaces;
        let named = [interfaces.template, interfaces.outbound_v4, interfaces.outbound_v6];
        let named = named.into_iter().flatten().collect();
        // It may stand still, at a file that a server far away does not give, when the program ends.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        sandbox::confine_host_watch(path)?;
        seen.held = namespace.as_ref().map(Reconfigure::addresses).unwrap_or_default();
        Ok(Self { channel, options, named, seen, asker, events, resolver, name, namespace, note })
    }

    /// Until the program is gone. What has changed since the program has looked is news at once.
    fn run(&mut self) {
        if let Some(note) = self.note.take() {
            self.send(NOTE, note.as_bytes());
        }
        let mut pause = PAUSE;
        let mut looked = Instant::now();
        let mut due = Some(looked);
        loop {
            if !self.wait(due) {
                return;
            }
            let Some(at) = due else {
                let silent = looked.elapsed() > SILENCE;
                pause = if silent { PAUSE } else { pause };
                due = Some((Instant::now() + SETTLED).max(looked + pause));
                continue;
            };
            let began = Instant::now();
            if began < at {
                continue;
            }
            self.resolver.changed();
            self.events.any();
            let news = self.look();
            looked = Instant::now();
            let pace = if news { PAUSE } else { (2 * pause).min(PAUSE_MAX) };
            pause = pace.max(SHARE * (looked - began));
            due = None;
            // Hosts change seldom, and there is a helper for each guest.
            process::trim_memory();
        }
    }

    /// Waits for a change, or until a look is due. False when the program is gone.
    fn wait(&mut self, due: Option<Instant>) -> bool {
        loop {
            let until = [due, self.name.as_ref().map(HostName::due)].into_iter().flatten().min();
            let timeout = until.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut fds = vec![PollFd::new(self.channel, PollFlags::empty())];
            let file = self.resolver.descriptor().filter(|_| due.is_none());
            fds.extend(file.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            if due.is_none() {
                fds.push(PollFd::new(&self.events, PollFlags::IN));
            }
            let asked = self.name.as_ref().and_then(HostName::socket);
            fds.extend(asked.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let waited = poll(&mut fds, timeout.as_ref());
            let gone = fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
            let has_come = |at: usize| due.is_none() && !fds[at].revents().is_empty();
            let watched = usize::from(file.is_some());
            let (routes, told) = (has_come(1 + watched), watched > 0 && has_come(1));
            if gone || !matches!(waited, Ok(_) | Err(Errno::INTR)) {
                return false;
            }
            let named = self.name.as_mut().is_some_and(HostName::go_on);
            self.pass_on_note();
            // In folders of others much happens that has nothing to do with the file.
            let changed = routes || named || told && self.resolver.changed();
            if changed || due.is_some() {
                return true;
            }
        }
    }

    /// Asks for everything, and tells what is new; true if there is something.
    fn look(&mut self) -> bool {
        let before = &self.seen.facts;
        let looked = self.asker.look(&self.options.interfaces, before);
        let Ok((mut facts, own)) = looked else { return false };
        let models = facts.models();
        facts.keep(before);
        facts.notes.clear();
        let held = self.seen.held.clone();
        let mut now = Snapshot { facts, own, held, resolv: self.resolver.text() };
        now.forget_links(&self.named);
        let changed = now != self.seen;
        self.look_up(changed, &mut now);
        let mut news = now != self.seen;
        self.seen = now;
        // First the namespace: while an address becomes a former one it is not there for a moment, and what the program
        // says then to connections that have it would be lost, such as that they have ended.
        let configured = self.configure(models);
        if let Some(namespace) = self.namespace.as_ref().filter(|_| configured) {
            let before = std::mem::replace(&mut self.seen.held, namespace.addresses());
            news |= before != self.seen.held;
        }
        if news {
            self.tell();
        }
        configured || news
    }

    /// Completes what the host looks like with the addresses of the name of `--dns-host`, which is asked for again if
    /// something else has `changed`.
    fn look_up(&mut self, changed: bool, now: &mut Snapshot) {
        let Some(name) = &mut self.name else { return };
        if changed {
            name.ask(&now.resolv, &now.facts);
        }
        now.facts.named = name.found();
        self.pass_on_note();
    }

    /// Tells what the operator is to know about the name.
    fn pass_on_note(&mut self) {
        if let Some(note) = self.name.as_mut().and_then(HostName::take_note) {
            self.send(NOTE, note.as_bytes());
        }
    }

    /// Tells the program what the host looks like.
    fn tell(&self) {
        let text = self.seen.write();
        let parts = text.as_bytes().chunks(PART_BYTES);
        let count = parts.len();
        for (index, part) in parts.enumerate() {
            let kind = if index + 1 == count { LAST } else { MORE };
            self.send(kind, part);
        }
    }

    fn send(&self, kind: u8, bytes: &[u8]) {
        let message = [&[kind], bytes].concat();
        // If the program is gone, the channel says so.
        let _sent = rustix::io::retry_on_intr(|| send(self.channel, &message, SendFlags::NOSIGNAL));
    }

    /// Has the namespace look like the host. True if that was something new.
    fn configure(&mut self, models: [bool; 2]) -> bool {
        let Some(namespace) = &mut self.namespace else { return false };
        let Told { network, template_v4, template_v6, .. } =
            told(self.options, &self.seen.facts, &self.seen.resolv, &mut Vec::new());
        let copying = copying(self.options, [template_v4, template_v6]);
        let [v4, v6] = [template_v4, template_v6].map(|device| device.map(|device| device.index));
        let interfaces = [v4.filter(|_| models[0]), v6.filter(|_| models[1])];
        let facts = &self.seen.facts;
        let way_out = [
            facts.v4.as_ref().is_some_and(|model| model.default_route),
            facts.v6.as_ref().is_some_and(|model| model.default_route),
        ];
        let means = Means { network: &network, interfaces, way_out, copying };
        let plan = match namespace.plan(&self.asker, &means) {
            Ok(Some(plan)) => plan,
            Ok(None) => return false,
            Err(why) => {
                self.send(NOTE, why.as_bytes());
                return false;
            }
        };
        if let Err(why) = namespace.carry_out(plan) {
            self.send(NOTE, why.as_bytes());
        }
        true
    }
}
