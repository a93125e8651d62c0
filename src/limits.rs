//! Every cap of the program with the reason for its value. Relations are checked when compiling.

use std::time::Duration;

/// Flows of all protocols together. passt's number: 2^17; a guest's ports are 2^16.
pub(crate) const MAX_FLOWS: usize = 1 << 17;

/// Memory that a start maps, nearly all of it for tables of [`MAX_FLOWS`], and most of which is never touched: 73 MiB for
/// passt and 78 for pasta.
pub(crate) const STARTING_BYTES: usize = 80 << 20;

/// Buckets of the flow index: a UDP flow is stored under both sides, and the load stays below 3/4.
pub(crate) const INDEX_BUCKETS: usize = 1 << 19;

/// Buckets of the index while there are few flows: a page of memory. It doubles as often as necessary.
pub(crate) const INDEX_FIRST_BUCKETS: usize = 512;

/// Buckets that each insertion into the index moves while it doubles: two would do to be done before it
/// has to double again, and eight take less than a microsecond.
pub(crate) const INDEX_MOVES: usize = 8;

/// Flows whose TCP handshake has not finished. A guest that scans gets this many attempts at a
/// time; the oldest gives way to the next, so that one scan cannot use all descriptors. A program may begin thousands at
/// once, all of which are taken before the first is connected.
pub const MAX_HALF_OPEN: usize = 4096;

/// Connections accepted on one port of which the guest has not shown that it knows them. What comes faster
/// than the guest's server accepts waits in the host kernel's queue, where nothing is lost, and not in the
/// guest's, which is shorter than any burst: half of the smallest backlog in wide use (128).
pub const ADMISSIONS_PER_PORT: usize = 64;

/// How long a connection that is silent after its handshake counts as one of those: 256 such connections a
/// second for each port, and time for a server that needs 4 ms to accept one.
pub const ADMISSION_HELD: Duration = Duration::from_millis(250);

/// How often somebody is looked at who cannot be accepted, for want of descriptors or memory of this machine: a client of
/// the link or of a control socket, or a connection on a forwarded port.
pub const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// How long a connection past the link that finds its server's queue full has others wait in the host's queue: they
/// are served in order then, and a server that accepts nobody does not keep others on the same port waiting.
pub(crate) const QUEUE_FULL_HELD: Duration = Duration::from_secs(2);

/// The longest pause before such a connection looks for a place again. The first ones are a tick of the timers: a
/// server that accepts one in a millisecond empties a queue of eight meanwhile.
pub(crate) const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(64);

/// Descriptors kept back: a front-end's 64 regions of memory, a message that replaces them (32, which
/// are there twice while it is relayed), and 32 for everything else that is not a flow.
pub const RESERVED_DESCRIPTORS: u64 = 64 + 2 * 32 + 32;

/// What is kept back where `limit` descriptors may be open: no more than half, so that with the smallest
/// limits in use (64) there are connections, and front-ends with few regions.
pub const fn reserved_descriptors(limit: u64) -> u64 {
    if limit / 2 < RESERVED_DESCRIPTORS { limit / 2 } else { RESERVED_DESCRIPTORS }
}

/// Sockets that flows may have open where `limit` descriptors may be open.
pub(crate) fn flow_sockets(limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(reserved_descriptors(limit))).unwrap_or(usize::MAX)
}

/// How many of `sockets` are kept back for other uses, of which `wanted` would be: no more than half.
pub(crate) const fn kept_back(sockets: usize, wanted: usize) -> usize {
    if wanted < sockets / 2 { wanted } else { sockets / 2 }
}

/// Descriptors that are not for flows where traffic passes the link by, if there are as many: two for each pipe,
/// and sockets of two families.
pub(crate) const BYPASS_DESCRIPTORS: usize = 2 * MAX_PIPES + 2 * NAMESPACE_STOCK;

/// Sockets for flows below which the operator is warned at start: what one page of a browser opens. Who has more of them
/// than a limit leaves is told of it when that happens.
pub(crate) const FEW_SOCKETS: usize = 64;

/// Part of all flows that UDP and echo may have which the guest starts: one half. They end by silence, or give
/// way to others of their kind, so without a bound a flood of them keeps TCP out for as long as that takes.
pub const GUEST_DATAGRAMS_DIVISOR: usize = 2;

