//! The queue pairs of a network device, by the requests of ethtool (linux/ethtool.h): how many are in use,
//! and how many packets each has moved.

use std::fs;
use std::io::{Error, Result};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use crate::Outcome;

/// Requests of `SIOCETHTOOL`.
const STRINGS_INFO: u32 = 0x37;
const STRINGS: u32 = 0x1b;
const STATS: u32 = 0x1d;
const CHANNELS: u32 = 0x3c;
const SET_CHANNELS: u32 = 0x3d;

/// The set of names that belong to `STATS`.
const NAMES_OF_STATS: u32 = 1;

/// Bytes of a name.
const NAME_BYTES: usize = 32;

/// Places of `struct ethtool_channels` as 32-bit words, and how many those are.
const MAX_COMBINED: usize = 4;
const COMBINED: usize = 8;
const CHANNEL_WORDS: usize = 9;

/// `struct ifreq`: a name, then a pointer to the request.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u32,
    unused: [u8; 16],
}

/// A device and a socket to ask about it.
struct Device {
    socket: UdpSocket,
    name: [u8; libc::IFNAMSIZ],
}

impl Device {
    fn new(interface: &str) -> Result<Self> {
        let mut name = [0; libc::IFNAMSIZ];
        let len = interface.len().min(libc::IFNAMSIZ - 1);
        name[..len].copy_from_slice(&interface.as_bytes()[..len]);
        Ok(Self { socket: UdpSocket::bind("127.0.0.1:0")?, name })
    }

    /// Makes the request in `words`, which has room for the answer.
    fn ask(&self, words: &mut [u32]) -> Result<()> {
        let mut request =
            InterfaceRequest { name: self.name, data: words.as_mut_ptr(), unused: [0; 16] };
        let fd = self.socket.as_raw_fd();
        // SAFETY: the kernel reads a request of the kind that the first word says and writes its answer
        // behind it; every caller has room for that.
        let done = unsafe { libc::ioctl(fd, libc::SIOCETHTOOL, &raw mut request) };
        if done < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Pairs that are in use, and pairs that there are.
    fn channels(&self) -> Result<[u32; CHANNEL_WORDS]> {
        let mut words = [0; CHANNEL_WORDS];
        words[0] = CHANNELS;
        self.ask(&mut words)?;
        Ok(words)
    }

    fn use_pairs(&self, pairs: u32) -> Result<()> {
        let mut words = self.channels()?;
        words[0] = SET_CHANNELS;
        words[COMBINED] = pairs;
        self.ask(&mut words)
    }

    /// Name and value of each counter.
    fn counters(&self) -> Result<Vec<(String, u64)>> {
        // Command, reserved, a mask of 64 bits, one length.
        let mut info = [STRINGS_INFO, 0, 1 << NAMES_OF_STATS, 0, 0];
        self.ask(&mut info)?;
        let count = info[4] as usize;
        let mut names = vec![0; 3 + count * NAME_BYTES / 4];
        names[..3].copy_from_slice(&[STRINGS, NAMES_OF_STATS, count as u32]);
        self.ask(&mut names)?;
        // The header of the values is as long as one of them.
        let mut values = vec![0; 2 + 2 * count];
        values[..2].copy_from_slice(&[STATS, count as u32]);
        self.ask(&mut values)?;
        let bytes: Vec<u8> = names[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        let value = |words: &[u32]| u64::from(words[0]) | u64::from(words[1]) << 32;
        let values = values[2..].chunks(2).map(value);
        Ok(bytes.chunks(NAME_BYTES).map(name).zip(values).collect())
    }

    /// What each queue of one way, `rx` or `tx`, has moved, by number: packets; where the driver does not count them
    /// for ethtool any more (Linux 6.10), how often the device was told of its frames, and the driver of the device's.
    fn moved(&self, way: &str) -> Result<String> {
        let counters = self.counters()?;
        let interrupts = fs::read_to_string("/proc/interrupts")?;
        let count = |names: &[String]| {
            counters.iter().find(|(name, _)| names.contains(name)).map(|(_, value)| *value)
        };
        let mut line = way.to_owned();
        for queue in 0.. {
            let packets = [format!("{way}_queue_{queue}_packets"), format!("{way}{queue}_packets")];
            let told = || match way {
                "tx" => count(&[format!("tx{queue}_kicks")]),
                _ => interrupts_of(&interrupts, &format!("-input.{queue}")),
            };
            let Some(moved) = count(&packets).or_else(told) else { break };
            line += &format!(" {moved}");
        }
        Ok(line)
    }
}

/// How often the interrupt whose name ends with `name` came, on all processors (proc_interrupts(5)).
fn interrupts_of(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find(|line| line.trim_end().ends_with(name))?;
    let counts = line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
    Some(counts.sum())
}

/// Says how many pairs the driver uses and how many packets each queue has moved; with `pairs`, has it use
/// so many first.
pub fn queues(interface: &str, pairs: Option<u32>) -> Outcome {
    if !fs::exists(format!("/sys/class/net/{interface}"))? {
        return Err(format!("there is no interface '{interface}'").into());
    }
    let device = Device::new(interface)?;
    if let Some(pairs) = pairs {
        device.use_pairs(pairs)?;
    }
    let words = device.channels()?;
    let (used, most) = (words[COMBINED], words[MAX_COMBINED]);
    Ok(format!("pairs {used} of {most}\n{}\n{}", device.moved("rx")?, device.moved("tx")?))
}
