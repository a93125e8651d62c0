//! The pipes by which slirp4netns and its callers tell each other when it begins and when it is over.

use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::OwnedFd;

use crate::play::pass;
use crate::process::await_some;

/// Numbers that the program is told, and the ends that are ours.
#[derive(Default)]
pub struct Pipes {
    /// Of the end that it writes to.
    pub ready_number: Option<i32>,
    ready: Option<PipeReader>,
    /// Of the end that it reads from.
    pub exit_number: Option<i32>,
    /// Ours of that.
    pub exit: Option<PipeWriter>,
}

impl Pipes {
    /// Makes those that are wanted; returns the shell's words that give the program's ends their numbers.
    pub fn make(&mut self, kept: &mut Vec<OwnedFd>) -> Result<String, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut redirections = String::new();
        if let Some(number) = self.ready_number {
            let (reader, writer) = std::io::pipe().map_err(text)?;
            redirections += &pass(kept, &writer.into(), number)?;
            self.ready = Some(reader);
        }
        if let Some(number) = self.exit_number {
            let (reader, writer) = std::io::pipe().map_err(text)?;
            redirections += &pass(kept, &reader.into(), number)?;
            self.exit = Some(writer);
        }
        Ok(redirections)
    }

    /// What comes out of the pipe that the program writes to, until nobody holds its other end, is this.
    pub fn hears(&mut self, expected: &[u8]) -> Result<(), String> {
        let mut reader = self.ready.take().ok_or("there is no such pipe")?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(|errno| errno.to_string())?;
        let mut heard = vec![];
        await_some("the end of the pipe", || {
            let mut bytes = [0; 16];
            match reader.read(&mut bytes) {
                Ok(0) => Some(()),
                Ok(count) => {
                    heard.extend_from_slice(&bytes[..count]);
                    None
                }
                Err(_) => None,
            }
        })?;
        if heard == expected { Ok(()) } else { Err(format!("it was told {heard:?}")) }
    }
}