/// The same for UDP flows that the network starts, where anybody can make up source addresses: one
/// quarter. Another quarter is left that only TCP connections use.
pub const NETWORK_DATAGRAMS_DIVISOR: usize = 4;

/// Silence after which a UDP flow ends in which each question was answered: time for an answer that comes twice, or
/// for the next question.
pub(crate) const ANSWERED_TIMEOUT: Duration = Duration::from_secs(2);

/// Part of the ports which the host gives to sockets that do not choose, that UDP flows of the guest may hold: one half. Each
/// port that the guest talks from is one of the host's, which no other program can have meanwhile; without any left, nobody on
/// the host asks a name server. A guest that talks from more ports than that at a time is rare: its own range is as large.
pub(crate) const GUEST_PORTS_DIVISOR: usize = 2;

/// Flows of each list that are looked at for one whose end leaves a port to a new one: of a guest that talks from all its
/// ports, one in two or three has one of those that are counted.
pub(crate) const PORT_LOOKS: usize = 256;

/// How often the guest must go on with one peer of a flow with anybody, or that one with it, until it gets a connected
/// socket of its own: often enough that what that costs, some 10 µs, is less than what it saves.
pub(crate) const TALKS_ON: u8 = 64;

/// Flows of each list that are asked whether they may give way to a new one: talking ones are asked once in a while,
/// and one of some dozens is always silent, or all are streams.
pub(crate) const GIVE_WAY_LOOKS: usize = 64;

/// How long an echo flow that has got replies before is kept for the next one: as long as ping(8) waits for it.
pub(crate) const ECHO_PATIENCE: Duration = Duration::from_secs(10);

/// Reserved ports that are tried for a flow that comes from one: clients of NFS have a few, and each attempt
/// is a socket and two system calls.
pub(crate) const RESERVED_PORT_ATTEMPTS: u16 = 16;

/// Events fetched with one system call.
pub(crate) const EVENTS_PER_WAIT: usize = 64;

/// How long one polls for events before falling asleep, if that is worth it: longer than another process of
/// the machine needs to be woken and to answer.
pub(crate) const POLL_FOR: Duration = Duration::from_micros(50);

/// The longest turn after which that may be: a question or an answer takes some 20 us, a piece of a bulk
/// stream 150 and more.
pub(crate) const POLL_AFTER: Duration = Duration::from_micros(100);

/// Connections accepted from one listening socket in one turn.
pub(crate) const ACCEPTS_PER_TURN: usize = 64;

/// Batches of frames taken from the guest in one turn, before sockets get their turn.
pub(crate) const BATCHES_PER_TURN: usize = 4;

/// Flows whose sockets are looked at by time: more streams that fast have no processor to go through.
pub(crate) const MAX_LOOKS: usize = 64;

/// Datagrams read from one socket in one turn.
pub(crate) const DATAGRAMS_PER_TURN: usize = 64;

/// Datagrams of news about neighbours read in one turn, each of up to 32 KiB.
pub(crate) const NEIGHBOUR_DATAGRAMS_PER_TURN: usize = 4;

/// The same at start, when the whole table is told: some 400,000 neighbours.
pub(crate) const NEIGHBOUR_DATAGRAMS_AT_START: usize = 1024;

/// Datagrams of the guest that can be under reassembly at a time. Fragments of one datagram come one
/// after the other, except where several processors of a guest send: one datagram for each of them.
pub const REASSEMBLY_SLOTS: usize = 16;

/// Buffer of one datagram under reassembly: the most that 13 bits of fragment offset can address.
/// With [`REASSEMBLY_SLOTS`] it is 1 MiB, touched when it is used.
pub(crate) const REASSEMBLY_BUFFER_BYTES: usize = 1 << 16;

/// Time for all fragments of a datagram to arrive, from the first of them on (RFC 8200, section 4.5;
/// RFC 1122, section 3.3.2 wants 60 to 120 s).
pub const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes that may wait in the socket of a UDP flow each way, if the host allows it: 20 ms of 1 Gbit/s, while
/// another process has the processor.
pub(crate) const UDP_BUFFER_BYTES: i32 = 2 << 20;

/// Least pause after which the host's socket of a connection asks whether its peer is there, where the guest asks for itself: a
/// guest's retransmissions of one byte look like such questions.
pub(crate) const KEEPALIVE_LEAST: Duration = Duration::from_secs(10);

