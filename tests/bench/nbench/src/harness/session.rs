//! A run: every cell, in blocks in which the peers take turns there and back (A B B A), so that
//! what changes slowly in the machine meets all of them alike.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Result;
use super::cells::{Cell, SOAK, Work};
use super::guest::Machine;
use super::measure::{Times, measure};
use super::peers::{Peer, Program};
use super::process::run;
use super::results::{Block, CellResult, Metric, NOISE, Results, Run, Sample};
use super::rig::Setup;
use super::usage::Usage;

/// Ports of servers are new for each sample, so that no connection that has ended is in the
/// way; below those that the kernel gives out.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
/// How long it is looked whether the machine is idle.
const LOOK: Duration = Duration::from_millis(200);

/// What to run, and where to put what comes of it.
pub struct Session {
    /// The command line.
    pub command: String,
    /// The cells were asked for as those of all targets.
    pub all_targets: bool,
    pub cells: Vec<Cell>,
    pub peers: Vec<Peer>,
    pub blocks: usize,
    /// Whether each peer runs once in a block instead of there and back.
    pub once: bool,
    pub times: Times,
    pub folder: PathBuf,
    pub next_port: u16,
    /// The processor that daemons are bound to, if any.
    pub daemon_processor: Option<usize>,
}

impl Session {
    /// Runs all cells. The results are also in the folder, after each cell.
    ///
    /// # Errors
    /// When results cannot be written; what fails in a cell is a result.
    pub fn run(&mut self) -> Result<Results> {
        let begin = Instant::now();
        let (date, command) = (date()?, self.command.clone());
        let mut results = Results {
            runs: vec![Run { date, command, all_targets: self.all_targets, ..Run::default() }],
            machine: machine(),
            peers: self.peers.iter().map(|peer| (peer.name.clone(), version(peer))).collect(),
            cells: Vec::new(),
        };
        let cells = std::mem::take(&mut self.cells);
        for (number, cell) in cells.iter().enumerate() {
            let missing = Machine::of(cell.mode).filter(|machine| !machine.is_available());
            if let Some(machine) = missing {
                let machine = machine.name();
                eprintln!("NOT RUN: {}: no guest (tests/guests/fetch.sh {machine})", cell.id);
                continue;
            }
            let place = format!("[{}/{}]", number + 1, cells.len());
            results.cells.push(self.run_cell(cell, &place)?);
            if let (Some(run), Work::Load(_)) = (results.runs.first_mut(), cell.work) {
                let samples = results.cells.last().map_or(0, |cell| cell.samples.len());
                run.measured_s += samples as f64 * self.times.of(cell).all_s();
            }
            if let Some(run) = results.runs.first_mut() {
                run.wall_s = begin.elapsed().as_secs_f64();
            }
            let text = serde_json::to_string_pretty(&results)?;
            fs::write(self.folder.join("results.json"), text)?;
        }
        Ok(results)
    }

    fn run_cell(&mut self, cell: &Cell, place: &str) -> Result<CellResult> {
        let metric = Metric::of(cell);
        let mut result = CellResult {
            id: cell.id.clone(),
            group: cell.group.to_string(),
            metric,
            ..CellResult::default()
        };
        let peers: Vec<Peer> = self.peers.iter().filter(|peer| peer.can(cell)).cloned().collect();
        let (blocks, once) = if cell.group == SOAK { (1, true) } else { (self.blocks, self.once) };
        for block in 0..blocks {
            result.blocks.push(look_at_machine()?);
            for peer in turns(&peers, block, once) {
                let sample = self.sample(peer, cell, block)?;
                tell(place, blocks, &result, &sample);
                result.samples.push(sample);
            }
        }
        Ok(result)
    }

    fn sample(&mut self, peer: &Peer, cell: &Cell, block: usize) -> Result<Sample> {
        // A thousand ports are forwarded at most.
        self.next_port =
            if self.next_port + 1000 > PORTS.end { PORTS.start } else { self.next_port + 2 };
        let log = format!("{}.{}.{block}.log", cell.id, peer.name);
        let log =
            File::options().append(true).create(true).open(self.folder.join("logs").join(log))?;
        let processor = self.daemon_processor;
        let (port, copy) = (self.next_port, log.try_clone()?);
        let setup = Setup { peer, cell, port, log: copy, block, processor };
        let begin = Instant::now();
        let mut sample = measure(&setup, self.times).unwrap_or_else(|error| {
            // The log is an aid; without it there is still the result.
            let _ = writeln!(&log, "bench: {error}");
            Sample { error: Some(error.to_string()), ..Sample::default() }
        });
        (sample.peer, sample.block) = (peer.name.clone(), block);
        sample.wall_s = begin.elapsed().as_secs_f64();
        Ok(sample)
    }
}

