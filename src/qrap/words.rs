//! The command line of qrap, and where QEMU is.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use super::failure::Failure;

const HELP: &str = "\
Usage: qrap FDNUM QEMU_CMD [QEMU_ARG]...
       qrap [QEMU_ARG]...

Starts QEMU with a connection to a passt that waits at /tmp/passt_1.socket and
on. With FDNUM, 3 or more, that is the connection's descriptor, and QEMU's
arguments have to name it. Without, QEMU's network devices give way to one that
leads to passt. QEMU 7.2 and later need no qrap. See qrap(1).
";

/// How QEMU is called, in the order of being looked for.
const QEMUS: [&str; 5] =
    ["kvm", "qemu-kvm", "/usr/libexec/qemu-kvm", NATIVE_QEMU, "qemu-system-x86_64"];

/// QEMU for guests that are as this machine.
const NATIVE_QEMU: &str = if cfg!(target_arch = "aarch64") {
    "qemu-system-aarch64"
} else if cfg!(target_arch = "arm") {
    "qemu-system-arm"
} else if cfg!(target_arch = "riscv64") {
    "qemu-system-riscv64"
} else if cfg!(target_arch = "powerpc64") {
    "qemu-system-ppc64"
} else if cfg!(target_arch = "s390x") {
    "qemu-system-s390x"
} else if cfg!(target_arch = "x86") {
    "qemu-system-i386"
} else {
    "qemu-system-x86_64"
};

/// What a command line comes to.
#[derive(Debug)]
pub(super) enum Asked {
    Text(String),
    Job(Job),
}

/// What is to be started.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// Which descriptor leads to passt. Without one the arguments do not name it, either.
    pub(super) number: Option<RawFd>,
}