/// Bytes that are kept of what sockets did not take though they had room: of all connections together, and of each. It is
/// little, and seldom: what the kernel counts besides the payload.
pub(crate) const KEPT_BYTES: usize = 4 << 20;
pub(crate) const KEPT_BYTES_EACH: usize = 256 * 1024;

/// UDP flows at a time whose peer may answer from any port: transfers by TFTP.
pub(crate) const ANY_PORT_FLOWS: usize = 16;

/// Datagrams that one USO frame of the guest may stand for (the kernel's `UDP_MAX_SEGMENTS`).
pub(crate) const MAX_UDP_SEGMENTS: u32 = 128;

/// Datagrams sent with one `UDP_SEGMENT` call, or copied into one USO frame: `UDP_MAX_SEGMENTS` of all
/// kernels.
pub(crate) const UDP_RUN_DATAGRAMS: usize = 64;

/// Payload of a datagram that is cheaper to copy than to handle alone: any that fits the MTU of the
/// Internet.
pub(crate) const SMALL_DATAGRAM_BYTES: u32 = 2048;

/// Flows that have waited for room in the guest's buffers and are served in one turn, before others get theirs.
pub(crate) const STARVED_PER_TURN: usize = 256;

/// Actions of one TCP flow in one turn, before others get theirs.
pub(crate) const ACTIONS_PER_TURN: usize = 32;

/// Datagrams that are received, and sent, with one system call: the gain of more is small, and each
/// has 64 KiB of the worker's buffer.
pub(crate) const DATAGRAM_BATCH: usize = 16;

/// TCP sockets of one family that are fetched together from the guest's namespace, and the most that
/// wait for use there. passt's number.
pub(crate) const NAMESPACE_STOCK: usize = 32;

/// Ports that one scan opens or closes for one rule: some ten milliseconds at most.
pub(crate) const PORT_CHANGES_PER_SCAN: usize = 1024;

/// Ports that a change of the rules opens or closes in one turn: each costs some 10 us, so that traffic goes on with a
/// millisecond between two turns.
pub const PORTS_CHANGED_PER_TURN: usize = 64;

/// Actions of one spliced connection in one turn: some MiB of a fast one.
pub(crate) const SPLICE_ACTIONS_PER_TURN: usize = 16;

/// How long an end of a spliced connection may take nothing of what the other one has said before it failed: a program that
/// works on what it has read is done with it, as a guest's is given a minute.
pub(crate) const READER_PATIENCE: Duration = Duration::from_secs(60);

/// The same where it has sent something that nobody takes any more: it may be waiting for just that, and would read then.
pub(crate) const WRITER_PATIENCE: Duration = Duration::from_millis(500);

/// Pipes of spliced connections. passt's number; a connection that gets none copies instead, so they
/// are a cap on descriptors and on the user's pipe pages (pipe(7)), not on connections.
pub(crate) const MAX_PIPES: usize = 32;

/// Bytes that a pipe is to hold: what pipe(7) grants to everyone by default.
pub(crate) const PIPE_BYTES: u32 = 1 << 20;

/// ICMP errors that the guest is told of at once. Limited as RFC 1812, section 4.3.2.8, and RFC 4443, section 2.4 (f),
/// want it; Linux has 50, and a traceroute of thirty hops sends three times as many probes.
pub const ICMP_ERROR_BURST: u32 = 100;

/// Time after which one more is allowed: 1,000 a second, the number of Linux.
pub(crate) const ICMP_ERROR_PAUSE: Duration = Duration::from_millis(1);

/// ICMP errors relayed for one flow in one turn.
pub(crate) const ERRORS_PER_TURN: usize = 16;

/// Ports that are tried to tell a peer from another one that looks the same to the guest: all privileged
/// ones that may stand in. Who is refused has cost 50 µs.
pub(crate) const STAND_IN_PORTS_TRIED: usize = 512;

/// Events that are kept for those who follow them (`watch`): what happens while a reader that is busy with a line
/// reads the next one. With text of the host's changes it is some 50 KiB.
pub(crate) const EVENTS_KEPT: usize = 512;

/// Bytes of the longest line that a control client may send: all egress rules that there may be, of 200 bytes. The
/// memory is touched as far as it is used.
pub(crate) const CONTROL_LINE_BYTES: usize = 256 << 10;

/// Bytes that a control client is told at a time.
pub(crate) const CONTROL_REPLY_BYTES: usize = 64 << 10;

