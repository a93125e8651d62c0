//! What processes use: processor time from `schedstat`, which is exact to the nanosecond, and
//! memory from `smaps`. And what the whole machine does, from `/proc/stat`: the kernel
//! does part of a daemon's work at the expense of others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Result;

/// Ticks of `/proc/stat` in a second (USER_HZ of every architecture that runs this).
const TICKS_PER_S: f64 = 100.0;

/// A point in time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time of the daemon, in seconds.
    pub daemon_s: f64,
    /// Time in which the daemon could have gone on, but others had the processors, in seconds.
    pub waited_s: f64,
    /// Processor time of everything, in seconds.
    pub system_s: f64,
    /// Time in which the machine was not given its processors, in seconds.
    pub steal_s: f64,
    /// All time of all processors, in seconds.
    pub all_s: f64,
}

impl Usage {
    /// Reads everything, for the daemon `id` and its descendants.
    ///
    /// # Errors
    /// When the daemon is gone.
    pub fn read(id: Option<u32>) -> Result<Self> {
        let (mut daemon_ns, mut waited_ns) = (0, 0);
        for process in id.map(family).unwrap_or_default() {
            let (ran, waited) = processor_ns(process);
            (daemon_ns, waited_ns) = (daemon_ns + ran, waited_ns + waited);
        }
        if id.is_some() && daemon_ns == 0 {
            return Err("the daemon has ended".into());
        }
        let (daemon_s, waited_s) = (daemon_ns as f64 * 1e-9, waited_ns as f64 * 1e-9);
        Ok(Self { daemon_s, waited_s, ..system()? })
    }

    /// What was used since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            daemon_s: self.daemon_s - before.daemon_s,
            waited_s: self.waited_s - before.waited_s,
            system_s: self.system_s - before.system_s,
            steal_s: self.steal_s - before.steal_s,
            all_s: self.all_s - before.all_s,
        }
    }
}

fn system() -> Result<Usage> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        first.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks[..] else {
        return Err("/proc/stat is not as proc(5) says".into());
    };
    let busy = user + nice + system + irq + softirq;
    Ok(Usage {
        daemon_s: 0.0,
        waited_s: 0.0,
        system_s: busy / TICKS_PER_S,
        steal_s: steal / TICKS_PER_S,
        all_s: (busy + idle + iowait + steal) / TICKS_PER_S,
    })
}

/// A process and all its descendants.
fn family(id: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if let Some(parent) = parent_of(process) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut all = vec![id];
    let mut at = 0;
    while let Some(next) = all.get(at).copied() {
        all.extend(children.get(&next).into_iter().flatten());
        at += 1;
    }
    all
}

/// The fourth field of `stat`; the second is a name that may hold anything.
fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Of all threads: how long they ran, and how long they waited for a processor.
fn processor_ns(process: u32) -> (u64, u64) {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    tasks.fold((0, 0), |(ran, waited), task| {
        let more = first_numbers(&task.path().join("schedstat"));
        (ran + more.0, waited + more.1)
    })
}

fn first_numbers(path: &Path) -> (u64, u64) {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Memory of a daemon and its descendants, in KiB. Shared mappings are left out: a vhost-user
/// front-end shares its guest's memory, whose pages count for the daemon as soon as it has moved a
/// frame through them (3.6 of 11 MiB under a User-Mode Linux guest), though they are the guest's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Proportional set size: pages of a program's file, which several may run, in equal parts.
    pub pss_kib: f64,
    /// Unique set size: pages that nobody shares.
    pub uss_kib: f64,
}

impl Memory {
    /// # Errors
    /// When the kernel does not tell.
    pub fn read(id: u32) -> Result<Self> {
        let mut sum = Self::default();
        for process in family(id) {
            // A descendant may have ended.
            let text = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap_or_default();
            sum.add(&text);
        }
        if sum.pss_kib > 0.0 {
            Ok(sum)
        } else {
            Err("the daemon has ended, or does not show its memory".into())
        }
    }

    /// Adds what the text of a `smaps` file (proc(5)) says.
    fn add(&mut self, smaps: &str) {
        let mut shared = false;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(second)) = (words.next(), words.next()) else { continue };
            let sum = match name {
                "Pss:" => &mut self.pss_kib,
                "Private_Clean:" | "Private_Dirty:" => &mut self.uss_kib,
                // A mapping begins: addresses and permissions.
                _ if !name.ends_with(':') => {
                    shared = second.ends_with('s');
                    continue;
                }
                _ => continue,
            };
            if !shared {
                *sum += second.parse().unwrap_or(0.0);
            }
        }
    }
}

/// Descriptors that a daemon and its descendants have.
///
/// # Errors
/// They cannot be seen: a daemon that cannot be dumped shows them to root alone.
pub fn descriptors(id: u32) -> Result<usize> {
    let mut sum = 0;
    for process in family(id) {
        match fs::read_dir(format!("/proc/{process}/fd")) {
            Ok(entries) => sum += entries.count(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(format!(
                    "cannot see a daemon's descriptors ({error}): run this as root"
                )
                .into());
            }
        }
    }
    Ok(sum)
}

/// Memory that the kernel itself uses for objects, in KiB.
pub fn slab_kib() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Slab:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_memory_is_not_the_daemons() {
        let mut memory = Memory::default();
        memory.add(
            "55d0-55e0 rw-p 00000000 00:00 0  [heap]\nPss:  100 kB\nPss_Dirty:  90 kB\nPrivate_Dirty:  80 kB\nVmFlags: rd wr\n\
             7f00-7f10 rw-s 00000000 00:28 41  /run/guest:s (deleted)\nPss:  3000 kB\nPrivate_Dirty:  2000 kB\n\
             7f20-7f30 r-xp 00000000 00:28 31  /usr/bin/passt\nPss:  5 kB\nPrivate_Clean:  2 kB\nPrivate_Dirty:  0 kB\n",
        );
        assert_eq!((memory.pss_kib, memory.uss_kib), (105.0, 82.0));
    }

    #[test]
    fn this_process_uses_something_and_has_children() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let me = std::process::id();
        assert!(family(me).contains(&child.id()));
        assert!(Usage::read(Some(me)).unwrap().daemon_s > 0.0);
        assert!(Memory::read(me).unwrap().uss_kib > 100.0);
        assert!(descriptors(me).unwrap() > 2);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Usage::read(Some(child.id())).is_err());
    }
}
