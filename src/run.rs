//! From the command line to the running loop, in order.

mod control;

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use passt_frame::{Errno, FramePort, Registrar};
use rustix::event::epoll;

use crate::conf::{self, Command, Conf, Mode, Only, Options, PastaConf, RunConf};
use crate::engine::{
    BypassConfig, Clients, Engine, Exit, LINK_BASE, Link, NamespaceLink, NeighbourWatch, NetView,
    Protocols, Settings, SharedWatch, Signals, SocketLink, Worker,
};
use crate::error::{StartError, process_cure, system};
use crate::flow::network::Mac;
use crate::follow::{HostWatch, Snapshot};
use crate::helpers::{self, Helper};
use crate::pasta::{self, Child, Namespace, Reconfigure, Spawned};
use crate::pcap::Capture;
use crate::responder::dhcpv6::Duid;
use crate::sandbox::{self, Needs, Program, identity};
use crate::start::{self, ClientSocket, Continue, Made, Readiness};
use crate::sys::namespace_socket::NamespaceSockets;
use crate::sys::process::{self, DescriptorLimit, WhenTold};
use crate::sys::seccomp::Filter;
use crate::sys::{errno_text, io_error_text, sock_diag, stream};
use control::ControlSockets;

/// When what only starting has needed is given back: a command that is short is not to wait for that.
const SETTLED: Duration = Duration::from_secs(1);

/// The program. Exit code 0 when it ended as asked, 1 for every error.
pub fn main() -> ExitCode {
    crate::log::start();
    let command = match conf::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => return fail(&error.into(), str::to_owned),
    };
    match command {
        Command::Help(text) | Command::Version(text) | Command::Capabilities(text) => {
            // A reader that is gone does not want the text any more.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Command::Check(question) => {
            let (text, complete) = crate::check::answer(&question);
            let _ = std::io::stdout().write_all(text.as_bytes());
            if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Run(options) => {
            let other_name = options.run.slirp4netns.is_some();
            let words = if other_name { conf::as_slirp4netns_says } else { str::to_owned };
            start(*options).unwrap_or_else(|error| fail(&error, words))
        }
    }
}

/// Says what failed and what to do about it, in the `words` of the name that the program was started under.
fn fail(error: &StartError, words: fn(&str) -> String) -> ExitCode {
    for line in words(&error.to_string()).lines() {
        log::error!("{line}");
    }
    if let StartError::Conf(error) = error
        && let Some(cure) = error.cure()
    {
        log::error!("{}", words(&cure));
    }
    log::logger().flush();
    ExitCode::FAILURE
}

/// Makes the process independent of who started it, and runs.
fn start(mut options: Options) -> Result<ExitCode, StartError> {
    sandbox::limit_capabilities()?;
    start::settle(&mut options)?;
    // Nothing is open yet but what was inherited.
    let activated = if options.mode == Mode::Pasta { None } else { start::activated()? };
    let given: Vec<_> =
        options.fd.or(activated).into_iter().chain(options.run.descriptors()).collect();
    if let Err(errno) = process::close_descriptors(&given) {
        log::warn!("Couldn't close inherited descriptors: {errno}");
    }
    let limit = process::raise_descriptor_limit();
    let run_as = options.run.run_as.as_deref();
    let keeps_root = options.mode == Mode::Pasta && options.pasta.netns_only;
    crate::log::configure(log_config(&options), &|| identity::successor(run_as, keeps_root))?;
    identity::tell_of_user(run_as, keeps_root);
    let code = match options.mode {
        Mode::Pasta => run_pasta(options, &limit),
        Mode::Stream | Mode::VhostUser => run(options, &limit),
    };
    log::logger().flush();
    code
}

fn log_config(options: &Options) -> crate::log::Config {
    let run = &options.run;
    crate::log::Config {
        level: run.level(false),
        program: run.program(options.mode),
        foreground: run.foreground,
        file: run.log_file.clone().map(|path| (path, run.log_size)),
    }
}

fn prepare_readiness(conf: &Conf, made: Made) -> Result<Readiness, StartError> {
    let keeps_root = conf.pasta.as_ref().is_some_and(|pasta| pasta.netns_only);
    let successor = || identity::successor(conf.run.run_as.as_deref(), keeps_root);
    Readiness::prepare(&conf.run, &successor, made)
}

