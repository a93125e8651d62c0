//! Sockets of another network namespace, made on request by a helper process that lives there.
//!
//! A socket belongs for ever to the namespace in which socket(2) was called; binding, connecting and
//! the rest work from anywhere. So all that has to happen inside is that one call. It is left to a
//! process of its own, forked once at start:
//! - the program can then give up setns(2) and the right to use it for good (seccomp, capabilities),
//!   and so does the helper, which keeps read(2), socket(2), sendmsg(2), close(2), exit and a timer for its own end
//!   ([`WhenTold`]);
//! - a thread would share the program's memory: whoever takes the program over would also steer the
//!   thread that still has the right to change namespaces, and the program would not be
//!   single-threaded any more, which fork(2) and joining a user namespace depend on;
//! - entering the namespace for each refill of a pool needs that right for ever.
//!
//! Nobody else may have to reap it: its end is waited for by whoever forked it. A program that goes to the
//! background therefore ends it, and the process that goes on forks another one ([`NamespaceSockets::stop`]).
//!
//! It has a name of its own, lest whoever looks for the program finds it, and keeps neither its terminal nor the folder that
//! it was started in.
//!
//! The helper first tells whether it could enter the namespace. Requests are one byte, what to make,
//! and one, how many; answers carry an error number and the descriptors (`SCM_RIGHTS`, unix(7)). TCP
//! sockets are fetched up to [`STOCK`] at a time, so that a connection costs a fraction of a round trip. The helper never waits for anything but the next request, and ends when
//! the program does: its only descriptor is then at its end.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use arrayvec::ArrayVec;
use passt_frame::message::{self, CONTROL_HEADER as HEADER};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

pub use super::bound_ports::BoundPorts;
use super::bound_ports::PortTables;
use super::capability::{self, Capabilities};
use super::namespace::{self, Kinds};
use super::process::{self, Forked, OpenDescriptors, WhenTold};
use super::seccomp::Filter;
use super::sock_diag::{self, SockDiag};
use super::socket::{self, Transport, last_errno};
use crate::limits::NAMESPACE_STOCK as STOCK;

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SocketKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
    /// The netlink socket of [`sock_diag`].
    Diag,
}

impl SocketKind {
    const ALL: [Self; 5] = [Self::Tcp4, Self::Tcp6, Self::Udp4, Self::Udp6, Self::Diag];

    /// The kind for an internet transport and family.
    pub(crate) fn of(transport: Transport, v4: bool) -> Option<Self> {
        match (transport, v4) {
            (Transport::Tcp, true) => Some(Self::Tcp4),
            (Transport::Tcp, false) => Some(Self::Tcp6),
            (Transport::Udp, true) => Some(Self::Udp4),
            (Transport::Udp, false) => Some(Self::Udp6),
            (Transport::Ping, _) => None,
        }
    }

    /// Makes one here.
    fn make(self) -> Result<OwnedFd, Errno> {
        let (v4, v6) = (std::net::Ipv4Addr::UNSPECIFIED, std::net::Ipv6Addr::UNSPECIFIED);
        match self {
            Self::Tcp4 => socket::create(Transport::Tcp, v4.into()),
            Self::Tcp6 => socket::create(Transport::Tcp, v6.into()),
            Self::Udp4 => socket::create(Transport::Udp, v4.into()),
            Self::Udp6 => socket::create(Transport::Udp, v6.into()),
            Self::Diag => sock_diag::socket(),
        }
    }
}

/// Makes sockets that belong to some network namespace.
pub trait SocketMaker {
    /// A new socket, non-blocking and closed on exec.
    ///
    /// # Errors
    /// What socket(2) reports.
    fn make(&mut self, kind: SocketKind) -> Result<OwnedFd, Errno>;

    /// How many sockets of one kind may wait for use.
    fn keep_at_most(&mut self, sockets: usize);

    /// What tells which ports are listened on there.
    ///
    /// # Errors
    /// What socket(2) reports, or open(2) where the kernel does not answer.
    fn bound_ports(&mut self) -> Result<BoundPorts, Errno>;
}

/// Makes sockets where the program is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OwnNamespace;

