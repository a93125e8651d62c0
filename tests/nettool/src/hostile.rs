//! Clients of a control socket that are not well, or mean no good: half messages, wrong sizes, requests whose answers
//! nobody reads, bytes one by one, and who leaves at once.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::Outcome;

/// What a client of the configuration protocol says that wants as many rules as the number holds.
const MANY_RULES: &[u8] = &[1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0];

/// `clients` at a time at each of `paths`, for so long. Says how many there were; the promise is that each path was
/// found, again and again.
pub fn clients(time: Duration, clients: usize, paths: &[&str]) -> Outcome {
    let counts: Vec<Arc<AtomicU64>> = paths.iter().map(|_| Arc::default()).collect();
    for (path, count) in paths.iter().zip(&counts) {
        for client in 0..clients {
            let (path, count) = ((*path).to_owned(), count.clone());
            let one = move || {
                for round in 0.. {
                    if UnixStream::connect(&path)
                        .is_ok_and(|stream| misbehave(stream, client + round))
                    {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            };
            // Most of them wait for a place: they have to be many, not fast.
            thread::Builder::new().stack_size(64 << 10).spawn(one)?;
        }
    }
    thread::sleep(time);
    let counts: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    if counts.contains(&0) {
        return Err(format!("a socket was never reached: {counts:?}").into());
    }
    Ok(format!("{counts:?} clients"))
}

/// One of the ways to be unwell, until it is cut off or has enough. True, for it was there.
fn misbehave(mut stream: UnixStream, way: usize) -> bool {
    let short = Some(Duration::from_millis(200));
    let _ = stream.set_write_timeout(short);
    match way % 6 {
        0 => {
            let _ = stream.write_all(b"{\"command\":");
            wait_for_the_end(&mut stream);
        }
        1 => {
            let _ = stream.write_all(MANY_RULES);
            wait_for_the_end(&mut stream);
        }
        2 => {
            while stream.write_all(b"{\"command\":\"rules\"}\n{\"command\":\"stats\"}\n").is_ok() {}
        }
        3 => while stream.write_all(&[b'x'; 4096]).is_ok() {},
        4 => {
            for _ in 0..1000 {
                if stream.write_all(b"[").is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        _ => {}
    }
    true
}

fn wait_for_the_end(stream: &mut UnixStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let mut told = [0; 4096];
    while stream.read(&mut told).is_ok_and(|count| count > 0) {}
}