/// passt. Not inlined into `start`: its stack frame would count against pasta's limit of 64 KiB, too.
#[inline(never)]
fn run(options: Options, limit: &DescriptorLimit) -> Result<ExitCode, StartError> {
    let Configured { conf, followed } = configure(options)?;
    let mut made = Made::nothing()?;
    let socket = start::client_socket(&conf.link, &mut made)?;
    let helper = start::helper_socket(&conf.link, &socket, &mut made)?;
    let control = ControlSockets::bind(&conf.run, &mut made)?;
    let readiness = prepare_readiness(&conf, made)?;
    sandbox::detach(&conf.run)?;
    let bound = match &socket {
        ClientSocket::Listening(_, path) => Some(path.as_path()),
        ClientSocket::Connected(_) => None,
    };
    let hint = conf::hint(conf.link.mode, bound);
    for line in conf::banner(&conf, bound).lines() {
        log::info!("{line}");
    }
    if let Some((_, path)) = &helper {
        log::info!("UNIX domain socket bound at {}", path.display());
    }

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll_create"))?;
    let epoll = Rc::new(epoll);
    let mut worker = worker(&conf, socket, epoll.clone(), limit.maximum)?;
    worker.end_with_migration(conf.link.migration.exit);
    if let Some((listener, _)) = helper {
        let engine = worker.engine_mut();
        engine
            .set_helper(listener.into(), conf.link.migration.no_linger)
            .map_err(system("epoll_ctl"))?;
    }
    control.serve(&conf, &mut worker)?;
    let capture = watch_frames(&conf.run, &mut worker);
    sandbox::leave_processes(&conf.run)?;
    let announcement = match readiness.fork()? {
        Continue::Program(announcement) => announcement,
        Continue::Starter(code) => {
            // The child has the same epoll instance: what is dropped here would leave it there, too.
            std::mem::forget(worker);
            return Ok(code);
        }
    };
    let watch = followed.and_then(|followed| watch_host(&conf, followed, None));
    follow(&conf, &mut worker, epoll, watch, None)?;
    sandbox::close_off(&conf.run, Program::Passt)?;
    worker.add(Box::new(Signals(ending_signals()?))).map_err(system("epoll_ctl"))?;
    worker.interrupt_calls().map_err(system("sigaction"))?;
    sandbox::confine(Program::Passt, Needs::of(&conf.run))?;
    // Last: whoever reads it may start a front-end, or takes it for the word that all went well.
    for line in hint.lines() {
        log::info!("{line}");
    }
    announcement.say(false)?;
    worker.call_later(SETTLED, process::trim_memory);
    let end = worker.run().map_err(system("epoll_wait"));
    finish(capture.as_ref());
    match end? {
        Exit::Signal | Exit::ClientGone | Exit::Over => Ok(ExitCode::SUCCESS),
    }
}

fn ending_signals() -> Result<OwnedFd, StartError> {
    process::signal_descriptor(&process::ENDING_SIGNALS).map_err(system("signalfd"))
}

/// pasta. The exit code is that of the command, if there was one.
fn run_pasta(options: Options, limit: &DescriptorLimit) -> Result<ExitCode, StartError> {
    let Configured { mut conf, followed } = configure(options)?;
    let mut made = Made::nothing()?;
    let control = ControlSockets::bind(&conf.run, &mut made)?;
    let mut readiness = prepare_readiness(&conf, made)?;
    let Some(pasta) = &conf.pasta else { unreachable!("pasta mode has its configuration") };
    // Up to here it was about the host. What the namespace gets, a command itself can tell.
    crate::log::set_level(conf.run.level(pasta.starts_command()));
    let namespace = Namespace::prepare(&conf.run, pasta)?;
    for line in conf::banner(&conf, None).lines() {
        log::info!("{line}");
    }
    let watches = pasta::watch_ends(&conf.run, pasta)?;
    let mut device = namespace.configure(&mut conf)?;
    let child = match namespace.spawn(&conf, limit)? {
        Spawned::Program(child) => child,
        Spawned::Command(code) => {
            readiness.disown();
            return Ok(code);
        }
    };

    let reconfigure = device.as_mut().and_then(|device| device.reconfigure.take());
    conf.mapping.held = reconfigure.as_ref().map(Reconfigure::addresses).unwrap_or_default();
    let filter = sandbox::socket_maker()?;
    let sockets = namespace_sockets(&conf, &namespace, &filter)?;
    let bypass = bypass(&conf, &sockets, device.as_ref());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll_create"))?;
    let epoll = Rc::new(epoll);
    let mut worker = pasta_worker(&conf, device, (bypass, epoll.clone()), limit.maximum)?;
    let ended = child.as_ref().map(Child::watch).transpose().map_err(system("dup"))?;
    for watch in watches.into_iter().chain(ended) {
        worker.add(watch).map_err(system("epoll_ctl"))?;
    }
    control.serve(&conf, &mut worker)?;
    let capture = watch_frames(&conf.run, &mut worker);
    sandbox::leave_processes(&conf.run)?;
    let helper = (&*sockets, &namespace, &filter);
    let announcement = match fork_pasta(readiness, conf.run.foreground, helper)? {
        Continue::Program(announcement) => announcement,
        Continue::Starter(code) => {
            std::mem::forget(worker);
            return Ok(code);
        }
    };
    let host = followed.and_then(|followed| watch_host(&conf, followed, reconfigure));
    let maker = Helper::makes_sockets(&sockets.borrow(), conf.pasta.as_ref());
    follow(&conf, &mut worker, epoll, host, maker)?;
    sandbox::close_off(&conf.run, Program::Pasta)?;
    let signals = match &child {
        Some(child) => child.signals().map_err(system("signalfd"))?,
        None => Box::new(Signals(ending_signals()?)),
    };
    worker.add(signals).map_err(system("epoll_ctl"))?;
    sandbox::confine(Program::Pasta, Needs::of(&conf.run))?;
    announcement.say(child.is_some())?;
    if let Some(child) = &child {
        child.release().map_err(system("Couldn't start the command"))?;
        crate::log::give_stderr();
    }
    worker.call_later(SETTLED, process::trim_memory);
    let end = worker.run().map_err(system("epoll_wait"));
    finish(capture.as_ref());
    pasta_code(end?, child.as_ref())
}

