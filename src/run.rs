//! From the command line to the running loop, in order.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use log::LevelFilter;
use rustix::event::epoll;

use crate::conf::{self, Command, Conf, Mode, Options};
use crate::engine::{Addressing, Clients, End, Engine, Link, Protocols, SocketLink, Worker};
use crate::flow::network::Network;
use crate::responder::dhcpv6::Duid;
use crate::start::{self, ClientSocket, StartError, system};
use crate::sys::{process, stream};

/// Seconds from 1970 to 2000, the epoch of DHCPv6 identifiers (RFC 8415, section 11.2).
const DUID_EPOCH: Duration = Duration::from_secs(946_684_800);

/// The program. Exit code 0 when it ended as asked, 1 for every error.
pub fn main() -> ExitCode {
    let command = match conf::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => return fail(&error.into()),
    };
    match command {
        Command::Help(text) | Command::Version(text) | Command::Capabilities(text) => {
            // A reader that is gone does not want the text any more.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Command::Run(options) => match run(*options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
    }
}

fn fail(error: &StartError) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{error}");
    if let StartError::Conf(error) = error
        && let Some(cure) = error.cure()
    {
        let _ = writeln!(stderr, "{cure}");
    }
    ExitCode::FAILURE
}

fn run(options: Options) -> Result<(), StartError> {
    crate::log::init(level(&options));
    let max_descriptors = process::raise_descriptor_limit().map_err(system("setrlimit"))?;
    let conf = configure(options)?;

    let socket = start::client_socket(&conf.link)?;
    let mut pid_file = conf.run.pid.as_deref().map(start::open_pid_file).transpose()?;
    let bound = match &socket {
        ClientSocket::Listening(_, path) => Some(path.as_path()),
        ClientSocket::Connected(_) => None,
    };
    for line in conf::banner(&conf, bound).lines() {
        log::info!("{line}");
    }

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll_create"))?;
    let mut worker = worker(&conf, socket, Rc::new(epoll), max_descriptors)?;
    if conf.run.foreground {
        if let Some(file) = &mut pid_file {
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            start::write_pid(file, pid).map_err(|e| StartError::Other(format!("PID file: {e}")))?;
        }
    } else if !start::daemonize(pid_file.as_mut())? {
        // The child has the same epoll instance: what is dropped here would leave it there, too.
        std::mem::forget(worker);
        return Ok(());
    }
    let signals = process::signal_descriptor(&[libc::SIGTERM, libc::SIGQUIT]);
    worker.end_on(signals.map_err(system("signalfd"))?).map_err(system("epoll_ctl"))?;
    match worker.run().map_err(system("epoll_wait"))? {
        End::Signal | End::ClientGone => Ok(()),
    }
}

fn level(options: &Options) -> LevelFilter {
    let run = &options.run;
    match (run.trace, run.debug, run.quiet) {
        (true, ..) => LevelFilter::Trace,
        (_, true, _) => LevelFilter::Debug,
        (_, _, true) => LevelFilter::Warn,
        _ => LevelFilter::Info,
    }
}

/// Puts the command line together with what the host looks like.
fn configure(options: Options) -> Result<Conf, StartError> {
    let facts = conf::host::facts(&options.interfaces)?;
    let resolv = conf::resolv::read().unwrap_or_else(|error| {
        log::warn!("Couldn't read resolv.conf: {error}");
        String::new()
    });
    let (ephemeral, note) = conf::ports::ephemeral_range();
    let conf = conf::resolve(options, &facts, &resolv, ephemeral)?;
    for note in note.iter().chain(&conf.notes) {
        log::log!(note.level, "{}", note.text);
    }
    Ok(conf)
}

/// The loop with its link, its engine and its open ports.
fn worker(
    conf: &Conf,
    socket: ClientSocket,
    epoll: Rc<OwnedFd>,
    max_descriptors: u64,
) -> Result<Worker<SocketLink>, StartError> {
    let device = passt_vhost::Config { mac: None, mtu: conf.network.mtu };
    let protocols = match conf.link.mode {
        Mode::VhostUser => Protocols::VhostUser,
        Mode::Stream => Protocols::Any,
    };
    let mut link = SocketLink::new(&epoll, device, protocols)
        .map_err(|error| StartError::Other(error.to_string()))?;
    let addressing =
        Addressing::new(conf.network.clone(), conf.mapping.clone(), conf.rules.clone());
    let options = engine_options(conf, max_descriptors);
    let secret = process::random_bytes().map_err(system("getrandom"))?;
    let duid = duid(&conf.network);
    let now = crate::engine::monotonic_now();
    let mut engine = Engine::new(epoll.clone(), addressing, options, secret, duid, now);
    engine.listen().map_err(|error| StartError::Other(error.to_string()))?;

    let one_off = conf.link.one_off || matches!(socket, ClientSocket::Connected(_));
    let listener = match socket {
        ClientSocket::Listening(listener, _) => Some(listener),
        ClientSocket::Connected(stream) => {
            link.attach(stream).map_err(StartError::Other)?;
            None
        }
    };
    let clients = Clients { listener, one_off };
    Worker::new(epoll, link, engine, clients).map_err(system("epoll_ctl"))
}

fn engine_options(conf: &Conf, max_descriptors: u64) -> crate::engine::Options {
    crate::engine::Options {
        tcp: start::tcp_config(),
        peek_offset_v4: stream::has_peek_offset(true),
        peek_offset_v6: stream::has_peek_offset(false),
        outbound_v4: conf.outbound_v4.map(|device| device.name),
        outbound_v6: conf.outbound_v6.map(|device| device.name),
        freebind: conf.freebind,
        max_descriptors,
    }
}

fn duid(network: &Network) -> Duid {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + DUID_EPOCH);
    Duid::new(since.map_or(0, |since| since.as_secs() as u32), network.our_mac)
}
