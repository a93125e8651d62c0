//! Many connections that are open at the same time: `gather` takes them, `crowd` makes them.
//!
//! Each carries a message there and back before the next is opened, so that no server's queue of
//! connections matters, and another one when all are open. The crowd then holds its connections until
//! its standard input ends, so that whoever started it may look at what they cost.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::Outcome;
use crate::pattern::Pattern;
use crate::tcp::PATIENCE;

/// Bytes of each message.
const MESSAGE: usize = 16;

/// Takes `count` connections, echoes the messages, and waits until all are closed.
pub fn gather(at: SocketAddr, count: usize) -> Outcome {
    let listener = TcpListener::bind(at)?;
    say("ready")?;
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let mut stream = patient(listener.accept()?.0)?;
        echo(&mut stream)?;
        streams.push(stream);
    }
    for stream in &mut streams {
        echo(stream)?;
    }
    for stream in &mut streams {
        // Whoever holds them decides how long.
        stream.set_read_timeout(None)?;
        if stream.read(&mut [0; 1])? != 0 {
            return Err("more came than was sent".into());
        }
    }
    Ok(format!("ok {count} connections came and went"))
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message)?;
    stream.write_all(&message)
}

/// Opens `count` connections, to each address in turn. Prints `open` when all are, and closes them
/// when standard input ends.
pub fn crowd(count: usize, to: &[SocketAddr]) -> Outcome {
    let mut streams = Vec::with_capacity(count);
    for (number, &address) in to.iter().cycle().take(count).enumerate() {
        let failed = |error: &dyn Error| format!("connection {number}: {error}");
        let stream = TcpStream::connect_timeout(&address, PATIENCE).and_then(patient);
        let mut stream = stream.map_err(|error| failed(&error))?;
        exchange(&mut stream, number as u64).map_err(|error| failed(&*error))?;
        streams.push(stream);
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        exchange(stream, (count + number) as u64)?;
    }
    say("open")?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(format!("ok {count} connections"))
}

fn exchange(stream: &mut TcpStream, seed: u64) -> Result<(), Box<dyn Error>> {
    let (mut sent, mut found) = ([0; MESSAGE], [0; MESSAGE]);
    Pattern::new(seed).fill(&mut sent);
    stream.write_all(&sent)?;
    stream.read_exact(&mut found)?;
    if found == sent { Ok(()) } else { Err("wrong content came back".into()) }
}

fn patient(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn say(word: &str) -> io::Result<()> {
    println!("{word}");
    io::stdout().flush()
}