/// Goes to the background, unless told to stay. The helper in the namespace is the child of whoever goes on.
fn fork_pasta(
    readiness: Readiness,
    foreground: bool,
    (sockets, namespace, filter): (&RefCell<NamespaceSockets>, &Namespace, &Filter),
) -> Result<Continue, StartError> {
    if foreground {
        return readiness.fork();
    }
    sockets.borrow_mut().stop();
    let forked = readiness.fork()?;
    let mut sockets = sockets.borrow_mut();
    match forked {
        Continue::Program(_) => {
            sockets.restart(namespace.network(), filter).map_err(no_helper)?;
        }
        Continue::Starter(_) => sockets.reap(),
    }
    Ok(forked)
}

fn pasta_code(exit: Exit, child: Option<&Child>) -> Result<ExitCode, StartError> {
    match exit {
        Exit::Signal => Ok(ExitCode::SUCCESS),
        Exit::ClientGone => Err(StartError::Other("The tap device is gone, exiting".to_owned())),
        Exit::Over => {
            let code = child.map_or(Ok(None), Child::status).map_err(|errno| {
                crate::log::take_stderr_back();
                let why = errno_text(errno);
                StartError::Other(format!(
                    "Couldn't learn how the command ended: {why}: allow waitid in the container's seccomp profile"
                ))
            })?;
            Ok(code.map_or(ExitCode::SUCCESS, ExitCode::from))
        }
    }
}

/// Starts the capture of frames and the statistics, if they are wanted. A capture that cannot be
/// written is no reason not to run.
fn watch_frames<L: Link>(run: &RunConf, worker: &mut Worker<L>) -> Option<Capture> {
    if let Some(seconds) = run.stats {
        worker.count_events(Duration::from_secs(seconds));
    }
    let path = run.pcap.as_deref()?;
    match Capture::create(path) {
        Ok(capture) => {
            log::info!("Saving packet capture to {}", path.display());
            worker.observe(Box::new(capture.clone()), Box::new(capture.clone()));
            Some(capture)
        }
        Err(error) => {
            let (path, why) = (path.display(), io_error_text(&error));
            log::error!(
                "Couldn't open packet capture {path}: {why}: choose another --pcap; going on without"
            );
            None
        }
    }
}

/// Completes what is written beside the program's work.
fn finish(capture: Option<&Capture>) {
    let Some(capture) = capture else { return };
    let counters = capture.counters();
    if counters.lost > 0 {
        log::warn!("Packet capture: {} frames recorded, {} not", counters.recorded, counters.lost);
    }
    if let Err(error) = capture.sync() {
        log::debug!("Couldn't sync packet capture: {error}");
    }
}

fn no_helper(errno: Errno) -> StartError {
    let what = "Couldn't start the helper that makes sockets in the namespace";
    let error = sandbox::not_in_namespace(what)(errno);
    match errno {
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => {
            StartError::Other(format!("{error}; socketpair and setsid, too"))
        }
        _ => error,
    }
}

