//! A web server of one file, for firmware that boots by HTTP. It says nothing behind the header in answer to HEAD
//! (RFC 9110, 9.3.2): the firmware takes what comes there for the begin of the file that it asks for next. And it
//! knows ranges, by which firmware goes on where nothing has come for long.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::Outcome;

/// Bytes of the longest line of a request.
const LINE_BYTES: u64 = 4096;

/// What is asked.
struct Request {
    head: bool,
    /// First byte of the range, if only one is wanted.
    from: Option<usize>,
}

/// Serves `file` at `at`, for ever.
pub fn serve(at: SocketAddr, file: &str) -> Outcome {
    let bytes = std::fs::read(file)?;
    let listener = TcpListener::bind(at)?;
    println!("ready");
    thread::scope(|scope| {
        loop {
            let (stream, from) = listener.accept()?;
            let bytes = &bytes;
            scope.spawn(move || match converse(&stream, bytes) {
                Ok(()) => println!("{from}: ended"),
                Err(error) => println!("{from}: {error}"),
            });
        }
    })
}

/// Answers requests until the client asks for no more.
fn converse(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        let from = request.from.unwrap_or(0).min(bytes.len());
        let status = if request.from.is_some() { "206 Partial Content" } else { "200 OK" };
        let (rest, all) = (&bytes[from..], bytes.len());
        let mut header = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", rest.len());
        if request.from.is_some() {
            header += &format!("Content-Range: bytes {from}-{}/{all}\r\n", all.saturating_sub(1));
        }
        header += "Content-Type: application/octet-stream\r\n\r\n";
        let mut writer = stream;
        writer.write_all(header.as_bytes())?;
        if !request.head {
            writer.write_all(rest)?;
        }
    }
    Ok(())
}

/// The next request, without what does not matter here; `None` at the end of the connection.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let first = line(reader)?;
    if first.is_empty() {
        return Ok(None);
    }
    println!("{}", first.trim_end());
    let mut request = Request { head: first.starts_with("HEAD "), from: None };
    loop {
        let line = line(reader)?.to_ascii_lowercase();
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(request));
        }
        let range =
            line.strip_prefix("range:").and_then(|value| value.trim().strip_prefix("bytes="));
        let from = range.and_then(|range| range.split('-').next()?.parse().ok());
        request.from = from.or(request.from);
    }
}

/// A line with its end; empty at the end of the connection.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    io::Read::take(reader, LINE_BYTES).read_line(&mut line)?;
    Ok(line)
}
