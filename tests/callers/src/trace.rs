//! What a start asked for, by its trace (strace(1)), up to where the command of pasta takes over.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use crate::policy::Request;
use crate::world;

/// The tracer's words. The program stays its caller's child.
pub const TRACER: &str = "strace -D -f -y -qq -s 256 -o /tmp/trace -e \
                          trace=%file,%process,socket,socketpair,bind,connect,flock,fcntl";
/// Where the trace is.
pub const FILE: &str = "/tmp/trace";

/// The requests in the text of a trace.
///
/// # Errors
/// A line that cannot be read.
pub fn requests(text: &str) -> Result<BTreeSet<Request>, String> {
    let mut reader = Reader::default();
    for line in text.lines() {
        reader.read(line).ok_or_else(|| format!("unknown form: {line}"))?;
    }
    Ok(reader.found)
}

/// What is known of the processes so far.
#[derive(Default)]
struct Reader {
    found: BTreeSet<Request>,
    /// Working directories where they were changed.
    folders: HashMap<String, PathBuf>,
    /// Those that have become something else.
    others: HashSet<String>,
    started: bool,
}

impl Reader {
    /// Reads `PID CALL(ARGUMENTS) = RESULT`; `None` for another form.
    fn read(&mut self, line: &str) -> Option<()> {
        let (pid, rest) = line.split_once(' ')?;
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") || rest.starts_with("<...") {
            return Some(());
        }
        let (call, rest) = rest.split_once('(')?;
        let (words, result) = match rest.rsplit_once(") ") {
            Some((words, result)) => (words, result.trim_start().trim_start_matches("= ")),
            None => (rest.strip_suffix("<unfinished ...>").unwrap_or(rest).trim_end(), ""),
        };
        if self.others.contains(pid) {
            self.note_child(pid, call, result);
            return Some(());
        }
        let words = arguments(words);
        self.note_child(pid, call, result);
        self.note(pid, call, &words, result);
        Some(())
    }

    /// Children of the command are its own.
    fn note_child(&mut self, pid: &str, call: &str, result: &str) {
        if !["clone", "clone3", "fork", "vfork"].contains(&call) {
            return;
        }
        let child = result.split(' ').next().unwrap_or_default().to_owned();
        if self.others.contains(pid) {
            self.others.insert(child);
        } else if let Some(folder) = self.folders.get(pid) {
            self.folders.insert(child, folder.clone());
        }
    }

    fn note(&mut self, pid: &str, call: &str, words: &[String], result: &str) {
        let word = |at: usize| words.get(at).map_or("", String::as_str);
        match call {
            "execve" => self.executed(pid, word(0), result),
            "open" | "creat" => self.opened(pid, "", word(0), word(1), result),
            "openat" => self.opened(pid, word(0), word(1), word(2), result),
            "socket" | "socketpair" => {
                let kind = word(1).split('|').next().unwrap_or_default();
                self.found.insert(Request::Socket(word(0).to_owned(), kind.to_owned()));
            }
            "bind" | "connect" => {
                if let Some((_, rest)) = words[1..].join(", ").split_once("sun_path=\"") {
                    let path = rest.split('"').next().unwrap_or_default().to_owned();
                    self.file(pid, &format!("\"{path}\""), 'w');
                }
            }
            "flock" => self.locked(word(0)),
            "fcntl" if word(1).contains("SETLK") => self.locked(word(0)),
            "mount" => self.mounted(pid, words),
            "umount2" => {
                let target = self.folder(pid, word(0));
                self.found.insert(Request::Unmount(target));
            }
            "pivot_root" => {
                let to = self.folder(pid, word(0));
                self.found.insert(Request::Root(to));
                self.folders.insert(pid.to_owned(), "/".into());
            }
            "chdir" => {
                let folder = self.absolute(pid, word(0));
                self.folders.insert(pid.to_owned(), folder);
            }
            "unlink" | "rmdir" | "mkdir" | "mknod" | "chmod" | "chown" | "truncate" => {
                self.file(pid, word(0), 'w');
            }
            "unlinkat" | "mkdirat" | "mknodat" | "fchmodat" | "fchownat" => {
                self.file(pid, word(1), 'w');
            }
            "rename" | "link" | "symlink" => {
                self.file(pid, word(0), 'w');
                self.file(pid, word(1), 'w');
            }
            _ => {}
        }
    }

    /// The first program is ours; it may become a variant of itself. What follows is the command.
    fn executed(&mut self, pid: &str, path: &str, result: &str) {
        let is_ours = path.trim_matches('"').starts_with(world::BIN);
        if self.started && !is_ours && result.starts_with('0') {
            self.others.insert(pid.to_owned());
        }
        self.started = true;
    }

    fn opened(&mut self, pid: &str, base: &str, path: &str, flags: &str, result: &str) {
        if flags.contains("O_PATH") {
            return;
        }
        // As the kernel has found it, unless it is no file with a path.
        let found = result.split_once('<').map(|(_, rest)| rest.trim_end_matches('>'));
        if found.is_some_and(|found| !found.starts_with('/')) {
            return;
        }
        // strace sees no words of a process that cannot be dumped, and so not which file was not there.
        if found.is_none() && path.starts_with("0x") {
            return;
        }
        let base = base.split_once('<').map_or("", |(_, rest)| rest.trim_end_matches('>'));
        let named = Path::new(base).join(path.trim_matches('"'));
        let mut path = match found {
            Some(found) => found.to_owned(),
            None => self.plain(pid, &named).to_string_lossy().into_owned(),
        };
        if flags.contains("O_DIRECTORY") && !path.ends_with('/') {
            path.push('/');
        }
        let writes = ["O_WRONLY", "O_CREAT", "O_TRUNC"].iter().any(|flag| flags.contains(flag));
        let both = flags.contains("O_RDWR");
        for (wanted, asked) in [('r', both || !writes), ('w', both || writes)] {
            if asked {
                self.insert(path.clone(), wanted);
            }
        }
    }

    fn locked(&mut self, descriptor: &str) {
        let path = descriptor.split_once('<').map_or(descriptor, |(_, rest)| rest);
        self.insert(path.trim_end_matches('>').to_owned(), 'k');
    }

    fn mounted(&mut self, pid: &str, words: &[String]) {
        let word = |at: usize| words.get(at).map_or("", String::as_str);
        let source = word(0).trim_matches('"').replace("NULL", "");
        let target = self.folder(pid, word(1));
        self.found.insert(Request::Mount(source, target, word(3).to_owned()));
    }

    fn file(&mut self, pid: &str, path: &str, wanted: char) {
        let path = self.absolute(pid, path).to_string_lossy().into_owned();
        self.insert(path, wanted);
    }

    /// Where programs and their libraries lie in this world says nothing.
    fn insert(&mut self, path: String, wanted: char) {
        if !path.starts_with(world::BIN) && !path.starts_with("/run/guests/") {
            self.found.insert(Request::File(path, wanted));
        }
    }

    fn absolute(&self, pid: &str, path: &str) -> PathBuf {
        self.plain(pid, Path::new(path.trim_matches('"')))
    }

    /// A folder as profiles name it.
    fn folder(&self, pid: &str, path: &str) -> String {
        let path = self.absolute(pid, path).to_string_lossy().into_owned();
        if path == "/" { path } else { path + "/" }
    }

    /// A path from the root on, without detours.
    fn plain(&self, pid: &str, path: &Path) -> PathBuf {
        let start = self.folders.get(pid).cloned().unwrap_or_else(|| "/tmp".into());
        let mut plain = PathBuf::new();
        for part in start.join(path).components() {
            match part {
                Component::ParentDir => drop(plain.pop()),
                Component::CurDir => {}
                other => plain.push(other),
            }
        }
        let text = plain.to_string_lossy();
        let text = text.replace("/proc/self/", &format!("/proc/{pid}/"));
        text.replace("/proc/thread-self/", &format!("/proc/{pid}/task/{pid}/")).into()
    }
}