/// Makes sockets in the namespace, by a helper that is forked here: while the namespace can be entered.
fn namespace_sockets(
    conf: &Conf,
    namespace: &Namespace,
    filter: &Filter,
) -> Result<Rc<RefCell<NamespaceSockets>>, StartError> {
    let mut sockets =
        NamespaceSockets::start(namespace.network(), filter, when_told(conf)).map_err(no_helper)?;
    let outbound = conf.pasta.iter().flat_map(|pasta| pasta.outbound.rules());
    let scans = conf.rules.rules().iter().chain(outbound).any(|rule| rule.scan);
    if (scans || conf.run.may_change_rules())
        && let Err(errno) = sock_diag::tried()
    {
        let why = errno_text(errno);
        log::warn!(
            "Cannot ask the kernel what listens: {why}: /proc/net is read, which takes longer"
        );
        sockets.read_ports(namespace.port_tables()?);
    }
    Ok(Rc::new(RefCell::new(sockets)))
}

/// What passes the tap device by.
fn bypass(
    conf: &Conf,
    sockets: &Rc<RefCell<NamespaceSockets>>,
    device: Option<&pasta::Device>,
) -> Option<BypassConfig> {
    let PastaConf { bypass, .. } = conf.pasta.as_ref()?;
    let sockets = Box::new(sockets.clone());
    let interface = device.map_or(0, |device| device.index);
    Some(BypassConfig { how: *bypass, sockets, interface })
}

/// The loop with the tap device, if there is one, which is there before ports are opened ([`Tap::new`](passt_legacy::Tap::new)).
fn pasta_worker(
    conf: &Conf,
    device: Option<pasta::Device>,
    (bypass, epoll): (Option<BypassConfig>, Rc<OwnedFd>),
    max_descriptors: u64,
) -> Result<Worker<NamespaceLink>, StartError> {
    let registrar = Registrar::new(epoll.clone(), LINK_BASE);
    let mac = device.as_ref().map(|device| device.mac);
    let tap = device
        .map(|device| passt_legacy::Tap::new(device.fd, device.offloads, &registrar))
        .transpose()
        .map_err(system("Couldn't use the tap device"))?;
    let mut engine = engine(conf, epoll.clone(), max_descriptors, mac, bypass)?;
    let has_device = tap.is_some();
    let mut link = NamespaceLink::new(tap);
    if has_device {
        let (_, out) = link.halves();
        engine.on_link_up(out);
    }
    let clients = Clients { listener: None, one_off: true };
    Worker::new(epoll, link, engine, clients).map_err(system("epoll_ctl"))
}

/// The engine with its open ports; `mac` is the guest's if it is known, `bypass` is pasta's.
fn engine(
    conf: &Conf,
    epoll: Rc<OwnedFd>,
    max_descriptors: u64,
    mac: Option<Mac>,
    bypass: Option<BypassConfig>,
) -> Result<Box<Engine>, StartError> {
    let outbound = conf.pasta.as_ref().map(|pasta| pasta.outbound.clone());
    let view = NetView {
        network: conf.network.clone(),
        map: conf.mapping.clone(),
        inbound: conf.rules.clone(),
        outbound: outbound.unwrap_or_default(),
        egress: conf.egress.clone(),
    };
    let settings = settings(conf, max_descriptors);
    let secret = process::random_bytes().map_err(system("getrandom"))?;
    let duid = Duid::new(conf.network.our_mac);
    let now = crate::engine::monotonic_now();
    let mut engine = Box::new(Engine::new(epoll, view, settings, secret, duid, now));
    if let Some(mac) = mac {
        engine.set_guest_mac(mac);
    }
    if let Some(bypass) = bypass {
        let cannot = system("Couldn't watch for services to forward");
        engine.set_bypass(bypass, conf.run.may_change_rules()).map_err(cannot)?;
    }
    engine.listen().map_err(|error| StartError::Other(start::listen_failure(&error)))?;
    Ok(engine)
}

/// Has the guest see the Ethernet addresses of the host's neighbours, and follow the host's network if that is watched; and
/// the loop see the end of whoever watches it, and of the `other` helper.
fn follow<L: Link>(
    conf: &Conf,
    worker: &mut Worker<L>,
    epoll: Rc<OwnedFd>,
    watch: Option<HostWatch>,
    other: Option<Helper>,
) -> Result<(), StartError> {
    helpers::watch(worker, [watch.as_ref().and_then(HostWatch::helper), other])?;
    let neighbours = follow_neighbours(conf, worker).inspect_err(|errno| {
        log::warn!(
            "Cannot follow the host's neighbours: {errno}: the guest sees our address for all"
        );
    });
    if let Some(mut watch) = watch {
        watch.lead(epoll, neighbours.ok());
        worker.add(Box::new(watch)).map_err(system("epoll_ctl"))?;
    }
    Ok(())
}

