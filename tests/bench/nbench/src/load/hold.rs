//! `nbench hold`: many connections that do nothing, until the input ends; then one byte on each.

use std::error::Error;
use std::io::{Read, Write};
use std::net::SocketAddr;

use super::echo;
use crate::args::Args;
use crate::report::Held;

/// Says `holding` as soon as all connections are there.
///
/// # Errors
/// Why not all connections could be made.
pub fn run(to: SocketAddr, words: &[&str]) -> Result<Held, Box<dyn Error>> {
    let args = Args::parse(words, &["count"])?;
    super::raise_descriptor_limit();
    let mut held = echo::connect_idle(to, args.value("count", 1000)?)?;
    println!("holding");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let answered = held.iter_mut().filter_map(|socket| echo::exchange(socket).ok()).count();
    Ok(Held { connections: held.len() as u64, answered: answered as u64 })
}