impl SocketMaker for OwnNamespace {
    fn make(&mut self, kind: SocketKind) -> Result<OwnedFd, Errno> {
        kind.make()
    }

    fn keep_at_most(&mut self, _none_wait: usize) {}

    fn bound_ports(&mut self) -> Result<BoundPorts, Errno> {
        match sock_diag::tried() {
            Ok(diag) => Ok(BoundPorts::Asked(diag)),
            Err(_) => PortTables::open().map(BoundPorts::Read),
        }
    }
}

/// Makes sockets in the namespace of a helper process.
#[derive(Debug)]
pub struct NamespaceSockets {
    helper: Helper,
    when_told: WhenTold,
    /// Read in place of the answers to a socket that is refused.
    tables: Option<PortTables>,
    stock: [ArrayVec<OwnedFd, STOCK>; 2],
    /// How many are fetched together.
    at_once: u8,
}

/// The process, and the channel to it; `None` when it was told to end.
#[derive(Debug)]
struct Helper {
    channel: Option<OwnedFd>,
    pid: i32,
}

impl Helper {
    fn start(
        namespace: BorrowedFd<'_>,
        filter: &Filter,
        when_told: WhenTold,
    ) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let open = OpenDescriptors::find()?;
        match process::fork()? {
            Forked::Child => help(theirs.as_raw_fd(), (namespace, filter, when_told), &open),
            Forked::Parent(pid) => {
                drop(theirs);
                let helper = Self { channel: Some(ours), pid };
                let mut error = [0; 4];
                let length =
                    rustix::io::retry_on_intr(|| rustix::io::read(helper.channel()?, &mut error))?;
                match i32::from_ne_bytes(error) {
                    0 if length == error.len() => Ok(helper),
                    0 => Err(Errno::PIPE),
                    error => Err(Errno::from_raw_os_error(error)),
                }
            }
        }
    }

    fn channel(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.channel.as_ref().map(OwnedFd::as_fd).ok_or(Errno::PIPE)
    }
}

impl Helper {
    /// Waits for its end, which comes with that of the channel. It is nobody's child where the program has
    /// forked since.
    fn reap(&mut self) {
        drop(self.channel.take());
        if let Some(pid) = Pid::from_raw(std::mem::take(&mut self.pid)) {
            let wait = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            let _gone_or_never_ours = rustix::io::retry_on_intr(wait);
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.reap();
    }
}

impl NamespaceSockets {
    /// Forks the helper, which enters `namespace` and then gives up everything but the calls that
    /// `filter` leaves. Signals are to it what `when_told` says. Only while the program has the right to enter the namespace: in the user
    /// namespace that owns it.
    ///
    /// # Errors
    /// What [`OpenDescriptors::find`], socketpair(2), fork(2) and, in the helper, setns(2) or seccomp(2) report.
    pub fn start(
        namespace: BorrowedFd<'_>,
        filter: &Filter,
        when_told: WhenTold,
    ) -> Result<Self, Errno> {
        let helper = Helper::start(namespace, filter, when_told)?;
        let (stock, at_once) = (Default::default(), STOCK as u8);
        Ok(Self { helper, when_told, tables: None, stock, at_once })
    }

    /// Tells the helper to end. Until [`restart`](Self::restart) no socket can be made.
    pub fn stop(&mut self) {
        drop(self.helper.channel.take());
    }

    /// Waits for the helper's end.
    pub fn reap(&mut self) {
        self.helper.reap();
    }

    /// Forks another helper.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn restart(&mut self, namespace: BorrowedFd<'_>, filter: &Filter) -> Result<(), Errno> {
        self.helper = Helper::start(namespace, filter, self.when_told)?;
        Ok(())
    }

    /// The helper's process id.
    pub fn pid(&self) -> i32 {
        self.helper.pid
    }

    /// Has what listens read from tables that were opened in the namespace.
    pub(crate) fn read_ports(&mut self, tables: PortTables) {
        self.tables = Some(tables);
    }