fn follow_neighbours<L: Link>(
    conf: &Conf,
    worker: &mut Worker<L>,
) -> Result<Rc<RefCell<NeighbourWatch>>, Errno> {
    let interfaces = [conf.template_v4, conf.template_v6].map(|device| device.map(|one| one.index));
    let started = NeighbourWatch::start(worker.engine_mut(), interfaces)?;
    let shared = Rc::new(RefCell::new(started));
    worker.add(Box::new(SharedWatch::new(shared.clone())?))?;
    Ok(shared)
}

/// Starts the helper that watches the host's network. Where it cannot be had, the host does not change.
fn watch_host(
    conf: &Conf,
    (mut options, seen): (Options, Snapshot),
    namespace: Option<Reconfigure>,
) -> Option<HostWatch> {
    // What the namespace does not have, it never gets.
    if conf.network.v6.is_none() {
        options.interfaces.only = Some(Only::V4);
    }
    HostWatch::start(options, seen, namespace, when_told(conf))
        .inspect_err(|errno| {
            let (why, cure) = (errno_text(*errno), process_cure(*errno));
            log::warn!("Cannot follow changes of the host's network: {why}{cure}");
        })
        .ok()
}

/// What signals are to helpers that end the program, or are passed on to its command.
fn when_told(conf: &Conf) -> WhenTold {
    match &conf.pasta {
        Some(pasta) if pasta.starts_command() => WhenTold::Stays,
        _ => WhenTold::Ends,
    }
}

/// Puts the command line together with what the host looks like.
fn configure(mut options: Options) -> Result<Configured, StartError> {
    conf::egress::load(&mut options)?;
    let mut facts = if options.pasta.splice_only {
        conf::host::kernel_facts()
    } else if let Some(seconds) = options.run.wait_for_network {
        start::await_network(&options.interfaces, Duration::from_secs(seconds))?
    } else {
        conf::host::facts(&options.interfaces)?
    };
    let resolv = start::read_resolv();
    let (ephemeral, note) = conf::ports::ephemeral_range();
    start::look_up(&options, &mut facts, &resolv)?;
    start::warn_of_outbound(&options, &facts);
    let followed = (!options.run.no_follow && !options.pasta.splice_only)
        .then(|| -> Result<_, StartError> {
            let seen = Snapshot {
                facts: facts.clone(),
                own: conf::host::surroundings()?,
                held: Vec::new(),
                resolv: resolv.clone(),
            };
            Ok((options.clone(), seen))
        })
        .transpose()?;
    let wish = options.interfaces.clone();
    let conf = conf::resolve(options, &facts, &resolv, ephemeral)?;
    start::tell_of_network(&conf, &wish, note.iter().chain(&conf.notes));
    Ok(Configured { conf, followed })
}

/// The configuration, and what is needed to follow the host.
struct Configured {
    conf: Conf,
    /// The options, and what the host looked like when they were applied to it.
    followed: Option<(Options, Snapshot)>,
}

/// The loop with its link, its engine and its open ports.
fn worker(
    conf: &Conf,
    socket: ClientSocket,
    epoll: Rc<OwnedFd>,
    max_descriptors: u64,
) -> Result<Worker<SocketLink>, StartError> {
    let protocols = match conf.link.mode {
        Mode::VhostUser => Protocols::VhostUser,
        Mode::Stream | Mode::Pasta => Protocols::Any,
    };
    let mut link = SocketLink::new(&epoll, conf.network.mtu, protocols)
        .map_err(|error| StartError::Other(error.to_string()))?;
    let engine = engine(conf, epoll.clone(), max_descriptors, None, None)?;
    let one_off = conf.link.one_off || matches!(socket, ClientSocket::Connected(_));
    let listener = match socket {
        ClientSocket::Listening(listener, _) => Some(listener.into()),
        ClientSocket::Connected(stream) => {
            link.attach(stream.into()).map_err(StartError::Other)?;
            None
        }
    };
    let clients = Clients { listener, one_off };
    Worker::new(epoll, link, engine, clients).map_err(system("epoll_ctl"))
}

fn settings(conf: &Conf, max_descriptors: u64) -> Settings {
    Settings {
        tcp: start::tcp_config(conf.pasta.is_some()),
        peek_offset_v4: stream::has_peek_offset(true),
        peek_offset_v6: stream::has_peek_offset(false),
        outbound_v4: conf.outbound_v4.map(|device| device.name),
        outbound_v6: conf.outbound_v6.map(|device| device.name),
        freebind: conf.freebind,
        late_addresses: start::is_followed(conf) && start::is_without_network(conf),
        max_descriptors,
        udp: start::udp_timeouts(),
        ephemeral: conf.kernel.ephemeral,
    }
}