/// Control clients of one socket at a time: those that follow events, and some that ask.
pub(crate) const CONTROL_PLACES: usize = 8;

/// How often there is a line about control clients that were cut off. One that crowds out others takes a second, and the
/// lines of all would take the place of everybody's in the log.
pub(crate) const CUT_OFF_PAUSE: Duration = Duration::from_secs(60);

/// How often there is a line about a limit that turns traffic away, while it does.
pub(crate) const SHORTAGE_PAUSE: Duration = Duration::from_secs(60);

/// How long a control client may say nothing: longer than whoever asks each minute needs. Others do not have to wait
/// for it.
pub(crate) const CONTROL_SILENCE: Duration = Duration::from_secs(300);

/// Largest question copied for a responder. DHCP messages are at most one MTU (RFC 2131, section 2).
pub(crate) const MAX_QUESTION_BYTES: usize = 1500;

/// Most bytes that are read of what a station says of its groups: as many as Linux puts into one report, where the MTU
/// lets it, fit a page.
pub(crate) const MAX_REPORT_BYTES: usize = 4096;

/// Groups that the guest may join: a desktop joins some five of each family, and each costs the host a membership.
pub const MAX_GROUPS: usize = 32;

/// Sockets on which what is for groups is received, one for each port of a group: two for each group.
pub const GROUP_SOCKETS: usize = 64;

/// Ports of groups to which the guest has sent and that are remembered.
pub(crate) const GROUP_PORTS_NOTED: usize = 32;

/// Ports that the operator may name for all groups.
pub(crate) const MAX_GROUP_PORTS: usize = 16;

/// Groups that may be joined at once, and the time after which one more may be: the host's kernel tells the network of
/// each twice, so that a guest that joins and leaves for ever sends no more than 20 packets a second in its name.
pub(crate) const JOIN_BURST: u32 = MAX_GROUPS as u32;
/// See [`JOIN_BURST`].
pub(crate) const JOIN_PAUSE: Duration = Duration::from_millis(100);

/// Datagrams of the guest to groups that may be on their way back to it: what the sockets of groups get in one turn,
/// four times over.
pub(crate) const OWN_DATAGRAMS: usize = 4 * DATAGRAMS_PER_TURN;

/// Egress rules: each new flow is held against them one by one, some 10 ns each.
pub(crate) const MAX_EGRESS_RULES: usize = 1024;

/// Networks that are of this host, or next to it, by a route alone: each address that is judged is held against them one by
/// one, some 2 ns each. Hosts have few, beside those that their addresses and the registries tell of.
pub(crate) const MAX_ROUTED_NETWORKS: usize = 1024;

/// Names in egress rules: a bit for each.
pub(crate) const MAX_EGRESS_NAMES: usize = 64;

/// Ranges of ports in one egress rule.
pub(crate) const MAX_EGRESS_PORTS: usize = 8;

/// Addresses that names of egress rules may have at a time: the pages of a browser have some hundred. The one that
/// may be used least long gives way.
pub(crate) const MAX_NAMED_ADDRESSES: usize = 2048;

/// Questions for such names that wait for their answer: more than a guest's resolver asks at a time. The oldest gives
/// way.
pub(crate) const MAX_NAME_QUESTIONS: usize = 64;

/// The least time that an address may be used after it was named: answers are kept for a moment between resolver and
/// program, and a program tries one address after the other.
pub(crate) const MIN_NAMED: Duration = Duration::from_secs(30);

/// The longest time: RFC 8767, section 4, has resolvers keep nothing for longer than a week, most keep it for a day.
pub(crate) const MAX_NAMED: Duration = Duration::from_secs(24 * 3600);

const _: () = assert!(INDEX_BUCKETS.is_power_of_two() && INDEX_FIRST_BUCKETS.is_power_of_two());
const _: () = assert!(INDEX_FIRST_BUCKETS < INDEX_BUCKETS && INDEX_MOVES >= 2);
const _: () = assert!(INDEX_BUCKETS / 4 * 3 >= 2 * MAX_FLOWS, "both sides of each flow fit");
const _: () = assert!(MAX_FLOWS < u32::MAX as usize);

/// Sockets in one message to the helper of a migration: what one message can carry (`SCM_MAX_FD`).
pub(crate) const HELPER_BATCH: usize = 253;

