//! One question on a UNIX socket, whose client ends its side behind it, and what is answered until the other side ends.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use crate::Outcome;
use crate::tcp::PATIENCE;

/// Asks at `path`.
pub fn ask(path: &str, question: &str) -> Outcome {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(question.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}
