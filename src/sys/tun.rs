//! Opening a tap device (linux/if_tun.h): its name, the virtio-net header in front of each frame,
//! and what its kernel may leave to the reader.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use passt_legacy::Offloads;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::socket::last_errno;
use crate::flow::fwd::InterfaceName;

/// The device that makes tap devices.
pub(crate) const DEVICE: &str = "/dev/net/tun";

const HEADER_BYTES: libc::c_int = passt_frame::net_header::HEADER_BYTES as libc::c_int;

/// Both are little endian, whatever the machine is (virtio 1.2, section 1.4).
const LITTLE_ENDIAN: libc::c_int = 1;

const TSO: libc::c_uint = libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const USO: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Frames with a header, and nothing that the kernel leaves to us.
const HEADER_ONLY: Offloads = Offloads { header: true, checksum: false, tcp: false, udp: false };

/// Sets of offloads, the best first; kernels before 6.2 know no USO.
const SETS: [Offloads; 3] = [
    Offloads { checksum: true, tcp: true, udp: true, ..HEADER_ONLY },
    Offloads { checksum: true, tcp: true, ..HEADER_ONLY },
    Offloads { checksum: true, ..HEADER_ONLY },
];

/// What the kernel is asked about a new tap device, in this order. What it refuses of a header makes
/// for a device without one; of offloads, the next smaller set is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `TUNSETIFF`: make the interface.
    Interface {
        /// With a virtio-net header in front of each frame.
        header: bool,
    },
    /// `TUNSETVNETHDRSZ`: the header's size.
    HeaderSize,
    /// `TUNSETVNETLE`: its byte order.
    HeaderOrder,
    /// `TUNSETOFFLOAD`: what may be left to us.
    Offloads(Offloads),
}

/// A tap device that is open.
#[derive(Debug)]
pub struct Tap {
    /// Its descriptor, which does not block.
    pub(crate) fd: OwnedFd,
    /// What its kernel leaves to us.
    pub(crate) offloads: Offloads,
    /// Its name.
    pub(crate) name: InterfaceName,
}

/// Makes a tap device in the network namespace of the calling thread. It lives as long as the
/// descriptor.
///
/// # Errors
/// What open(2) says of [`DEVICE`], or the kernel of the name: `BUSY` when it is taken.
pub fn open_tap(name: &InterfaceName) -> Result<Tap, Errno> {
    let (fd, offloads) = open_tap_by(&mut |device, step| ask(device, name, step))?;
    Ok(Tap { fd, offloads, name: *name })
}

/// Like [`open_tap`], where `ask` does each step, or refuses it as an older kernel would.
///
/// # Errors
/// What open(2) says of [`DEVICE`], or `ask` of an interface without a header.
pub fn open_tap_by(
    ask: &mut dyn FnMut(BorrowedFd<'_>, Step) -> Result<(), Errno>,
) -> Result<(OwnedFd, Offloads), Errno> {
    let open = || open(DEVICE, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let device = open()?;
    if ask(device.as_fd(), Step::Interface { header: true }).is_ok()
        && let Ok(offloads) = agree(device.as_fd(), ask)
    {
        return Ok((device, offloads));
    }
    // An interface is made once for each descriptor; the one with a header goes with its own.
    drop(device);
    let device = open()?;
    ask(device.as_fd(), Step::Interface { header: false })?;
    Ok((device, Offloads::default()))
}

/// Agrees with the kernel on the header in front of each frame, and on as many offloads as it has.
fn agree(
    device: BorrowedFd<'_>,
    ask: &mut dyn FnMut(BorrowedFd<'_>, Step) -> Result<(), Errno>,
) -> Result<Offloads, Errno> {
    ask(device, Step::HeaderSize)?;
    ask(device, Step::HeaderOrder)?;
    let agreed = SETS.into_iter().find(|&set| ask(device, Step::Offloads(set)).is_ok());
    Ok(agreed.unwrap_or(HEADER_ONLY))
}

/// Does one step for the device called `name`.
///
/// # Errors
/// What ioctl(2) reports.
pub fn ask(device: BorrowedFd<'_>, name: &InterfaceName, step: Step) -> Result<(), Errno> {
    match step {
        Step::Interface { header } => {
            let header = if header { libc::IFF_VNET_HDR } else { 0 };
            let flags = libc::IFF_TAP | libc::IFF_NO_PI | header;
            set_interface(device, name, flags as libc::c_short)
        }
        Step::HeaderSize => set_number(device, libc::TUNSETVNETHDRSZ, HEADER_BYTES),
        Step::HeaderOrder => set_number(device, libc::TUNSETVNETLE, LITTLE_ENDIAN),
        Step::Offloads(offloads) => {
            let bit = |set: bool, bits: libc::c_uint| if set { bits } else { 0 };
            let bits = bit(offloads.checksum, libc::TUN_F_CSUM)
                | bit(offloads.tcp, TSO)
                | bit(offloads.udp, USO);
            set_offloads(device, bits)
        }
    }
}

/// Takes a tap device that another process has made and handed over. It must be one without packet
/// information (`IFF_NO_PI`): in what `TUNGETIFF` answers, that bit stands for something else, too.
///
/// # Errors
/// `NOTTY` or `BADFD` for what is no such device; `INVAL` for one of IP packets; what the kernel says of
/// the header.
pub(crate) fn adopt(fd: OwnedFd) -> Result<Tap, Errno> {
    // SAFETY: an all-zero ifreq is valid: an empty name and integers.
    let mut found: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one ifreq, a live local; other files do not know the request.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut found) } != 0 {
        return Err(last_errno());
    }
    // SAFETY: this request fills in the flags.
    let flags = libc::c_int::from(unsafe { found.ifr_ifru.ifru_flags });
    let bytes = found.ifr_name.iter().take_while(|byte| **byte != 0);
    let name = String::from_utf8(bytes.map(|byte| *byte as u8).collect());
    let name = name.ok().and_then(|name| InterfaceName::new(&name)).ok_or(Errno::INVAL)?;
    if flags & libc::IFF_TAP == 0 {
        return Err(Errno::INVAL);
    }
    rustix::io::ioctl_fionbio(&fd, true)?;
    let offloads = match flags & libc::IFF_VNET_HDR {
        0 => Offloads::default(),
        _ => agree(fd.as_fd(), &mut |device, step| ask(device, &name, step))?,
    };
    Ok(Tap { fd, offloads, name })
}

fn set_interface(
    device: BorrowedFd<'_>,
    name: &InterfaceName,
    flags: libc::c_short,
) -> Result<(), Errno> {
    // SAFETY: an all-zero ifreq is valid: an empty name and integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The name has at most IFNAMSIZ - 1 bytes, so a zero follows it.
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the kernel reads and writes one ifreq, a live local.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

fn set_number(
    device: BorrowedFd<'_>,
    request: libc::Ioctl,
    value: libc::c_int,
) -> Result<(), Errno> {
    // SAFETY: the kernel reads one integer, a live local.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), request, &raw const value) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}

fn set_offloads(device: BorrowedFd<'_>, bits: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: this request takes its argument by value.
    let rc =
        unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) };
    if rc == 0 { Ok(()) } else { Err(last_errno()) }
}
