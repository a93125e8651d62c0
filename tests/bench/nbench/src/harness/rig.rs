//! What stands between the ends of the traffic: a daemon of a peer, with its guest. A rig is
//! made for one sample and then taken down, so that no sample finds what another left.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Result;
use super::cells::{Cell, Condition, Family, Mode, Soak, Work};
use super::guest::{Guest, Machine, Wire};
use super::peers::{Peer, Program};
use super::process::{Task, run, until};
use super::world::{
    self, GATEWAY4, GATEWAY6, HOST, HOST4, HOST6, NBENCH, OUTSIDE, SERVER4, SERVER6,
};

/// How long anything may take to be there.
const START: Duration = Duration::from_secs(15);
/// How long a program at one end may take to say that it has begun: with all its connections.
const BEGIN: Duration = Duration::from_secs(240);
/// The device in the guest's namespace, where nobody else names it.
const TAP: &str = "tap0";
/// Devices of the long way, in the host's and the outer namespace.
const NEAR: &str = "near0";
const FAR: &str = "far0";

/// The end of the traffic that a program runs at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the guest.
    Inside,
    /// Beyond the daemon.
    Outside,
}

enum Inside {
    /// A network namespace.
    Net(String),
    Guest(Guest),
    /// A driver, which is started for its load: the socket.
    Driver(String),
}

/// What is started for one sample.
pub struct Rig {
    inside: Inside,
    /// Where the other end of the traffic runs.
    outside: &'static str,
    loopback: bool,
    daemon: Option<Task>,
    /// Others, which are ended after the daemon.
    tasks: Vec<Task>,
    /// Whether the devices inside outlive the rig, and have to be as they were.
    restores: bool,
    /// Removed with the rig.
    device: Option<OutsideDevice>,
    log: File,
    family: Family,
    port: u16,
    jobs: u32,
}

/// The servers' end of a guest's wire, which outlives the guest.
struct OutsideDevice;

impl Drop for OutsideDevice {
    fn drop(&mut self) {
        let mut remove = world::in_net(OUTSIDE, "ip");
        remove.args(["link", "del", FAR]);
        if run(remove).is_err() {
            eprintln!("bench: {FAR} is still there");
        }
    }
}

/// What a peer is to be started for.
pub struct Setup<'a> {
    pub peer: &'a Peer,
    pub cell: &'a Cell,
    /// The first of two ports for servers; it is forwarded inwards.
    pub port: u16,
    pub log: File,
    /// In which block the sample is.
    pub block: usize,
    /// The processor that the daemon is bound to, if any.
    pub processor: Option<usize>,
}

/// A client that runs.
pub enum Job {
    Task(Task),
    /// Its output, in the guest.
    File(String),
}

impl Job {
    /// Whether it is known to have ended: of one in a guest that is not.
    pub fn has_ended(&mut self) -> bool {
        match self {
            Self::Task(task) => task.ended().is_some(),
            Self::File(_) => false,
        }
    }
}

impl Rig {
    /// Starts everything and waits until it serves.
    ///
    /// # Errors
    /// What did not start.
    pub fn start(setup: &Setup<'_>) -> Result<Self> {
        let way = match setup.cell.condition {
            Condition::Far { rtt_ms, lost_ppm, .. } => Some(setup.far(rtt_ms, lost_ppm)?),
            Condition::Usual | Condition::NoOffloads => None,
        };
        let mut rig = Self::choose(setup)?;
        rig.tasks.extend(way);
        if setup.cell.condition == Condition::NoOffloads {
            rig.restores = setup.peer.program == Program::Direct;
            rig.segmentation("off")?;
        }
        if let (Some(daemon), Some(processor)) = (rig.daemon(), setup.processor) {
            bind(Some(daemon), processor)?;
        }
        Ok(rig)
    }

    fn choose(setup: &Setup<'_>) -> Result<Self> {
        match (&setup.peer.program, setup.cell.mode) {
            (Program::Direct, Mode::VhostUser) => setup.guest_without_daemon(),
            (Program::Direct, _) => Ok(setup.rig(Inside::Net(HOST.to_owned()), None, Vec::new())),
            (Program::Passt(folder), Mode::Tap | Mode::Bypass) => setup.pasta(folder),
            (Program::Passt(folder), Mode::Stream | Mode::Qemu) => setup.passt_stream(folder),
            (Program::Passt(folder), Mode::VhostUser) => setup.passt_vhost_user(folder),
            (Program::Passt(folder), Mode::Ring) => setup.passt_ring(folder),
            (Program::Slirp4netns, _) => setup.slirp4netns(),
            (Program::Libslirp, _) => setup.libslirp(),
        }
    }