/// How long a migration waits for its helper to connect: the guest stands still meanwhile, and who starts
/// helpers does so before. When connections are to go on that would be lost without one, it is waited for
/// [`HELPER_ANSWER`].
pub(crate) const HELPER_WAIT: Duration = Duration::from_millis(10);

/// How long a migration waits for its helper to answer: it has one system call to make for each of
/// [`HELPER_BATCH`] sockets.
pub(crate) const HELPER_ANSWER: Duration = Duration::from_secs(2);

/// For how long a program that is to end keeps the sockets of connections that have moved, frozen: the target lets them go on
/// as soon as the guest runs there, and the network knows of it by what they say.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// How long forwarded streams may be silent, after the command that ran beside the program has ended, before they are cut:
/// the longest of usual round trips.
pub(crate) const REST_SILENCE: Duration = Duration::from_millis(250);

/// For how long they are passed on at most: the program's caller waits for its end.
pub(crate) const REST_AT_MOST: Duration = Duration::from_millis(750);

/// Bytes of a migration's stream that are held at a time: as many as a pipe holds.
pub(crate) const STATE_BUFFER_BYTES: usize = 1 << 16;

/// How many times that is moved in a turn, however fast the front-end is.
pub(crate) const STATE_BUFFERS_PER_TURN: usize = 16;

/// Bytes of all connections that come with a guest that were not sent to their peers yet: they wait in our memory
/// until the sockets take them. The largest send buffer of the kernel's own choice, a few times over.
pub(crate) const UNSENT_BYTES_MAX: usize = 64 << 20;

/// Bytes of all connections that come with a guest that were sent and not acknowledged: they wait in our memory until the
/// guest runs here, and are copied at once then. It is what is on its way at 2.5 Gbit/s when an answer takes 100 ms.
pub(crate) const SENT_BYTES_MAX: usize = 32 << 20;

/// How long a client of a control socket may take to read a bufferful: it is a program on the same machine, which does
/// nothing else.
pub const CONTROL_READS_WITHIN: Duration = Duration::from_secs(5);

/// The same, and for its request, from when it came, while others wait for its place: many times what a client needs
/// that is well.
pub const CONTROL_GRACE: Duration = Duration::from_secs(1);

/// How often a client of a control socket is read from and written to in one turn.
pub(crate) const CONTROL_STEPS_PER_TURN: usize = 4;

/// Clients that may change what is forwarded, at a time: a change takes milliseconds, and one who takes longer has others
/// beside it.
pub(crate) const CONFIGURATION_CLIENTS: usize = 4;

/// How long such a client may take to say what it wants: it is a program that has been told on the command line.
pub(crate) const CONFIGURATION_WITHIN: Duration = Duration::from_secs(5);

/// N, where control sockets get 1/N of the loop's time once their savings are used: little beside what packets get.
pub(crate) const LOBBY_SHARE: u8 = 10;

/// Time that control sockets can save up: enough for the longest answer that anybody asks for now and then, of
/// a hundred thousand flows.
pub(crate) const LOBBY_SAVINGS: Duration = Duration::from_millis(100);

/// For how long they rest at least once it is used up: what is done then in one go delays packets by a tenth of this.
pub(crate) const LOBBY_REST: Duration = Duration::from_millis(1);

const _: () = assert!(CONTROL_GRACE.as_millis() < CONTROL_READS_WITHIN.as_millis());
/// How long connections of an address that the host has lost wait for it: longer than a link takes that was down for a
/// moment, a machine that wakes up or a DHCP client that starts anew, and shorter than people wait.
pub const ADDRESS_AWAY: Duration = Duration::from_secs(30);

/// Addresses that are waited for at most; hosts lose a few at a time. Flows of more end at once.
pub(crate) const ADDRESSES_AWAY_MAX: usize = 256;

/// Flows whose sockets are asked in one turn whether the address that they have is gone: each costs one system call, of
/// less than a microsecond.
pub(crate) const FLOWS_LOOKED_AT_PER_TURN: u32 = 256;

/// Parts of a snapshot of the host that are read in one turn.
pub(crate) const SNAPSHOT_PARTS_PER_TURN: usize = 2;

/// Bytes of a snapshot of the host: some ten thousand addresses, [`MAX_ROUTED_NETWORKS`], and a resolv.conf of the longest.
pub(crate) const SNAPSHOT_BYTES_MAX: usize = 1 << 20;
