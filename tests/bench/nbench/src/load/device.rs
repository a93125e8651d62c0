//! Network devices: making a tun or tap device, and what a device does with segments.

use std::ffi::{CStr, c_short};
use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Frames with an Ethernet header.
pub const TAP: libc::c_int = libc::IFF_TAP;
/// Packets without one.
pub const TUN: libc::c_int = libc::IFF_TUN;

/// `struct ethtool_value` of ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// ETHTOOL_STSO, ETHTOOL_SGSO and ETHTOOL_SGRO: cut by the device, cut just before it, and
/// joined behind it.
const SET_SEGMENTATION: [u32; 3] = [0x1f, 0x24, 0x2c];

/// Makes a device of a kind. It offers no offloads, and goes when the file is closed.
///
/// # Errors
/// As open(2) and ioctl(2).
pub fn open(name: &str, kind: libc::c_int) -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as c_short;
    // SAFETY: the kernel reads and writes one ifreq, a live local.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if rc == 0 { Ok(device) } else { Err(io::Error::last_os_error()) }
}

/// The Ethernet address of a device.
///
/// # Errors
/// As ioctl(2): there is no such device, or it has none.
pub fn ethernet_address(name: &str) -> io::Result<[u8; 6]> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut request = named(name);
    // SAFETY: the kernel reads and writes one ifreq, a live local.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written an address, and any bytes are one.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    Ok(std::array::from_fn(|at| address.sa_data[at] as u8))
}

/// Whether all devices but loopback may cut and join segments.
///
/// # Errors
/// A device that refuses; one that could not anyway is no error.
pub fn set_segmentation(on: bool) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for name in names()?.iter().filter(|name| *name != "lo") {
        for command in SET_SEGMENTATION {
            let mut value = EthtoolValue { command, data: u32::from(on) };
            let mut request = named(name);
            request.ifr_ifru.ifru_data = (&raw mut value).cast();
            // SAFETY: the kernel reads one ifreq and the value that it points to, live locals.
            let rc =
                unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
            let error = io::Error::last_os_error();
            let impossible = error.raw_os_error() == Some(libc::EOPNOTSUPP);
            if rc != 0 && !impossible {
                return Err(io::Error::other(format!("{name}: {error}")));
            }
        }
    }
    Ok(())
}

fn named(name: &str) -> libc::ifreq {
    // SAFETY: an all-zero ifreq is valid: an empty name and integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let last = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..last].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// The names of all devices of this network namespace.
fn names() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    // SAFETY: there are no preconditions; the list is freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut at = list;
    // SAFETY: the list ends with an entry whose index is 0 (if_nameindex(3)).
    while let Some(entry) = unsafe { at.as_ref() }.filter(|entry| entry.if_index != 0) {
        // SAFETY: an entry's name is a string until the list is freed.
        let name = unsafe { CStr::from_ptr(entry.if_name) };
        names.push(name.to_string_lossy().into_owned());
        // SAFETY: this entry was not the last.
        at = unsafe { at.add(1) };
    }
    // SAFETY: from if_nameindex, and not used again.
    unsafe { libc::if_freenameindex(list) };
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_devices() {
        assert!(names().unwrap().iter().any(|name| name == "lo"));
        assert_eq!(ethernet_address("lo").unwrap(), [0; 6]);
        assert!(ethernet_address("none").is_err());
    }

    #[test]
    fn long_names_are_cut() {
        let request = named("a-name-of-many-letters");
        assert_eq!(request.ifr_name[request.ifr_name.len() - 1], 0);
    }
}