/// Splits at commas, except in quotes and brackets.
fn arguments(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut escaped, mut depth) = (false, false, 0u32);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                words.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(word) = words.last_mut()
            && !(word.is_empty() && c == ' ')
        {
            word.push(c);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Request> {
        requests(text).unwrap().into_iter().collect()
    }

    fn file(path: &str, wanted: char) -> Request {
        Request::File(path.to_owned(), wanted)
    }

    #[test]
    fn files_are_named_as_the_kernel_found_them() {
        let text = "7 openat(AT_FDCWD</tmp>, \"/etc/resolv.conf\", O_RDONLY|O_CLOEXEC) = 3</run/a/resolv.conf>\n\
                    7 openat(AT_FDCWD</tmp>, \"a, \\\"b\", O_WRONLY|O_CREAT, 0600) = -1 EACCES (Permission denied)\n\
                    7 open(\"/proc/self/uid_map\", O_RDONLY) = -1 ENOENT (No such file or directory)\n\
                    7 open(\"/proc/thread-self/ns/net\", O_RDONLY) = 4<net:[4026532532]>\n\
                    7 openat(AT_FDCWD</tmp>, \"/tmp\", O_RDONLY|O_PATH) = 3</tmp>\n\
                    7 openat(AT_FDCWD</tmp>, \"/tmp\", O_RDONLY|O_DIRECTORY <unfinished ...>\n";
        let wanted = [
            file("/proc/7/uid_map", 'r'),
            file("/run/a/resolv.conf", 'r'),
            file("/tmp/", 'r'),
            file("/tmp/a, \\\"b", 'w'),
        ];
        assert_eq!(found(text), wanted);
    }

    #[test]
    fn mounts_are_named_by_where_they_are() {
        let text = "7 mount(NULL, \"/\", NULL, MS_REC|MS_UNBINDABLE, NULL) = 0\n\
                    7 mount(\"\", \"/tmp\", \"tmpfs\", MS_RDONLY, \"nr_inodes=2\") = 0\n\
                    7 chdir(\"/tmp\") = 0\n\
                    7 pivot_root(\".\", \".\") = 0\n\
                    7 umount2(\".\", MNT_DETACH|UMOUNT_NOFOLLOW) = 0\n";
        let mount = |target: &str, flags: &str| {
            Request::Mount(String::new(), target.to_owned(), flags.to_owned())
        };
        let wanted = [
            mount("/", "MS_REC|MS_UNBINDABLE"),
            mount("/tmp/", "MS_RDONLY"),
            Request::Root("/tmp/".into()),
            Request::Unmount("/".into()),
        ];
        assert_eq!(found(text), wanted);
    }

    #[test]
    fn what_another_process_interrupts_is_read_the_same() {
        let text = "7 chdir(\"/tmp\" <unfinished ...>\n\
                    8 close(3) = 0\n\
                    7 <... chdir resumed>) = 0\n\
                    7 pivot_root(\".\", \".\" <unfinished ...>\n\
                    7 <... pivot_root resumed>) = 0\n\
                    7 umount2(\".\", MNT_DETACH <unfinished ...>\n";
        let wanted = [Request::Root("/tmp/".into()), Request::Unmount("/".into())];
        assert_eq!(found(text), wanted);
    }

    #[test]
    fn the_command_is_not_the_program() {
        let text = "7 execve(\"/run/bin/pasta\", [\"pasta\"], 0x1 /* 2 vars */) = 0\n\
                    7 clone(child_stack=NULL, flags=SIGCHLD) = 8\n\
                    8 execve(\"/bin/sh\", [\"sh\"], 0x1 /* 2 vars */) = 0\n\
                    8 clone(child_stack=NULL, flags=SIGCHLD) = 9\n\
                    9 open(\"/etc/shadow\", O_RDONLY) = 3</etc/shadow>\n\
                    7 connect(3<socket:[1]>, {sa_family=AF_UNIX, sun_path=\"/dev/log\"}, 11) = 0\n\
                    7 flock(4</tmp>, LOCK_EX|LOCK_NB) = 0\n\
                    7 +++ exited with 0 +++\n";
        assert_eq!(found(text), [file("/dev/log", 'w'), file("/tmp", 'k')]);
        assert!(requests("7 nonsense").is_err());
    }
}