/// Reads the command line, without the program's name. `find` says where a command is.
///
/// # Errors
/// A number without a command, or one that cannot be, or there is no such command.
pub(super) fn parse(
    mut words: Vec<OsString>,
    find: &dyn Fn(&OsStr) -> Option<PathBuf>,
) -> Result<Asked, Failure> {
    match words.iter().map(|word| word.to_str()).collect::<Vec<_>>()[..] {
        [Some("-h" | "--help")] => return Ok(Asked::Text(HELP.to_owned())),
        [Some("--version")] => {
            let version = env!("CARGO_PKG_VERSION");
            return Ok(Asked::Text(format!("qrap {version}\n")));
        }
        _ => {}
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let first = words.first().and_then(|word| word.to_str());
    let Some(text) = first.filter(|text| digits(text)) else {
        let program = QEMUS.iter().find_map(|name| find(OsStr::new(name)));
        let program = program.ok_or_else(|| {
            let names = QEMUS.join(", ");
            Failure(format!("There is no QEMU in $PATH, none of {names}: name it, as in qrap 5 QEMU_CMD -net socket,fd=5 -net nic,model=virtio"))
        })?;
        return Ok(Asked::Job(Job { program, arguments: words, number: None }));
    };
    let number = text.parse().ok().filter(|number| *number > 2).ok_or_else(|| {
        Failure(format!("Invalid FDNUM: {text}: it takes the number of a descriptor, 3 or more"))
    })?;
    let Some(command) = words.get(1) else {
        return Err(Failure(format!(
            "Behind FDNUM {number} a command is wanted, as in qrap {number} kvm -net socket,fd={number} -net nic,model=virtio"
        )));
    };
    let program = find(command).ok_or_else(|| {
        let command = command.display();
        Failure(format!(
            "There is no command '{command}' in $PATH: give QEMU's, or no number and no command"
        ))
    })?;
    let arguments = words.split_off(2);
    Ok(Asked::Job(Job { program, arguments, number: Some(number) }))
}

/// Where a command is: by `$PATH`, if its name has no slash.
pub(super) fn find(command: &OsStr) -> Option<PathBuf> {
    let runs = |file: &Path| {
        file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    };
    let command = Path::new(command);
    if command.components().count() > 1 {
        return Some(command.to_owned()).filter(|file| runs(file));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(command)).find(|file| runs(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `line` comes to where there are these commands, in `/bin`.
    fn parsed(line: &str, commands: &[&str]) -> Result<Asked, String> {
        let words = line.split_whitespace().map(OsString::from).collect();
        let find = |command: &OsStr| {
            commands.contains(&command.to_str()?).then(|| Path::new("/bin").join(command))
        };
        parse(words, &find).map_err(|Failure(message)| message)
    }

    fn job(program: &str, line: &str, number: Option<RawFd>) -> Job {
        let arguments = line.split_whitespace().map(OsString::from).collect();
        Job { program: program.into(), arguments, number }
    }

    #[test]
    fn a_number_and_a_command() {
        let Ok(Asked::Job(found)) = parsed("5 kvm -m 1024 -net socket,fd=5", &["kvm"]) else {
            unreachable!("it is understood")
        };
        assert_eq!(found, job("/bin/kvm", "-m 1024 -net socket,fd=5", Some(5)));
        // Leading zeros change nothing, and what follows is QEMU's.
        let Ok(Asked::Job(found)) = parsed("0012 mine 7 --help", &["kvm", "mine"]) else {
            unreachable!("it is understood")
        };
        assert_eq!(found, job("/bin/mine", "7 --help", Some(12)));
    }

    #[test]
    fn without_a_number_everything_is_qemus() {
        for (line, commands, program) in [
            ("", &["qemu-system-x86_64", "kvm"][..], "/bin/kvm"),
            ("test.qcow2 -m 1024", &["qemu-system-x86_64"], "/bin/qemu-system-x86_64"),
            ("-nographic 5 kvm", &["qemu-kvm"], "/bin/qemu-kvm"),
            ("5x kvm", &["kvm"], "/bin/kvm"),
            ("-1 kvm", &["kvm"], "/bin/kvm"),
            ("--help -m 1", &["kvm"], "/bin/kvm"),
        ] {
            let Ok(Asked::Job(found)) = parsed(line, commands) else {
                unreachable!("{line} is understood")
            };
            assert_eq!(found, job(program, line, None), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_cure() {
        for (line, commands, said) in [
            ("5", &["kvm"][..], "Behind FDNUM 5 a command is wanted, as in qrap 5 kvm"),
            ("0 kvm", &["kvm"], "Invalid FDNUM: 0: it takes the number of a descriptor, 3 or more"),
            ("2 kvm", &["kvm"], "Invalid FDNUM: 2: "),
            ("99999999999 kvm", &["kvm"], "Invalid FDNUM: 99999999999: "),
            ("5 nosuch -m 1", &["kvm"], "There is no command 'nosuch' in $PATH: give QEMU's"),
            ("-m 1", &[], "There is no QEMU in $PATH, none of kvm, qemu-kvm"),
        ] {
            let message = parsed(line, commands).expect_err(line);
            assert!(message.starts_with(said), "{line}: {message}");
        }
    }

    #[test]
    fn it_tells_of_itself_only_if_nothing_else_is_asked() {
        for line in ["-h", "--help"] {
            let Ok(Asked::Text(text)) = parsed(line, &[]) else { unreachable!("{line} is a text") };
            assert!(text.starts_with("Usage: qrap FDNUM QEMU_CMD"), "{text}");
        }
        let Ok(Asked::Text(text)) = parsed("--version", &[]) else { unreachable!("a text") };
        assert_eq!(text, concat!("qrap ", env!("CARGO_PKG_VERSION"), "\n"));
    }

    #[test]
    fn commands_are_files_that_may_be_run() {
        assert!(find(OsStr::new("sh")).is_some_and(|file| file.ends_with("sh")));
        assert_eq!(find(OsStr::new("/bin/sh")), Some("/bin/sh".into()));
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let text = folder.path().join("text");
        std::fs::write(&text, "").expect("a file can be made there");
        assert_eq!(find(text.as_os_str()), None);
        for none in ["/", "/bin", "no-such-command-here", "./sh", ""] {
            assert_eq!(find(OsStr::new(none)), None, "{none}");
        }
    }
}
