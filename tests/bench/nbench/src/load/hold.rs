//! `nbench hold`: many connections that do nothing, for some time; then one byte on each.

use std::error::Error;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::echo;
use crate::args::Args;
use crate::report::Held;

/// Descriptors beside connections.
const SPARE: u64 = 64;

/// Says `holding` as soon as all connections are there; without a count, as many as there can be.
///
/// # Errors
/// Why not all connections could be made that were asked for.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Held, Box<dyn Error>> {
    let args = Args::parse(words, &["count", "seconds"])?;
    let count = args.value("count", 1000)?;
    super::raise_descriptor_limit_to(if count == 0 { 0 } else { count as u64 + SPARE });
    let begin = Instant::now();
    let (mut held, ended) = match count {
        0 => ramp(to),
        count => (echo::connect_idle(to, count)?, String::new()),
    };
    let ramp_s = begin.elapsed().as_secs_f64();
    println!("holding {}", held.len());
    std::io::stdout().flush()?;
    std::thread::sleep(Duration::try_from_secs_f64(args.value("seconds", 5.0)?)?);
    let answered = held.iter_mut().filter_map(|socket| echo::exchange(socket).ok()).count();
    Ok(Held { connections: held.len() as u64, answered: answered as u64, ramp_s, ended })
}

/// Makes connections until one fails, and says why it did.
fn ramp(to: SocketAddr) -> (Vec<TcpStream>, String) {
    let mut held = Vec::new();
    loop {
        let next = echo::connect(to).and_then(|mut socket| {
            echo::exchange(&mut socket)?;
            Ok(socket)
        });
        match next {
            Ok(socket) => held.push(socket),
            Err(error) => return (held, error.to_string()),
        }
    }
}
