//! The command line of a virtual machine monitor: whether the guest's memory is shared, and whether its network device
//! leads to a socket of ours. vhost-user needs the memory as a descriptor that the monitor hands over, mapped by both.

use serde_json::{Map, Value};

use super::finding::Finding;
use crate::conf::ConfError;

const MEMORY: &str = "guest memory";
const DEVICE: &str = "network device";

/// What makes QEMU's memory shared.
const QEMU_CURE: &str =
    "-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem";

/// Judges a command line, program first, for a build with vhost-user or without.
pub(super) fn findings(words: &[String], vhost_user: bool) -> Vec<Finding> {
    let program = words.first().map_or("", |word| word.rsplit('/').next().unwrap_or_default());
    let rest = words.get(1..).unwrap_or_default();
    if program.starts_with("qemu") || program == "kvm" {
        qemu(rest, vhost_user)
    } else if program.starts_with("cloud-hypervisor") {
        only_with(vhost_user, || cloud_hypervisor(rest))
    } else if program == "crosvm" {
        only_with(vhost_user, || crosvm(rest))
    } else {
        let text = format!("nothing is known of the front-end '{program}'");
        vec![Finding::lacks(
            MEMORY,
            text,
            "give the command line of QEMU, cloud-hypervisor or crosvm",
        )]
    }
}

/// The values of an option, at most so many behind each: behind it, or behind `=`. It may have one or two dashes. What
/// is JSON, as libvirt gives it to QEMU, becomes what people write.
fn arguments_of(words: &[String], option: &str, most: usize) -> Vec<String> {
    let mut values = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let Some(name) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            continue;
        };
        match name.strip_prefix(option) {
            Some("") => {
                let behind = words[at + 1..].iter().take(most);
                values.extend(behind.take_while(|word| !word.starts_with('-')).cloned());
            }
            Some(rest) => values.extend(rest.strip_prefix('=').map(str::to_owned)),
            None => {}
        }
    }
    values.iter().map(|value| without_json(value)).collect()
}

/// An object in JSON in the form `a=b,c=d`. What has more than one level is not looked at here.
fn without_json(value: &str) -> String {
    let Ok(members) = serde_json::from_str::<Map<String, Value>>(value) else {
        return value.to_owned();
    };
    let plain = |value: &Value| match value {
        Value::String(text) => Some(text.replace(',', ",,")),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        _ => None,
    };
    let pairs = members.iter();
    let pairs = pairs.filter_map(|(name, value)| Some(format!("{name}={}", plain(value)?)));
    pairs.collect::<Vec<_>>().join(",")
}

/// What stands between the commas of `KIND,a=b,c=d`, where a doubled comma stands for one.
fn parts(value: &str) -> Vec<String> {
    let whole = value.replace(",,", "\0");
    whole.split(',').map(|part| part.replace('\0', ",")).collect()
}