    /// Asks for `count` sockets.
    fn request(&mut self, kind: SocketKind, count: u8) -> Result<ArrayVec<OwnedFd, STOCK>, Errno> {
        let question = [kind as u8, count];
        rustix::io::retry_on_intr(|| rustix::io::write(self.helper.channel()?, &question))?;
        let mut sockets = ArrayVec::new();
        let mut error = [0; 4];
        receive(self.helper.channel()?, &mut error, &mut sockets)?;
        match i32::from_ne_bytes(error) {
            _ if !sockets.is_empty() => Ok(sockets),
            0 => Err(Errno::PIPE),
            error => Err(Errno::from_raw_os_error(error)),
        }
    }
}

impl SocketMaker for NamespaceSockets {
    fn make(&mut self, kind: SocketKind) -> Result<OwnedFd, Errno> {
        let shelf = match kind {
            SocketKind::Tcp4 => 0,
            SocketKind::Tcp6 => 1,
            _ => {
                return self.request(kind, 1)?.pop().ok_or(Errno::PIPE);
            }
        };
        if self.stock[shelf].is_empty() {
            self.stock[shelf] = self.request(kind, self.at_once)?;
        }
        self.stock[shelf].pop().ok_or(Errno::PIPE)
    }

    fn keep_at_most(&mut self, sockets: usize) {
        self.at_once = sockets.clamp(1, STOCK) as u8;
    }

    fn bound_ports(&mut self) -> Result<BoundPorts, Errno> {
        match self.tables.take() {
            Some(tables) => Ok(BoundPorts::Read(tables)),
            None => {
                self.make(SocketKind::Diag).map(|socket| BoundPorts::Asked(SockDiag::new(socket)))
            }
        }
    }
}

/// Where the program has the maker, too, to stop and restart its helper.
impl SocketMaker for Rc<RefCell<NamespaceSockets>> {
    fn keep_at_most(&mut self, sockets: usize) {
        self.borrow_mut().keep_at_most(sockets);
    }

    fn make(&mut self, kind: SocketKind) -> Result<OwnedFd, Errno> {
        self.borrow_mut().make(kind)
    }

    fn bound_ports(&mut self) -> Result<BoundPorts, Errno> {
        self.borrow_mut().bound_ports()
    }
}

/// Room for the control message of an answer.
#[repr(align(8))]
struct Control([u8; 256]);

const _: () = assert!(HEADER + STOCK * size_of::<RawFd>() <= 256);

/// Receives an answer: an error number, and the descriptors that come with it.
fn receive<const N: usize>(
    from: BorrowedFd<'_>,
    bytes: &mut [u8],
    sockets: &mut ArrayVec<OwnedFd, N>,
) -> Result<(), Errno> {
    let mut control = Control([0; 256]);
    let mut iovec = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut header = message::header(&raw mut iovec, 1);
    message::set_control(&mut header, control.0.as_mut_ptr(), control.0.len());
    rustix::io::retry_on_intr(|| {
        // SAFETY: all pointers of `header` are to live memory of the lengths stated.
        let n = unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        if n < 0 { Err(last_errno()) } else { Ok(()) }
    })?;
    if message::control_bytes(&header) < HEADER {
        return Ok(());
    }
    // SAFETY: any bytes are a valid cmsghdr; the kernel has written one here.
    let rights_header = unsafe { control.0.as_ptr().cast::<libc::cmsghdr>().read() };
    let end = message::control_message_bytes(&rights_header).min(control.0.len());
    let rights = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    if (rights_header.cmsg_level, rights_header.cmsg_type) != rights || end < HEADER {
        return Ok(());
    }
    for number in control.0[HEADER..end].as_chunks::<4>().0 {
        // SAFETY: the kernel has just made this descriptor for us.
        let socket = unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) };
        let _surplus = sockets.try_push(socket);
    }
    Ok(())
}

