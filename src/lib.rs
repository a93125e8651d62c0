//! passt in Rust: gives a virtual machine the host's network without privileges.
//!
//! # Theory of operation
//! A guest has a network card and speaks Ethernet. The host has sockets. In between stands this
//! program: a *link* brings the guest's frames, and for each conversation in them the engine opens an
//! ordinary socket of the host and moves the payload between the two. To the guest it looks like a
//! network with a router, a DHCP server and a name server; to the host it looks like one more
//! unprivileged program that connects and listens. No bridge, no address translation table, no second
//! TCP/IP stack: TCP's congestion control, its buffers and its losses on the way to the peer are the
//! host kernel's business. What is left for us is the short way to the guest.
//!
//! # Code map
//! A pure core, an effectful rim; the path of a file tells what it may do.
//!
//! ```text
//!   run, start ------ conf            start-up: one straight list
//!       |
//!     engine -------- sys             the loop and the sockets | system calls
//!     |     \
//!     |      passt-frame <----------- passt-vhost, passt-legacy   the links
//!     |
//!   responder                         \
//!     |                                |
//!     flow                             |  pure: no I/O, no clock, no system call
//!     |                                |
//!     wire                            /
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`wire`] | formats: one parse of a frame's head to a [`wire::Packet`], headers of what is sent, [`wire::DropReason`] |
//! | [`flow`] | the heart: [`flow::side`], [`flow::table`], [`flow::index`], [`flow::timer`], all address mapping in [`flow::fwd`], the TCP machine in [`flow::tcp`] |
//! | [`responder`] | question to answer: ARP, DHCP, DHCPv6, neighbour discovery |
//! | [`engine`] | the shell: the loop ([`engine::Worker`]), frames and sockets around the flows ([`engine::Engine`]), and what else has a descriptor ([`engine::Source`]) |
//! | [`sys`] | system calls as safe functions; blocks of `unsafe` of this package stand here |
//! | [`conf`] | options, port specifications, what the host looks like, and what they mean together |
//! | [`run`], [`start`] | from the command line to the running loop |
//! | [`pasta`] | namespaces: made or joined, configured, watched; the command in them |
//! | [`sandbox`] | isolation in stages: who the program is, what it sees of the system, what it may call |
//! | [`follow`] | a helper that watches the host's network, and what follows from a change |
//! | [`check`] | `--check`: what this machine allows, and what is missing |
//! | [`limits`], [`time`], [`log`], [`error`] | every cap with its reason; time as a number; where messages go; why the program cannot start |
//! | [`control`] | sockets on which clients ask and change things while the program runs, each by a protocol |
//! | [`repair`] | another program, passt-repair: the helper of migrations |
//! | [`pesto`], [`ask`] | another one, pesto: changes forwarded ports, and asks and changes more by JSON |
//! | [`qrap`] | a third one, qrap: starts a QEMU of before 7.2 with a connection to passt |
//! | [`pcap`] | a capture of all frames, as they pass the link |
//! | crate [`passt_frame`] | [`FramePort`](passt_frame::FramePort) and its leases: how frames pass between a link and the engine |
//! | crate [`passt_vhost`] | the vhost-user back-end |
//! | crate [`passt_legacy`] | qemu's stream socket, and the tap device |
//!
//! Names are mirrored: [`wire::l4`] knows the format of a TCP segment, [`flow::tcp`] decides what to do
//! about it, `engine::tcp` does it with a socket. Inside the engine calls run one way, from frames, ports and
//! timers to the protocols and from these to the core; its own page draws it.
//!
//! # Who may import whom
//! * [`wire`] imports nothing of the program, [`flow`] only [`wire`], [`responder`] only [`flow`] (all may
//!   use [`limits`] and [`time`]). None of them sees a socket, a clock or the links.
//! * [`engine`] imports these, [`sys`] and `passt_frame`; [`conf`] stands beside it and imports [`flow`] for
//!   its types. Only the loop and start-up name a link: everything else sees a port.
//! * The links import `passt_frame` and never this package; `passt_frame` imports neither.
//!
//! Calls between files go one way, and so do imports between folders. `tests/tidy/layers.rs` lists what each folder may
//! import, of this package and of others, from the bottom to the top; `tests/tidy` reads the sources and fails where
//! one imports anything else, and where files call each other in a circle.
//!
//! # Invariants
//! * **Nothing is allocated on the packet path.** Tables, lists and batches are reserved when their owner
//!   is made; memory is touched when it is first used.
//! * **Guest memory is never a Rust reference.** The guest writes it whenever it likes. The head of each
//!   frame is copied once and only the copy is looked at; payload goes from and to sockets by the kernel,
//!   as raw iovecs ([`passt_frame::GuestIovec`]).
//! * **A lease borrows the link.** As long as buffers are lent, the memory they lie in cannot change: such
//!   code does not compile.
//! * **Events of flows are edge-triggered and told once.** Who is told remembers it: a TCP flow in its machine, a
//!   datagram flow by a place on the list of flows with work. What could not
//!   finish for lack of room in the guest's buffers waits on a list for the link's word, and is not asked
//!   again meanwhile.
//! * **One publication for each turn.** Frames that are committed during a turn become visible to the guest
//!   at its end, with at most one notification for each direction ([`passt_frame::FramePort::flush_lazily`]).
//! * **Nothing walks over all flows.** An event names its flow, a frame finds it by hash, a timer by slot.
//! * **A flow's id has a generation**, so an event that comes late finds nothing instead of another flow.
//! * **Nothing from outside ends the program.** Bad input is dropped and counted under a name
//!   ([`wire::DropReason`]); a broken flow is reset; a front-end that breaks its protocol loses its
//!   connection.
//!
//! # Glossary
//! * *guest*: what is behind the link. *Host*: where this program runs, and its network.
//! * *peer*: the far end of a host socket.
//! * *front-end*: the virtual machine monitor that shares its guest's memory (QEMU, User-Mode Linux). The
//!   *back-end* is us.
//! * *driver*: the guest's network driver; *rx* and *tx* are its words, ours are *to guest* and *from guest*.
//! * *link*, *port*: what carries frames, and the trait that it implements ([`passt_frame::FramePort`]).
//! * *ring*, *chain*: a queue of buffers in guest memory, and one entry of it: the descriptors of one frame
//!   or of a part of one. *Used*: given back to the driver.
//! * *lease*: a stretch of the link's buffers, borrowed: room toward the guest
//!   ([`passt_frame::ToGuestLease`]) or a batch of its frames ([`passt_frame::FromGuestLease`]).
//! * *flow*: one conversation: a TCP connection, or a pair of addresses and ports that exchange datagrams
//!   ([`flow::table::Flow`]).
//! * *side*: one of the two ends of a flow as we see it: our address there, and the *endpoint*, the other
//!   end's ([`flow::side::Side`]).
//! * *pif*: the interface of a side: the link to the guest, or the host's sockets ([`flow::side::Pif`]).
//! * *rule*: ports on which we listen for the guest, and where they lead ([`flow::fwd::Rule`]).
//! * *policy*: what the guest may reach, as rules ([`flow::fwd::Policy`]).
//! * *view*: all that the operator decides of addresses and rules, as one value ([`engine::NetView`]); its
//!   *epoch* tells which flows were made under an older one.
//! * *snapshot*: what the host's network looks like at one time; the helper of [`follow`] tells the program of each.
//! * *template interface*: the host's interface whose addresses, gateway and prefix the guest gets; without
//!   one, *local mode* with link-local addresses.
//! * *responder*: answers a question of the guest instead of forwarding it.
//! * *run*: consecutive TCP segments of one flow in a batch, written with one system call.
//! * *room*: bytes that the other direction can take now: a socket's send buffer, or the guest's buffers. A link
//!   answers all, some, none or never ([`passt_frame::Reservation`]), and reports room after some and none.
//! * *starved*: waits for room in the guest's buffers.
//! * *admitted*: accepted from a listening socket, and not known yet to the guest's server.
//! * *turn*: one pass of the loop: wait, read the clock, handle events, publish.

// What no other crate needs is `pub(crate)`, so that the compiler finds dead code.
#![warn(unreachable_pub)]

pub mod ask;
pub(crate) mod check;
pub mod conf;
pub mod control;
pub mod engine;
pub(crate) mod error;
pub mod flow;
pub(crate) mod follow;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod helpers;
pub mod limits;
pub(crate) mod log;
pub mod pasta;
pub mod pcap;
pub mod pesto;
pub mod qrap;
pub mod repair;
pub mod responder;
pub mod run;
pub mod sandbox;
pub(crate) mod start;
pub mod sys;
pub mod time;
pub mod wire;