    fn segmentation(&mut self, word: &str) -> Result<()> {
        let job = self.begin(Place::Inside, &["segmentation", word])?;
        self.finish(job, START).map(drop)
    }

    /// The daemon's process, if there is one.
    pub fn daemon(&self) -> Option<u32> {
        self.daemon.as_ref().map(Task::id)
    }

    /// Starts a program and waits until it prints a line that begins with `sign`.
    ///
    /// # Errors
    /// When it does not within the time.
    pub fn begin_until(&mut self, at: Place, words: &[&str], sign: &str) -> Result<Job> {
        self.begin_within(at, words, sign, BEGIN)
    }

    /// The same for what may take so long to begin.
    ///
    /// # Errors
    /// As [`Self::begin_until`].
    pub fn begin_within(
        &mut self,
        at: Place,
        words: &[&str],
        sign: &str,
        within: Duration,
    ) -> Result<Job> {
        let mut job = self.begin(at, words)?;
        match &mut job {
            Job::Task(task) => drop(task.wait_line(sign, within)?),
            Job::File(file) => {
                let line = format!("until grep -q '^{sign}' {file}; do sleep 0.05; done");
                self.in_guest(&line, within)?;
            }
        }
        Ok(job)
    }

    /// Where a server at that end listens. Outside, datagrams must be answered from the address
    /// that they were sent to, which is not the one that routes prefer.
    pub fn listening(&self, server: Place) -> String {
        if server == Place::Inside {
            format!("[::]:{}", self.port(server))
        } else {
            self.target(server)
        }
    }

    /// Address and port under which clients at the other end reach a server.
    pub fn target(&self, server: Place) -> String {
        let (address, port) = (self.address(server), self.port(server));
        if self.family == Family::V6 {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    }

    /// The port of a server at that end: what is forwarded inwards is taken on this side.
    pub fn port(&self, server: Place) -> u16 {
        if server == Place::Inside { self.port } else { self.port + 1 }
    }

    /// The address under which clients at the other end reach a server.
    pub fn address(&self, server: Place) -> &'static str {
        match (self.family, self.loopback, server) {
            (Family::V4, true, _) => "127.0.0.1",
            (Family::V6, true, _) => "::1",
            (Family::V4, false, Place::Outside) => SERVER4,
            (Family::V6, false, Place::Outside) => SERVER6,
            (Family::V4, false, Place::Inside) => HOST4,
            (Family::V6, false, Place::Inside) => HOST6,
        }
    }

    /// Starts a program at one end; `nbench` unless the words begin with another.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(&mut self, at: Place, words: &[&str]) -> Result<Job> {
        let (program, in_guest, words) = match words {
            ["iperf3", rest @ ..] => ("iperf3", "/n/iperf3.d/run", rest),
            _ => (NBENCH, "/n/nbench", words),
        };
        self.jobs += 1;
        let net = match (at, &mut self.inside) {
            (Place::Outside, _) => self.outside.to_owned(),
            (Place::Inside, Inside::Net(net)) => net.clone(),
            (Place::Inside, Inside::Driver(socket)) => {
                let mut command = world::ordinary(NBENCH);
                command.args(["ring", socket]).args(&words[1..]);
                return Ok(Job::Task(Task::start("ring", command, &self.log)?));
            }
            (Place::Inside, Inside::Guest(guest)) => {
                let file = format!("/tmp/job.{}", self.jobs);
                let words = words.join(" ");
                let job = format!("{in_guest} {words} >{file} 2>&1; echo end $? >{file}.end");
                guest.run(&format!("mkfifo {file}.end; ({job}) &"), START)?;
                return Ok(Job::File(file));
            }
        };
        let mut command = world::in_net(&net, program);
        command.args(words);
        Ok(Job::Task(Task::start(words.first().unwrap_or(&program), command, &self.log)?))
    }

    /// Waits for a client and returns what it printed.
    ///
    /// # Errors
    /// When it fails, or takes too long.
    pub fn finish(&mut self, job: Job, within: Duration) -> Result<String> {
        let file = match job {
            Job::Task(mut task) => return task.result(within),
            Job::File(file) => file,
        };
        // Looking for the end from time to time would cost the guest more than the load does: to start a
        // program takes User-Mode Linux milliseconds, of a processor that it has one of.
        let wait = format!("read -r end <{file}.end; cat {file}; echo $end");
        let printed = self.in_guest(&wait, within)?;
        match printed.trim_end().strip_suffix("end 0") {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("in the guest: {}", printed.trim().replace('\n', "; ")).into()),
        }
    }

    fn in_guest(&mut self, line: &str, within: Duration) -> Result<String> {
        match &mut self.inside {
            Inside::Guest(guest) => guest.run(line, within),
            Inside::Net(_) | Inside::Driver(_) => Err("there is no guest".into()),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.restores && self.segmentation("on").is_err() {
            eprintln!("bench: the limit's devices are still without offloads");
        }
    }
}