/// The helper: prepares itself, tells how that went, and answers. Allocates nothing, so that it may
/// be forked by a program with threads.
fn help(
    channel: RawFd,
    (namespace, filter, when_told): (BorrowedFd<'_>, &Filter, WhenTold),
    open: &OpenDescriptors,
) -> ! {
    let left = process::leave_starter(when_told);
    let entered = left.and_then(|()| namespace::enter(namespace, Kinds::NETWORK));
    let _only_a_name = rustix::thread::set_name(c"socket-maker");
    if let Some(channel) = keep_only(channel, open) {
        let ready = entered.and_then(|()| confine(filter));
        let error = ready.err().map_or(0, Errno::raw_os_error);
        if send(channel, error, &[]).is_ok() && ready.is_ok() {
            serve(channel);
        }
    }
    process::end(0)
}

/// Makes `channel` descriptor 0 and closes all others that are `open`.
fn keep_only(channel: RawFd, open: &OpenDescriptors) -> Option<BorrowedFd<'static>> {
    // SAFETY: nothing in this process uses any descriptor but the channel.
    let alone = unsafe { libc::dup2(channel, 0) == 0 };
    if alone {
        open.close(1, u32::MAX);
    }
    // SAFETY: descriptor 0 is the channel, and nothing closes it.
    alone.then(|| unsafe { BorrowedFd::borrow_raw(0) })
}

/// Gives up all rights, and all calls but those that `filter` leaves.
fn confine(filter: &Filter) -> Result<(), Errno> {
    capability::empty_bounding_set()?;
    capability::keep(Capabilities::empty())?;
    filter.install()
}

/// Answers until the program is gone.
fn serve(channel: BorrowedFd<'_>) {
    let mut question = [0; 2];
    while matches!(rustix::io::read(channel, &mut question), Ok(2)) {
        if answer(channel, question).is_err() {
            return;
        }
    }
}

/// Makes the sockets that were asked for and sends them.
fn answer(channel: BorrowedFd<'_>, [kind, count]: [u8; 2]) -> Result<(), Errno> {
    let kind = SocketKind::ALL.get(usize::from(kind)).copied().ok_or(Errno::INVAL)?;
    let mut sockets: ArrayVec<OwnedFd, STOCK> = ArrayVec::new();
    let mut error = 0;
    for _ in 0..usize::from(count).min(STOCK) {
        match kind.make() {
            Ok(socket) => sockets.push(socket),
            Err(errno) => {
                error = errno.raw_os_error();
                break;
            }
        }
    }
    send(channel, error, &sockets)
}

fn send(channel: BorrowedFd<'_>, error: i32, sockets: &[OwnedFd]) -> Result<(), Errno> {
    let mut bytes = error.to_ne_bytes();
    let mut control = Control([0; 256]);
    let mut iovec = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut header = message::header(&raw mut iovec, 1);
    if !sockets.is_empty() {
        let data = size_of_val(sockets);
        let rights = message::control_header(libc::SOL_SOCKET, libc::SCM_RIGHTS, data);
        // SAFETY: `control` is aligned for the header and longer than it.
        unsafe { control.0.as_mut_ptr().cast::<libc::cmsghdr>().write(rights) };
        for (room, socket) in control.0[HEADER..].as_chunks_mut::<4>().0.iter_mut().zip(sockets) {
            *room = socket.as_raw_fd().to_ne_bytes();
        }
        let len = (HEADER + data).next_multiple_of(align_of::<usize>());
        message::set_control(&mut header, control.0.as_mut_ptr(), len);
    }
    // SAFETY: all pointers of `header` are to live locals of the lengths stated.
    let n = unsafe { libc::sendmsg(channel.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    if n < 0 { Err(last_errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::pipe::{PipeFlags, pipe_with};
    use rustix::process::{Signal, WaitOptions, kill_process, waitpid};

    use super::*;

    #[test]
    fn either_way_of_closing_leaves_nothing_but_the_channel() {
        for find in [OpenDescriptors::find, OpenDescriptors::list] {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let open = find().unwrap();
            // SAFETY: the child makes system calls only, until it is killed.
            let child = match unsafe { libc::fork() } {
                0 => {
                    open.close(1, u32::MAX);
                    loop {
                        // SAFETY: waits for a signal.
                        unsafe { libc::pause() };
                    }
                }
                child => Pid::from_raw(child).expect("there can be another process"),
            };
            drop(theirs);
            // Its end comes when nobody has the other end open any more.
            let mut end = [PollFd::new(&ours, PollFlags::IN)];
            let told = poll(&mut end, Some(&Timespec { tv_sec: 20, tv_nsec: 0 }));
            kill_process(child, Signal::KILL).unwrap();
            waitpid(Some(child), WaitOptions::empty()).unwrap();
            assert_eq!(told, Ok(1));
        }
    }
}
