//! Connections of which each exchanges one small message at a time: the client's side.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;
use super::proto::{Kind, Request};

/// Makes a connection whose other end sends back what it gets, and waits for it.
///
/// # Errors
/// As connect(2).
pub fn connect(to: SocketAddr) -> Result<TcpStream, Box<dyn Error>> {
    request(to, &Request::of(Kind::Echo))
}

/// Makes a connection and sends `request`.
///
/// # Errors
/// As connect(2).
pub fn request(to: SocketAddr, request: &Request) -> Result<TcpStream, Box<dyn Error>> {
    let mut socket = TcpStream::connect_timeout(&to, PATIENCE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(&request.encode())?;
    Ok(socket)
}

/// Makes `count` connections that have each echoed a byte, and then do nothing.
///
/// # Errors
/// Tells at which of them it ended, and why.
pub fn connect_idle(to: SocketAddr, count: usize) -> Result<Vec<TcpStream>, Box<dyn Error>> {
    let mut idle = Vec::with_capacity(count);
    for made in 0..count {
        let socket = connect(to).and_then(|mut socket| {
            exchange(&mut socket)?;
            Ok(socket)
        });
        idle.push(socket.map_err(|error| format!("after {made} connections: {error}"))?);
    }
    Ok(idle)
}

/// Sends one byte and waits for it.
///
/// # Errors
/// As read(2) and write(2).
pub fn exchange(socket: &mut TcpStream) -> std::io::Result<()> {
    let mut byte = [0];
    socket.write_all(&byte)?;
    socket.read_exact(&mut byte)
}
