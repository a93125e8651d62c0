//! `nbench hold`: many connections that do nothing, for some time; then one byte on each.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::echo;
use crate::args::Args;
use crate::report::Held;

/// Says `holding` as soon as all connections are there.
///
/// # Errors
/// Why not all connections could be made.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Held, Box<dyn Error>> {
    let args = Args::parse(words, &["count", "seconds"])?;
    super::raise_descriptor_limit();
    let mut held = echo::connect_idle(to, args.value("count", 1000)?)?;
    println!("holding");
    std::io::stdout().flush()?;
    std::thread::sleep(Duration::try_from_secs_f64(args.value("seconds", 5.0)?)?);
    let answered = held.iter_mut().filter_map(|socket| echo::exchange(socket).ok()).count();
    Ok(Held { connections: held.len() as u64, answered: answered as u64 })
}
