//! The server: for each address, the TCP request protocol and a UDP echo.
//!
//! Requests are one line; what follows depends on it:
//!
//! | request            | the server |
//! |--------------------|------------|
//! | `get BYTES SEED`   | sends the pattern and closes |
//! | `put BYTES SEED`   | reads to the end, answers `ok` or what was wrong |
//! | `slow BYTES SEED`  | as `put`, reading 64 KiB at a time with pauses |
//! | `late SEED`        | half-closes at once, then reads to the end; keeps the verdict, with bytes and the longest pause in ms |
//! | `drip SEED`        | sends the pattern in messages with pauses until somebody says `enough`; keeps how many bytes |
//! | `verdict SEED`     | answers with a kept verdict, `ok BYTES PAUSE` or what was wrong |
//! | `enough`           | what drips ends |
//! | `echo`             | sends back what it reads |

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::carry::{MESSAGE, STEP};
use crate::pattern::Pattern;
use crate::tcp::{CHUNK, PATIENCE, send_pattern};

/// How long a slow reader sleeps between two reads of [`CHUNK`] bytes.
const SLOW_PAUSE: Duration = Duration::from_millis(10);

/// The verdicts of `late` and `drip`, kept until they are asked for.
#[derive(Default)]
struct Verdicts {
    kept: Mutex<HashMap<u64, String>>,
    added: Condvar,
    /// How often somebody has said `enough`.
    ends: AtomicUsize,
}

impl Verdicts {
    fn keep(&self, seed: u64, verdict: String) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, verdict);
        self.added.notify_all();
    }

    /// Waits for the verdict: the last byte may still be on its way.
    fn take(&self, seed: u64) -> Option<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            self.added.wait_timeout_while(kept, PATIENCE, |kept| !kept.contains_key(&seed));
        waited.unwrap_or_else(PoisonError::into_inner).0.remove(&seed)
    }
}

/// Serves until killed. Prints `ready` when every socket is bound.
pub fn serve(addresses: &[SocketAddr]) -> Outcome {
    let verdicts = Arc::new(Verdicts::default());
    let mut threads = Vec::new();
    for &address in addresses {
        let listener = TcpListener::bind(address)?;
        let datagrams = UdpSocket::bind(address)?;
        let verdicts = Arc::clone(&verdicts);
        threads.push(thread::spawn(move || accept_all(&listener, &verdicts)));
        threads.push(thread::spawn(move || echo_datagrams(&datagrams)));
    }
    println!("ready");
    io::stdout().flush()?;
    for thread in threads {
        let _ = thread.join();
    }
    Err("the sockets were lost".into())
}

fn accept_all(listener: &TcpListener, verdicts: &Arc<Verdicts>) {
    for stream in listener.incoming().flatten() {
        let verdicts = Arc::clone(verdicts);
        thread::spawn(move || {
            if let Err(error) = answer(&stream, &verdicts) {
                eprintln!("request failed: {error}");
            }
        });
    }
}

fn answer(stream: &TcpStream, verdicts: &Verdicts) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::with_capacity(CHUNK, stream);
    let mut writer = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (command, numbers) = parse_request(&line);
    match (command, numbers.as_slice()) {
        ("get", &[bytes, seed]) => send_pattern(stream, bytes, seed),
        ("drip", &[seed]) => {
            verdicts.keep(seed, format!("ok {} 0", drip(stream, seed, &verdicts.ends)?));
            Ok(())
        }
        ("enough", &[]) => {
            verdicts.ends.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        ("put", &[bytes, seed]) => {
            writeln!(writer, "{}", judge(&mut reader, bytes, seed, Duration::ZERO))
        }
        ("slow", &[bytes, seed]) => {
            writeln!(writer, "{}", judge(&mut reader, bytes, seed, SLOW_PAUSE))
        }
        ("late", &[seed]) => {
            stream.shutdown(Shutdown::Write)?;
            let mut reader = Paused { inner: reader, begun: false, longest: Duration::ZERO };
            let verdict = match receive_pattern(&mut reader, seed, Duration::ZERO) {
                Ok(bytes) => format!("ok {bytes} {}", reader.longest.as_millis()),
                Err(error) => error.to_string(),
            };
            verdicts.keep(seed, verdict);
            Ok(())
        }
        ("verdict", &[seed]) => {
            writeln!(writer, "{}", verdicts.take(seed).as_deref().unwrap_or("none"))
        }
        ("echo", &[]) => {
            // Whoever asks decides how long.
            stream.set_read_timeout(None)?;
            io::copy(&mut reader, &mut writer).map(drop)
        }
        _ => Err(io::Error::new(ErrorKind::InvalidInput, format!("bad request: {line}"))),
    }
}

/// Sends the pattern in steps until there is one end more; the bytes sent.
fn drip(mut stream: &TcpStream, seed: u64, ends: &AtomicUsize) -> io::Result<u64> {
    let (mut pattern, mut message) = (Pattern::new(seed), [0; MESSAGE]);
    let (before, mut bytes) = (ends.load(Ordering::Relaxed), 0);
    while ends.load(Ordering::Relaxed) == before {
        pattern.fill(&mut message);
        stream.write_all(&message)?;
        bytes += MESSAGE as u64;
        thread::sleep(STEP);
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(bytes)
}

fn parse_request(line: &str) -> (&str, Vec<u64>) {
    let mut words = line.split_whitespace();
    let command = words.next().unwrap_or_default();
    (command, words.map_while(|word| word.parse().ok()).collect())
}

/// Reads to the end of the stream and says `ok` or what was wrong with it.
fn judge(reader: &mut impl Read, bytes: u64, seed: u64, pause: Duration) -> String {
    match receive_pattern(reader, seed, pause) {
        Ok(found) if found == bytes => "ok".to_owned(),
        Ok(found) => format!("{found} bytes instead of {bytes}"),
        Err(error) => error.to_string(),
    }
}

/// A reader that knows how long it has waited, once something had come.
struct Paused<R> {
    inner: R,
    begun: bool,
    longest: Duration,
}

impl<R: Read> Read for Paused<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let asked = Instant::now();
        let read = self.inner.read(buffer);
        if std::mem::replace(&mut self.begun, true) {
            self.longest = self.longest.max(asked.elapsed());
        }
        read
    }
}

/// Reads and compares to the end of the stream; the bytes read.
///
/// # Errors
/// What the stream reports; `InvalidData` at the first byte that is wrong.
pub fn receive_pattern(reader: &mut impl Read, seed: u64, pause: Duration) -> io::Result<u64> {
    let mut pattern = Pattern::new(seed);
    let (mut chunk, mut scratch) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut total = 0;
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            return Ok(total);
        }
        if !pattern.continues_with(&chunk[..count], &mut scratch) {
            let what = format!("wrong content after byte {total}");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        total += count as u64;
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut datagram = vec![0; 65536];
    loop {
        // An error here is the echo of an ICMP message: it ends one exchange.
        if let Ok((count, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..count], from);
        }
    }
}
