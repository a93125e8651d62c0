//! Network namespaces. A test runs itself again in one of its own, in a process of its own: what it
//! does to limits, descriptors and the heap is nobody else's ([`isolated`]). In there it may make
//! more of them ([`Netns`]). It needs unshare(1), sh(1) and ip(8), and root or user namespaces.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::skipped;

/// In the environment of the copy that runs inside: how it got there.
const INSIDE: &str = "PASST_TEST_INSIDE";

/// With users of its own, and without.
const WITH_USERS: &str = "-rn";
const WITHOUT_USERS: &str = "-n";

/// In the environment: what runs the test, which is for another processor.
const EMULATOR: &str = "PASST_TEST_EMULATOR";

/// Runs `body`, a closure that stands in the test itself, in a new network namespace, after the
/// lines of the shell script `setup`.
///
/// # Panics
/// When the test fails in there, or there can be no namespace.
pub fn isolated<F: FnOnce()>(setup: &str, body: F) {
    // "binary::module::name::{{closure}}"
    let path = std::any::type_name::<F>();
    let name = path.split_once("::").and_then(|(_, rest)| rest.strip_suffix("::{{closure}}"));
    isolated_test(name.expect("a closure in a test"), setup, body);
}

/// Like [`isolated`], for the test of this name, as `--exact` wants it.
///
/// # Panics
/// When the test fails in there, or there can be no namespace.
pub fn isolated_test(name: &str, setup: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let can = |how: &str| {
        let status = Command::new("unshare").args([how, "true"]).status();
        status.is_ok_and(|status| status.success())
    };
    // Root may be where user namespaces are off; others need one.
    let how = [WITH_USERS, WITHOUT_USERS].into_iter().find(|how| can(how));
    let how = how.expect("cannot make a network namespace, with or without a user one");
    let script = format!(
        "set -e\n{setup}\nexec ${EMULATOR} \"$0\" --exact \"$1\" --include-ignored --nocapture"
    );
    let output = Command::new("unshare")
        .arg(how)
        .args(["sh", "-c", &script])
        .arg(std::env::current_exe().expect("the test knows its own path"))
        .arg(name)
        .env(INSIDE, how)
        .output()
        .expect("unshare(1) and sh(1) run");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
    skipped::repeat(&errors);
}

/// Whether the calling test, which is [`isolated`], is in a user namespace made for it: limits of users are then its own, and
/// elsewhere those of the whole machine, which outlive it.
pub fn has_own_users() -> bool {
    std::env::var_os(INSIDE).is_some_and(|how| how == WITH_USERS)
}

/// A network namespace that lives as long as the value and its clones.
#[derive(Clone)]
pub struct Netns(Arc<File>);

impl Netns {
    /// A new one, after the lines of the shell script `setup`.
    ///
    /// # Panics
    /// When it cannot be made or set up.
    pub fn new(setup: &str) -> Self {
        let setup = format!("set -e\n{setup}");
        let made = std::thread::spawn(move || {
            // SAFETY: no other thread relies on what is unshared, the network.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .expect("cannot make a network namespace");
            let status = Command::new("sh").args(["-c", &setup]).status();
            assert!(status.is_ok_and(|s| s.success()), "cannot set up a namespace: {setup}");
            File::open("/proc/thread-self/ns/net").expect("procfs")
        });
        Self(Arc::new(made.join().expect("a namespace")))
    }

    /// The descriptor that stands for it.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// Runs `body` inside, in a thread of its own. Sockets that it makes stay in the namespace.
    ///
    /// # Panics
    /// When `body` does.
    pub fn run<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.0.clone();
        let inside = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("cannot enter the namespace");
            body()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
