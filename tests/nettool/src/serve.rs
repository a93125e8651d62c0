//! The server: for each address, the TCP request protocol and a UDP echo.
//!
//! Requests are one line; what follows depends on it:
//!
//! | request            | the server |
//! |--------------------|------------|
//! | `get BYTES SEED`   | sends the pattern and closes |
//! | `put BYTES SEED`   | reads to the end, answers `ok` or what was wrong |
//! | `slow BYTES SEED`  | as `put`, reading 64 KiB at a time with pauses |
//! | `late BYTES SEED`  | half-closes at once, then reads as `put`, keeps the verdict |
//! | `verdict SEED`     | answers with a kept verdict |
//! | `echo`             | sends back what it reads |

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::Outcome;
use crate::pattern::Pattern;
use crate::tcp::{CHUNK, PATIENCE, send_pattern};

/// How long a slow reader sleeps between two reads of [`CHUNK`] bytes.
const SLOW_PAUSE: Duration = Duration::from_millis(10);

type Verdicts = Arc<Mutex<HashMap<u64, String>>>;

/// Serves until killed. Prints `ready` when every socket is bound.
pub fn serve(addresses: &[SocketAddr]) -> Outcome {
    let verdicts = Verdicts::default();
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

fn accept_all(listener: &TcpListener, verdicts: &Verdicts) {
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
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |place: usize| {
        let word = words.get(place).and_then(|word| word.parse::<u64>().ok());
        word.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, format!("bad request: {line}")))
    };
    match words.first().copied() {
        Some("get") => send_pattern(stream, number(1)?, number(2)?),
        Some("put") => {
            writeln!(writer, "{}", verdict(&mut reader, number(1)?, number(2)?, Duration::ZERO))
        }
        Some("slow") => {
            writeln!(writer, "{}", verdict(&mut reader, number(1)?, number(2)?, SLOW_PAUSE))
        }
        Some("late") => {
            stream.shutdown(Shutdown::Write)?;
            let found = verdict(&mut reader, number(1)?, number(2)?, Duration::ZERO);
            kept(verdicts).insert(number(2)?, found);
            Ok(())
        }
        Some("verdict") => {
            let found = kept(verdicts).remove(&number(1)?);
            writeln!(writer, "{}", found.as_deref().unwrap_or("none"))
        }
        Some("echo") => io::copy(&mut reader, &mut writer).map(drop),
        _ => number(usize::MAX).map(drop),
    }
}

fn kept(verdicts: &Verdicts) -> std::sync::MutexGuard<'_, HashMap<u64, String>> {
    verdicts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads to the end of the stream and says `ok` or what was wrong with it.
fn verdict(reader: &mut impl Read, bytes: u64, seed: u64, pause: Duration) -> String {
    match receive_pattern(reader, seed, pause) {
        Ok(found) if found == bytes => "ok".to_owned(),
        Ok(found) => format!("{found} bytes instead of {bytes}"),
        Err(error) => error.to_string(),
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