impl Setup<'_> {
    fn rig(&self, inside: Inside, daemon: Option<Task>, tasks: Vec<Task>) -> Rig {
        let loopback = self.cell.mode == Mode::Bypass;
        Rig {
            inside,
            outside: if loopback { HOST } else { OUTSIDE },
            loopback,
            daemon,
            tasks,
            restores: false,
            device: None,
            log: self.clone_log(),
            family: self.cell.family,
            port: self.port,
            jobs: 0,
        }
    }

    fn clone_log(&self) -> File {
        self.log.try_clone().expect("a descriptor for the log is to be had")
    }

    /// A path in the scratch folder that no other sample uses.
    pub fn path(&self, what: &str) -> String {
        format!("{}/{}.{}.{what}", world::SCRATCH, self.peer.name, self.port)
    }

    /// The sockets by which the program is controlled, where it has any: all that there are.
    pub fn control_sockets(&self) -> [(&'static str, String); 3] {
        [("--control", "control"), ("--control-ro", "control-ro"), ("--conf-path", "conf")]
            .map(|(option, name)| (option, self.path(name)))
    }

    fn controls(&self) -> Vec<String> {
        if self.cell.work != Work::Soak(Soak::Hostile) {
            return Vec::new();
        }
        self.control_sockets()
            .into_iter()
            .flat_map(|(option, path)| [option.to_owned(), path])
            .collect()
    }

    /// Port options of passt and pasta, of the same meaning for every program.
    fn ports(&self) -> Vec<String> {
        let (inwards, outwards) = (self.port.to_string(), (self.port + 1).to_string());
        let [inwards, outwards] = match self.cell.work {
            Work::Idle { auto: true } => ["auto", "auto"],
            Work::Idle { auto: false } => ["none", "none"],
            _ if self.cell.mode == Mode::Bypass => [inwards.as_str(), outwards.as_str()],
            _ => [inwards.as_str(), "none"],
        };
        let mut words = vec!["-t", inwards, "-u", inwards];
        if matches!(self.cell.mode, Mode::Tap | Mode::Bypass) {
            words.extend(["-T", outwards, "-U", outwards]);
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// A network namespace of an ordinary user, held by a process of its.
    fn namespace(&self) -> Result<(Task, String)> {
        let mut command = world::ordinary("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--net",
            "sh",
            "-c",
            "echo ready; exec sleep 100000",
        ]);
        let mut holder = Task::start("namespace", command, &self.log)?;
        holder.wait_line("ready", START)?;
        let net = format!("/proc/{}/ns/net", holder.id());
        let mut sysctls = world::in_net(&net, "sh");
        sysctls.args(["-c", &format!("ip link set lo up; {}", world::SYSCTLS)]);
        run(sysctls)?;
        Ok((holder, net))
    }

    fn pasta(&self, folder: &Path) -> Result<Rig> {
        let (holder, net) = self.namespace()?;
        let pid_file = self.path("pid");
        let mut command = world::ordinary(&folder.join("pasta").to_string_lossy());
        command.args([
            "-f",
            "-q",
            "--config-net",
            "-P",
            &pid_file,
            "-m",
            &self.cell.mtu.to_string(),
        ]);
        command.args(self.controls()).args(self.ports()).arg(holder.id().to_string());
        let daemon = self.start_daemon(command, &pid_file)?;
        let settled = || {
            let mut ip = world::in_net(&net, "ip");
            ip.args(["-6", "addr", "show", "tentative"]);
            run(ip).is_ok_and(|found| found.trim().is_empty())
        };
        until("addresses inside", START, settled)?;
        Ok(self.rig(Inside::Net(net), Some(daemon), vec![holder]))
    }

    fn passt_vhost_user(&self, folder: &Path) -> Result<Rig> {
        let (daemon, socket) = self.passt(folder, &["--vhost-user"])?;
        let guest = Guest::boot(Machine::Uml, Wire::Socket(&socket), self.cell.mtu, &self.log)?;
        Ok(self.rig(Inside::Guest(guest), Some(daemon), Vec::new()))
    }

    /// The limit of a guest: its kernel, connected to the servers' by a tap device.
    fn guest_without_daemon(&self) -> Result<Rig> {
        let mut make = world::in_net(OUTSIDE, "sh");
        let mtu = self.cell.mtu;
        make.arg("-euc").arg(format!(
            "ip tuntap add dev {FAR} mode tap; ip link set {FAR} addrgenmode none
             ip link set {FAR} mtu {mtu} txqueuelen 10000 up; ip addr add {GATEWAY6}/128 dev {FAR} nodad
             ip route add {HOST4}/32 dev {FAR}; ip -6 route add {HOST6}/128 dev {FAR}"
        ));
        run(make)?;
        let device = OutsideDevice;
        let path = self.path("limit");
        let wire = Wire::Tap(FAR, &path, mtu);
        let guest = Guest::boot(Machine::Uml, wire, mtu, &self.log)?;
        let mut rig = self.rig(Inside::Guest(guest), None, Vec::new());
        rig.device = Some(device);
        Ok(rig)
    }

    fn passt_ring(&self, folder: &Path) -> Result<Rig> {
        let (daemon, socket) = self.passt(folder, &["--vhost-user"])?;
        Ok(self.rig(Inside::Driver(socket), Some(daemon), Vec::new()))
    }

    fn passt_stream(&self, folder: &Path) -> Result<Rig> {
        let (daemon, socket) = self.passt(folder, &[])?;
        self.before_stream(daemon, &socket)
    }

    fn passt(&self, folder: &Path, options: &[&str]) -> Result<(Task, String)> {
        let (pid_file, socket) = (self.path("pid"), self.path("socket"));
        let mut command = world::ordinary(&folder.join("passt").to_string_lossy());
        command.args([
            "-f",
            "-q",
            "-s",
            &socket,
            "-P",
            &pid_file,
            "-m",
            &self.cell.mtu.to_string(),
        ]);
        command.args(options).args(self.controls()).args(self.ports());
        Ok((self.start_daemon(command, &pid_file)?, socket))
    }

    fn start_daemon(&self, command: Command, pid_file: &str) -> Result<Task> {
        let mut daemon = Task::start(&self.peer.name, command, &self.log)?;
        let mut ended = false;
        until("the PID file", START, || {
            ended = daemon.ended().is_some();
            ended || fs::read_to_string(pid_file).is_ok_and(|text| text.ends_with('\n'))
        })?;
        if ended { Err("the daemon has ended, see the log".into()) } else { Ok(daemon) }
    }

    fn before_stream(&self, daemon: Task, socket: &str) -> Result<Rig> {
        if self.cell.mode != Mode::Qemu {
            return self.relayed(daemon, socket);
        }
        let guest = Guest::boot(Machine::Qemu, Wire::Socket(socket), self.cell.mtu, &self.log)?;
        Ok(self.rig(Inside::Guest(guest), Some(daemon), Vec::new()))
    }

    /// A guest of a stream socket: a namespace with a tap device and a relay to the socket.
    fn relayed(&self, daemon: Task, socket: &str) -> Result<Rig> {
        let (holder, net) = self.namespace()?;
        let mut command = world::in_net(&net, NBENCH);
        command.args(["relay", socket, TAP]);
        let mut relay = Task::start("relay", command, &self.log)?;
        relay.wait_line("ready", START)?;
        let mtu = self.cell.mtu;
        // A virtual machine's driver waits for room. A tap device loses what its queue does not hold, which
        // at a small MTU by default is less than a window.
        let queue = "txqueuelen 10000";
        let mut configure = world::in_net(&net, "sh");
        configure.arg("-euc").arg(format!(
            "echo 0 >/proc/sys/net/ipv6/conf/{TAP}/accept_ra; ip link set {TAP} mtu {mtu} {queue} up
             ip addr add {HOST4}/24 dev {TAP}; ip route add default via {GATEWAY4}
             ip -6 addr add {HOST6}/64 dev {TAP} nodad; ip -6 route add default via {GATEWAY6}"
        ));
        run(configure)?;
        Ok(self.rig(Inside::Net(net), Some(daemon), vec![relay, holder]))
    }

    fn slirp4netns(&self) -> Result<Rig> {
        let (holder, net) = self.namespace()?;
        let socket = self.path("api");
        let mut command = world::ordinary("slirp4netns");
        command.args(["--configure", "--mtu", &self.cell.mtu.to_string(), "--api-socket", &socket]);
        command.args([&holder.id().to_string(), TAP]);
        let daemon = Task::start("slirp4netns", command, &self.log)?;
        let configured = || {
            let mut ip = world::in_net(&net, "ip");
            ip.args(["-4", "route", "show", "default"]);
            run(ip).is_ok_and(|found| found.contains(TAP)) && Path::new(&socket).exists()
        };
        until("slirp4netns", START, configured)?;
        forward(&socket, self.port)?;
        Ok(self.rig(Inside::Net(net), Some(daemon), vec![holder]))
    }

    /// QEMU's user network without a machine: its frames go to a stream socket.
    fn libslirp(&self) -> Result<Rig> {
        let (socket, port) = (self.path("socket"), self.port);
        let mut command = world::ordinary("qemu-system-x86_64");
        command.args(["-M", "none", "-nodefaults", "-nographic", "-monitor", "none"]);
        command.arg("-netdev").arg(format!(
            "user,id=u,net=192.0.2.0/24,host={GATEWAY4},dhcpstart={HOST4},dns=192.0.2.3,\
             hostfwd=tcp:{HOST4}:{port}-{HOST4}:{port}"
        ));
        command
            .arg("-netdev")
            .arg(format!("stream,id=s,server=on,addr.type=unix,addr.path={socket}"));
        command.args([
            "-netdev",
            "hubport,id=a,hubid=0,netdev=u",
            "-netdev",
            "hubport,id=b,hubid=0,netdev=s",
        ]);
        let daemon = Task::start("qemu", command, &self.log)?;
        until("QEMU's socket", START, || Path::new(&socket).exists())?;
        self.before_stream(daemon, &socket)
    }

    /// Makes the way to the server outside longer, for everybody in the host's namespace.
    fn far(&self, rtt_ms: u32, lost_ppm: u32) -> Result<Task> {
        let mut command = world::in_net(HOST, NBENCH);
        command.args(["wan", NEAR, FAR, OUTSIDE, &format!("rtt_ms={rtt_ms}")]);
        // In one block, all lose the same packets.
        command.args([format!("lost_ppm={lost_ppm}"), format!("seed={}", self.block + 1)]);
        let mut way = Task::start("wan", command, &self.log)?;
        way.wait_line("ready", START)?;
        for (net, device, there, here) in
            [(HOST, NEAR, SERVER4, HOST4), (OUTSIDE, FAR, HOST4, SERVER4)]
        {
            let mut route = world::in_net(net, "sh");
            route.arg("-euc").arg(format!(
                "ip link set {device} addrgenmode none; ip link set {device} txqueuelen 10000 up
                 ip route add {there}/32 dev {device} src {here}"
            ));
            run(route)?;
        }
        Ok(way)
    }
}

/// Binds a process (none: this one, and what it starts) to a processor.
///
/// # Errors
/// As sched_setaffinity(2).
pub fn bind(process: Option<u32>, processor: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    let process = process.and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
    Ok(rustix::thread::sched_setaffinity(process, &set)?)
}

/// Asks slirp4netns to forward a port of the host's outer address.
fn forward(socket: &str, port: u16) -> Result<()> {
    use std::io::{Read, Write};
    let mut api = std::os::unix::net::UnixStream::connect(socket)?;
    api.set_read_timeout(Some(START))?;
    let arguments = format!(
        r#"{{"proto":"tcp","host_addr":"0.0.0.0","host_port":{port},"guest_port":{port}}}"#
    );
    api.write_all(format!(r#"{{"execute":"add_hostfwd","arguments":{arguments}}}"#).as_bytes())?;
    api.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    api.read_to_string(&mut answer)?;
    if answer.contains("error") { Err(format!("slirp4netns: {answer}").into()) } else { Ok(()) }
}
