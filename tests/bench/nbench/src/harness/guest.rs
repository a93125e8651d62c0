//! A guest, obeying on its console: `tests/guests/init` is its first process. User-Mode Linux, a
//! kernel that runs as a process, for speed; or QEMU without acceleration, for the client that
//! most people have.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Result;
use super::cells::Mode;
use super::process::Task;
use super::world::{self, GATEWAY4, GATEWAY6, HOST4, HOST6, OUTSIDE};

/// Kernels, as `tests/guests/fetch.sh` leaves them.
const IMAGES: &str = "/run/guests";
/// QEMU's initramfs with the load generator, which `tests/bench/run` makes.
const QEMU_INITRAMFS: &str = "/run/bin/qemu-initramfs";
/// User-Mode Linux boots in half a second on an idle machine, QEMU in five.
const BOOT: Duration = Duration::from_secs(120);
/// For commands that do nothing but set something.
const SHORT: Duration = Duration::from_secs(20);

/// What a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// In front of a vhost-user socket.
    Uml,
    /// In front of a stream socket.
    Qemu,
}

impl Machine {
    /// What the cells of a mode need, if they need a machine.
    pub fn of(mode: Mode) -> Option<Self> {
        match mode {
            Mode::VhostUser => Some(Self::Uml),
            Mode::Qemu => Some(Self::Qemu),
            Mode::Tap | Mode::Bypass | Mode::Stream | Mode::Ring => None,
        }
    }

    /// Its name for `tests/guests/fetch.sh`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uml => "uml",
            Self::Qemu => "qemu",
        }
    }

    /// Whether there are images to boot.
    pub fn is_available(self) -> bool {
        Path::new(IMAGES).join(self.name()).join("initramfs").exists()
    }
}

/// What a guest's network device is connected to.
#[derive(Clone, Copy, Debug)]
pub enum Wire<'a> {
    /// A daemon's socket.
    Socket(&'a str),
    /// The host's kernel, by a tap device of [`OUTSIDE`]; with a path of its own and the MTU.
    Tap(&'a str, &'a str, u32),
}

impl Wire<'_> {
    fn command(self, machine: Machine) -> Result<Command> {
        match (self, machine) {
            (Self::Socket(socket), Machine::Qemu) => Ok(qemu(socket)),
            (Self::Socket(socket), Machine::Uml) => {
                let command = world::ordinary(LINUX);
                user_mode_linux(command, socket, &format!("virtio_uml.device={socket}:1"))
            }
            (Self::Tap(tap, path, mtu), _) => {
                // Its driver allows no larger MTU later.
                let device = format!("vec0:transport=tap,ifname={tap},mtu={mtu},depth=128,gro=1");
                user_mode_linux(world::in_net(OUTSIDE, LINUX), path, &device)
            }
        }
    }
}

/// The kernel that is a program.
const LINUX: &str = "/run/guests/uml/linux";

fn user_mode_linux(mut command: Command, path: &str, device: &str) -> Result<Command> {
    // Each guest has a folder for its control socket.
    let folder = format!("{path}.uml");
    fs::create_dir_all(&folder)?;
    std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).or_else(|_| {
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))
    })?;
    command.args(["mem=512M", &format!("initrd={IMAGES}/uml/initramfs")]);
    command.args([&format!("uml_dir={folder}/"), device]);
    command.args(["con=null", "con0=fd:0,fd:1", "quiet", "panic=-1"]);
    // Finding out how to compute RAID checksums takes most of a boot; by its older name, too.
    command.arg("initcall_blacklist=raid6_init,raid6_select_algo");
    Ok(command)
}

fn qemu(socket: &str) -> Command {
    let mut command = world::ordinary("qemu-system-x86_64");
    command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults"]);
    command.args(["-nographic", "-serial", "stdio", "-no-reboot"]);
    command.args(["-kernel", &format!("{IMAGES}/qemu/linux"), "-initrd", QEMU_INITRAMFS]);
    command.args(["-append", "console=ttyS0 panic=-1 quiet"]);
    let stream = format!("stream,id=n,server=off,addr.type=unix,addr.path={socket}");
    command.args(["-netdev", &stream, "-device", "virtio-net-pci,netdev=n,romfile="]);
    command
}

/// A running guest.
pub struct Guest {
    console: Task,
    commands: u64,
}

impl Guest {
    /// Boots a guest with the host's addresses.
    ///
    /// # Errors
    /// When it does not boot.
    pub fn boot(machine: Machine, wire: Wire<'_>, mtu: u32, log: &File) -> Result<Self> {
        let console = Task::start("guest", wire.command(machine)?, log)?;
        let mut guest = Self { console, commands: 0 };
        guest.console.wait_line("#ready", BOOT)?;
        if machine == Machine::Uml {
            guest.run("mkdir /n && mount -t hostfs -o /run/bin none /n", SHORT)?;
        }
        guest.run(world::SYSCTLS, SHORT)?;
        let settings = [
            "cd /proc/sys/net/ipv6/conf/$IF && echo 0 >accept_dad && echo 0 >accept_ra".to_owned(),
            format!("ip link set $IF mtu {mtu} up"),
            format!("ip addr add {HOST4}/24 dev $IF && ip route add default via {GATEWAY4}"),
            format!("ip -6 addr add {HOST6}/64 dev $IF"),
            format!("ip -6 route add default via {GATEWAY6} dev $IF && settled"),
        ];
        guest.run(&settings.join(" && "), SHORT)?;
        Ok(guest)
    }

    /// Runs a line; returns what it printed.
    ///
    /// # Errors
    /// When it fails or takes too long, with what it printed.
    pub fn run(&mut self, line: &str, within: Duration) -> Result<String> {
        self.commands += 1;
        let marker = format!("#{} ", self.commands);
        self.console.tell(&format!("{} {line}", self.commands))?;
        let mut printed = String::new();
        loop {
            let next = self.console.line(within)?;
            match next.strip_prefix(&marker) {
                Some("0") => return Ok(printed),
                Some(status) => {
                    return Err(
                        format!("in the guest, '{line}' ({status}): {}", printed.trim()).into()
                    );
                }
                None => printed = printed + &next + "\n",
            }
        }
    }
}
