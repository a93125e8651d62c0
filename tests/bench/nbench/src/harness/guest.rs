//! A User-Mode Linux guest, obeying on its console: `tests/guests/init` is its first process.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use super::Result;
use super::process::Task;
use super::world::{self, GATEWAY4, GATEWAY6, HOST4, HOST6};

/// Kernel and initramfs, as `tests/guests/fetch.sh uml` leaves them.
const IMAGES: &str = "/run/guests/uml";
/// A guest boots in one second on an idle machine.
const BOOT: Duration = Duration::from_secs(60);
/// For commands that do nothing but set something.
const SHORT: Duration = Duration::from_secs(20);

/// A running guest.
pub struct Guest {
    console: Task,
    commands: u64,
}

impl Guest {
    /// Whether there are images to boot.
    pub fn is_available() -> bool {
        Path::new(IMAGES).join("initramfs").exists()
    }

    /// Boots a guest in front of the vhost-user socket, with the host's addresses.
    ///
    /// # Errors
    /// When it does not boot.
    pub fn boot(socket: &str, mtu: u32, log: &File) -> Result<Self> {
        // Each guest has a folder for its control socket.
        let folder = format!("{socket}.uml");
        fs::create_dir_all(&folder)?;
        std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).or_else(|_| {
            fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        })?;
        let mut command = world::ordinary(&format!("{IMAGES}/linux"));
        command.args([
            "mem=512M",
            &format!("initrd={IMAGES}/initramfs"),
            &format!("uml_dir={folder}/"),
        ]);
        command.arg(format!("virtio_uml.device={socket}:1"));
        command.args(["con=null", "con0=fd:0,fd:1", "quiet", "panic=-1"]);
        let console = Task::start("guest", command, log)?;
        let mut guest = Self { console, commands: 0 };
        guest.console.wait_line("#ready", BOOT)?;
        guest.run("mkdir /n && mount -t hostfs -o /run/bin none /n", SHORT)?;
        guest.run(world::SYSCTLS, SHORT)?;
        guest.run(
            "cd /proc/sys/net/ipv6/conf/$IF && echo 0 >accept_dad && echo 0 >accept_ra",
            SHORT,
        )?;
        guest.run(&format!("ip link set $IF mtu {mtu} up"), SHORT)?;
        guest.run(
            &format!("ip addr add {HOST4}/24 dev $IF && ip route add default via {GATEWAY4}"),
            SHORT,
        )?;
        guest.run(&format!("ip -6 addr add {HOST6}/64 dev $IF"), SHORT)?;
        guest.run(&format!("ip -6 route add default via {GATEWAY6} dev $IF && settled"), SHORT)?;
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