/// The value of `key`.
fn property(value: &str, key: &str) -> Option<String> {
    let parts = parts(value);
    let mut pairs = parts.iter().filter_map(|part| part.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
}

/// Whether `key` is on, which may stand there alone, or off.
fn switch(value: &str, key: &str) -> Option<bool> {
    if let Some(value) = property(value, key) {
        return Some(matches!(value.as_str(), "on" | "yes" | "true" | "y"));
    }
    parts(value).iter().skip(1).find_map(|part| match part.strip_prefix("no") {
        _ if part == key => Some(true),
        Some(rest) if rest == key => Some(false),
        _ => None,
    })
}

/// What a value is about: its first word, or what one of these keys has.
fn kind(value: &str) -> String {
    const KEYS: [&str; 3] = ["type", "qom-type", "backend"];
    let named = KEYS.iter().find_map(|key| property(value, key));
    named.unwrap_or_else(|| parts(value).swap_remove(0))
}

fn qemu(words: &[String], vhost_user: bool) -> Vec<Finding> {
    let mut netdevs = arguments_of(words, "netdev", 1);
    netdevs.extend(arguments_of(words, "nic", 1));
    let of_kind = |wanted: &[&str]| {
        let mut netdevs = netdevs.iter();
        netdevs.find(|device| wanted.contains(&kind(device).as_str()))
    };
    let stream = "not shared, and need not be: frames go through a stream socket";
    if let Some(device) = of_kind(&["vhost-user"]) {
        return only_with(vhost_user, || vec![qemu_memory(words), qemu_chardev(words, device)]);
    }
    if let Some(device) = of_kind(&["passt"]) {
        let shared = switch(device, "vhost-user") == Some(true);
        let fine = Finding::fine(DEVICE, "QEMU starts the passt of its $PATH");
        if shared {
            return only_with(vhost_user, || vec![qemu_memory(words), fine]);
        }
        return vec![Finding::fine(MEMORY, stream), fine];
    }
    if of_kind(&["stream", "socket"]).is_some() {
        return vec![Finding::fine(MEMORY, stream)];
    }
    let (text, cure) = if vhost_user {
        (
            "there is no -netdev vhost-user, and none of the stream protocol",
            "-chardev socket,id=c,path=SOCKET -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n",
        )
    } else {
        (
            "there is no -netdev stream",
            "-netdev stream,id=n,addr.type=unix,addr.path=SOCKET -device virtio-net-pci,netdev=n",
        )
    };
    vec![Finding::lacks(DEVICE, text, cure)]
}

fn qemu_memory(words: &[String]) -> Finding {
    let mut machines = arguments_of(words, "machine", 1);
    machines.extend(arguments_of(words, "M", 1));
    let nodes = arguments_of(words, "numa", 1);
    let by_machine = machines.iter().filter_map(|machine| property(machine, "memory-backend"));
    let by_node = nodes.iter().filter_map(|node| property(node, "memdev"));
    let used: Vec<String> = by_machine.chain(by_node).collect();
    let objects = arguments_of(words, "object", 1);
    if used.is_empty() {
        let unused = objects.iter().any(|object| kind(object).starts_with("memory-backend"));
        let text = if unused {
            "a memory object is made, but the machine does not use it"
        } else {
            "the machine's memory is QEMU's own"
        };
        return Finding::lacks(MEMORY, text, QEMU_CURE);
    }
    for id in used {
        let object = objects.iter().find(|object| property(object, "id").as_ref() == Some(&id));
        let Some(object) = object else {
            return Finding::lacks(MEMORY, format!("there is no -object with id={id}"), QEMU_CURE);
        };
        let share = switch(object, "share");
        let (kind, shared) = match kind(object).as_str() {
            "memory-backend-memfd" => ("memfd", share.unwrap_or(true)),
            "memory-backend-shm" => ("shared memory object", share.unwrap_or(true)),
            "memory-backend-file" => ("file", share.unwrap_or(false)),
            other => {
                let text = format!("{other} has no descriptor that could be handed over");
                return Finding::lacks(MEMORY, text, QEMU_CURE);
            }
        };
        if !shared {
            let text = format!("the {kind} of {id} is private");
            return Finding::lacks(MEMORY, text, format!("add share=on to -object {object}"));
        }
    }
    Finding::fine(MEMORY, "shared")
}

fn qemu_chardev(words: &[String], device: &str) -> Finding {
    let id = property(device, "chardev").unwrap_or_default();
    let chardevs = arguments_of(words, "chardev", 1);
    let found = chardevs.iter().find(|chardev| property(chardev, "id").as_ref() == Some(&id));
    let cure = format!("-chardev socket,id={id},path=SOCKET");
    let Some(chardev) = found else {
        let text = format!("there is no -chardev with id={id}, which -netdev vhost-user names");
        return Finding::lacks(DEVICE, text, cure);
    };
    let path = property(chardev, "path").filter(|_| kind(chardev) == "socket");
    let Some(path) = path else {
        return Finding::lacks(DEVICE, format!("-chardev {chardev} is no UNIX socket"), cure);
    };
    if switch(chardev, "server") == Some(true) {
        let text = "QEMU would wait for a client on the socket, as passt does";
        return Finding::lacks(DEVICE, text, format!("leave server=on out of -chardev {chardev}"));
    }
    at_socket(&path)
}

/// The device leads to a socket.
fn at_socket(path: &str) -> Finding {
    Finding::fine(DEVICE, format!("vhost-user at {path}: passt --vhost-user --socket {path}"))
}

/// What is found of a device that takes vhost-user. A build without it says so, and names no cure that takes it, too.
fn only_with(vhost_user: bool, found: impl FnOnce() -> Vec<Finding>) -> Vec<Finding> {
    if vhost_user {
        return found();
    }
    let cure = "install a build for 64 bits, or give QEMU -netdev stream";
    vec![Finding::lacks(DEVICE, ConfError::NoVhostUser.to_string(), cure)]
}

fn cloud_hypervisor(words: &[String]) -> Vec<Finding> {
    let mut memory = arguments_of(words, "memory", 1);
    memory.extend(arguments_of(words, "memory-zone", usize::MAX));
    let shared = memory.iter().any(|memory| switch(memory, "shared") == Some(true));
    let memory = if shared {
        Finding::fine(MEMORY, "shared")
    } else {
        Finding::lacks(MEMORY, "the guest's memory is private", "--memory size=SIZE,shared=on")
    };
    let nets = arguments_of(words, "net", usize::MAX);
    let net = nets.iter().find(|net| switch(net, "vhost_user") == Some(true));
    let device = match net.and_then(|net| property(net, "socket")) {
        Some(path) => at_socket(&path),
        None => Finding::lacks(
            DEVICE,
            "there is no --net with vhost_user and a socket",
            "--net vhost_user=true,socket=SOCKET",
        ),
    };
    vec![memory, device]
}

/// Its memory is always shared.
fn crosvm(words: &[String]) -> Vec<Finding> {
    let devices = arguments_of(words, "vhost-user", 1);
    let net = devices.iter().find(|device| kind(device) == "net");
    let device = match net.and_then(|net| property(net, "socket")) {
        Some(path) => at_socket(&path),
        None => Finding::lacks(
            DEVICE,
            "there is no --vhost-user of type net with a socket",
            "--vhost-user type=net,socket=SOCKET",
        ),
    };
    vec![Finding::fine(MEMORY, "shared"), device]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By a build that has vhost-user.
    fn judged(line: &str) -> String {
        judged_by(line, true)
    }

    /// The worst of a line is at the end.
    fn judged_by(line: &str, vhost_user: bool) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let findings = findings(&words, vhost_user);
        let worst = findings.iter().max_by_key(|finding| finding.verdict).unwrap();
        assert_eq!(
            worst.cure.is_empty(),
            worst.verdict == super::super::finding::Verdict::Ok,
            "{worst:?}"
        );
        format!("{} {}: {}", worst.verdict.name(), worst.topic, worst.text)
    }

    const DEVICE_OF_QEMU: &str = "-chardev socket,id=c,path=/s -netdev vhost-user,id=n,chardev=c";

    #[test]
    fn memory_of_qemu() {
        for (memory, expected) in [
            ("-m 512", "missing guest memory: the machine's memory is QEMU's own"),
            (
                "-object memory-backend-memfd,id=mem,size=512M",
                "missing guest memory: a memory object is made, but the machine does not use it",
            ),
            (
                "-object memory-backend-file,id=mem,mem-path=/dev/shm -numa node,memdev=mem",
                "missing guest memory: the file of mem is private",
            ),
            (
                "-object memory-backend-memfd,share=off,id=mem -M q35,memory-backend=mem",
                "missing guest memory: the memfd of mem is private",
            ),
            (
                "-object memory-backend-ram,share=on,id=mem -M q35,memory-backend=mem",
                "missing guest memory: memory-backend-ram has no descriptor that could be handed over",
            ),
            ("-M q35,memory-backend=ram", "missing guest memory: there is no -object with id=ram"),
        ] {
            let line = format!("/usr/bin/qemu-system-x86_64 {memory} {DEVICE_OF_QEMU}");
            assert_eq!(judged(&line), expected, "{line}");
        }
        for memory in [
            "-object memory-backend-memfd,id=mem,size=512M,share=on -machine q35,memory-backend=mem",
            "-object memory-backend-memfd,id=mem --numa node,memdev=mem",
            "-object memory-backend-file,id=mem,share=yes,mem-path=/x -M memory-backend=mem",
            "-object memory-backend-file,id=mem,mem-path=/x,share -M memory-backend=mem",
            "-object memory-backend-shm,id=mem,size=512M -M memory-backend=mem",
            "-object qom-type=memory-backend-memfd,id=mem -M type=q35,memory-backend=mem",
        ] {
            let findings = findings(
                &format!("kvm {memory} {DEVICE_OF_QEMU}")
                    .split(' ')
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
                true,
            );
            assert_eq!(findings[0], Finding::fine(MEMORY, "shared"));
            assert!(findings[1].text.ends_with("passt --vhost-user --socket /s"), "{findings:?}");
        }
    }

    #[test]
    fn device_of_qemu() {
        let shared = "-object memory-backend-memfd,id=mem -M q35,memory-backend=mem";
        for (device, expected) in [
            (
                "-nic user",
                "missing network device: there is no -netdev vhost-user, and none of the stream protocol",
            ),
            (
                "-netdev vhost-user,id=n,chardev=c",
                "missing network device: there is no -chardev with id=c, which -netdev vhost-user names",
            ),
            (
                "-chardev tty,id=c -netdev vhost-user,id=n,chardev=c",
                "missing network device: -chardev tty,id=c is no UNIX socket",
            ),
            (
                "-chardev socket,id=c,path=/s,server=on -netdev vhost-user,id=n,chardev=c",
                "missing network device: QEMU would wait for a client on the socket, as passt does",
            ),
            (
                "-chardev socket,id=c,path=/s,server,nowait -netdev vhost-user,id=n,chardev=c",
                "missing network device: QEMU would wait for a client on the socket, as passt does",
            ),
            (
                "-chardev socket,id=c,path=/a,,b -nic vhost-user,chardev=c",
                "ok network device: vhost-user at /a,b: passt --vhost-user --socket /a,b",
            ),
            (
                "-chardev backend=socket,id=c,path=/s -netdev id=n,type=vhost-user,chardev=c",
                "ok network device: vhost-user at /s: passt --vhost-user --socket /s",
            ),
            (
                "-netdev stream,id=n,server=off,addr.type=unix,addr.path=/s",
                "ok guest memory: not shared, and need not be: frames go through a stream socket",
            ),
            ("-netdev passt,id=n", "ok network device: QEMU starts the passt of its $PATH"),
        ] {
            let line = format!("qemu-kvm {shared} {device}");
            assert_eq!(judged(&line), expected, "{line}");
        }
    }

    #[test]
    fn memory_for_a_passt_that_qemu_starts() {
        let line = |how| judged(&format!("qemu-kvm -m 512 -netdev passt,id=n,vhost-user={how}"));
        assert!(line("off").starts_with("ok "), "{}", line("off"));
        assert_eq!(line("on"), "missing guest memory: the machine's memory is QEMU's own");
    }

    #[test]
    fn what_makes_no_sense_is_no_reason_to_panic() {
        for words in [
            &["qemu", "-netdev"][..],
            &["qemu", "-netdev", "", "-object", ",,,", "-chardev", "="],
            &["qemu", "-netdev", "{}", "-netdev", "{\"type\":[]}", "-M", "{"],
            &["qemu", "-netdev", "vhost-user", "-M", "memory-backend=", "-object", "id="],
            &["cloud-hypervisor", "--net=", "--memory", "--memory-zone"],
            &["crosvm", "--vhost-user", "=,"],
            &["-"],
            &[""],
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert!(!findings(&words, true).is_empty(), "{words:?}");
        }
    }

    #[test]
    fn a_build_without_vhost_user_serves_no_such_device() {
        let shared = "-object memory-backend-memfd,id=mem -M q35,memory-backend=mem";
        for line in [
            format!("qemu-kvm {shared} {DEVICE_OF_QEMU}"),
            format!("qemu-kvm {shared} -netdev passt,id=n,vhost-user=on"),
            "cloud-hypervisor --memory shared=on --net vhost_user=true,socket=/s".to_owned(),
            "crosvm run --vhost-user type=net,socket=/s".to_owned(),
        ] {
            let expected =
                "missing network device: vhost-user is not in builds for processors of 32 bits";
            assert_eq!(judged_by(&line, false), expected, "{line}");
            assert!(judged_by(&line, true).starts_with("ok "), "{line}");
        }
        for line in ["-netdev stream,id=n,addr.path=/s", "-netdev passt,id=n"] {
            let line = format!("qemu-kvm -m 512 {line}");
            assert!(judged_by(&line, false).starts_with("ok "), "{line}");
        }
        // Nor is one named as a cure.
        let private = format!("qemu-kvm -m 512 {DEVICE_OF_QEMU}");
        for line in ["qemu-kvm -m 512", &private, "cloud-hypervisor --memory size=1G", "crosvm run"]
        {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let findings = findings(&words, false);
            assert_eq!(findings.len(), 1, "{line}: {findings:?}");
            assert!(!findings[0].cure.contains("vhost"), "{line}: {findings:?}");
            assert!(findings[0].cure.contains("-netdev stream"), "{line}: {findings:?}");
        }
    }

    #[test]
    fn json_of_libvirt() {
        let memory = |share| {
            format!(
                "qemu -machine pc-q35-9.2,memory-backend=pc.ram \
                 -object {{\"qom-type\":\"memory-backend-memfd\",\"id\":\"pc.ram\",\"share\":{share},\"size\":1024}} \
                 -chardev socket,id=charnet0,path=/s,reconnect-ms=5000 \
                 -netdev {{\"type\":\"vhost-user\",\"chardev\":\"charnet0\",\"id\":\"hostnet0\"}}"
            )
        };
        assert!(judged(&memory("true")).starts_with("ok "), "{}", judged(&memory("true")));
        let private = judged(&memory("false"));
        assert_eq!(private, "missing guest memory: the memfd of pc.ram is private");
        let stream = r#"qemu -netdev {"type":"stream","addr":{"type":"unix","path":"/s"},"server":false,"id":"n"}"#;
        assert!(judged(stream).starts_with("ok guest memory: not shared"), "{}", judged(stream));
    }

    #[test]
    fn others() {
        let net = "--net vhost_user=true,socket=/s";
        for (line, expected) in [
            (
                format!("cloud-hypervisor --memory size=1G {net}"),
                "missing guest memory: the guest's memory is private",
            ),
            (
                "cloud-hypervisor --memory size=1G,shared=on".to_owned(),
                "missing network device: there is no --net with vhost_user and a socket",
            ),
            (
                format!("cloud-hypervisor --memory size=1G,shared=on {net}"),
                "ok network device: vhost-user at /s: passt --vhost-user --socket /s",
            ),
            (
                format!("cloud-hypervisor --memory=size=1G,shared=on --net tap=x {}", &net[6..]),
                "ok network device: vhost-user at /s: passt --vhost-user --socket /s",
            ),
            (
                format!(
                    "cloud-hypervisor --memory size=0 --memory-zone id=a,size=1G,shared=on {net}"
                ),
                "ok network device: vhost-user at /s: passt --vhost-user --socket /s",
            ),
            (
                "crosvm run --vhost-user type=net,socket=/s".to_owned(),
                "ok network device: vhost-user at /s: passt --vhost-user --socket /s",
            ),
            (
                "crosvm run".to_owned(),
                "missing network device: there is no --vhost-user of type net with a socket",
            ),
            ("bhyve".to_owned(), "missing guest memory: nothing is known of the front-end 'bhyve'"),
        ] {
            assert_eq!(judged(&line), expected, "{line}");
        }
    }
}