/// The first port of a session.
pub const FIRST_PORT: u16 = PORTS.start;

/// There and back, beginning with another peer in every other block; the limit once.
fn turns(peers: &[Peer], block: usize, once: bool) -> Vec<&Peer> {
    let (direct, mut there): (Vec<&Peer>, Vec<&Peer>) =
        peers.iter().partition(|peer| peer.program == Program::Direct);
    if block % 2 == 1 {
        there.reverse();
    }
    let back: Vec<&Peer> = if once { Vec::new() } else { there.iter().rev().copied().collect() };
    there.into_iter().chain(back).chain(direct).collect()
}

/// One line for each sample, while it runs.
fn tell(place: &str, blocks: usize, cell: &CellResult, sample: &Sample) {
    let found = match (&sample.value, &sample.error) {
        (Some(value), _) => format!("{value:.3} {}", cell.metric.unit),
        (None, error) => format!("FAILED: {}", error.as_deref().unwrap_or("no value")),
    };
    let cpu =
        sample.cpu.map(|cpu| format!(", {cpu:.3} {}", cell.metric.cpu_unit)).unwrap_or_default();
    let noisy = cell.blocks.last().is_some_and(|block| block.busy > NOISE);
    let noisy = if noisy { " (noisy)" } else { "" };
    let block = sample.block + 1;
    eprintln!("{place} {block}/{blocks} {} {}: {found}{cpu}{noisy}", cell.id, sample.peer);
}

/// What others do, and how fast the machine is just now.
fn look_at_machine() -> Result<Block> {
    let before = Usage::read(None)?;
    std::thread::sleep(LOOK);
    let used = Usage::read(None)?.since(&before);
    let all = used.all_s.max(0.01);
    Ok(Block { busy: used.system_s / all, steal: used.steal_s / all, work_us: fixed_work() })
}

/// Copies and system calls, in microseconds.
fn fixed_work() -> f64 {
    let (from, mut to) = (vec![1_u8; 65536], vec![0_u8; 65536]);
    let begin = Instant::now();
    for _ in 0..200 {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        black_box(rustix::process::getppid());
    }
    begin.elapsed().as_secs_f64() * 1e6
}

fn date() -> Result<String> {
    let mut date = Command::new("date");
    date.args(["-u", "+%Y-%m-%d %H:%M UTC"]);
    Ok(run(date)?.trim().to_owned())
}

fn machine() -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let models: Vec<&str> = cpuinfo.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models
        .first()
        .and_then(|line| line.split_once(':'))
        .map_or("unknown", |(_, name)| name.trim());
    let sysctl = |name: &str| {
        let text = read(&format!("/proc/sys/net/{}", name.replace('.', "/")));
        format!("net.{name} = {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let kernel = read("/proc/sys/kernel/osrelease");
    let memory = read("/proc/meminfo");
    let memory_kib: f64 =
        memory.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0.0);
    let shape = format!("{} x {model}, {:.1} GiB", models.len(), memory_kib / f64::from(1 << 20));
    let mut lines = vec![format!("Linux {}", kernel.trim()), shape];
    lines.extend(["ipv4.tcp_rmem", "ipv4.tcp_wmem", "ipv4.tcp_congestion_control"].map(sysctl));
    lines
}

fn version(peer: &Peer) -> String {
    let program = match &peer.program {
        Program::Passt(folder) => folder.join("passt"),
        Program::Slirp4netns => "slirp4netns".into(),
        Program::Libslirp => "qemu-system-x86_64".into(),
        Program::Direct => {
            return "client and server face to face, over veth or loopback".to_owned();
        }
    };
    let output = Command::new(&program).arg("--version").output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let size = fs::metadata(&program).map(|data| format!(", {} KiB", data.len() / 1024));
    text.lines().next().unwrap_or_default().to_owned() + &size.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_take_turns_there_and_back() {
        let peer = |name: &str, program| Peer { name: name.to_owned(), program };
        let peers = [
            peer("a", Program::Slirp4netns),
            peer("b", Program::Libslirp),
            peer("limit", Program::Direct),
        ];
        let names = |block, once| -> Vec<&str> {
            turns(&peers, block, once).into_iter().map(|peer| peer.name.as_str()).collect()
        };
        assert_eq!(names(0, false), ["a", "b", "b", "a", "limit"]);
        assert_eq!(names(1, false), ["b", "a", "a", "b", "limit"]);
        assert_eq!(names(0, true), ["a", "b", "limit"]);
    }
}
