//! The command line of a virtual machine monitor: whether the guest's memory is shared, and whether its network device
//! leads to a socket of ours. vhost-user needs the memory as a descriptor that the monitor hands over, mapped by both.

use super::finding::Finding;

const MEMORY: &str = "guest memory";
const DEVICE: &str = "network device";

/// What makes QEMU's memory shared.
const QEMU_CURE: &str =
    "-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem";

/// Judges a command line, program first.
pub(super) fn findings(words: &[String]) -> Vec<Finding> {
    let program = words.first().map_or("", |word| word.rsplit('/').next().unwrap_or_default());
    let rest = words.get(1..).unwrap_or_default();
    if program.starts_with("qemu") || program == "kvm" {
        qemu(rest)
    } else if program.starts_with("cloud-hypervisor") {
        cloud_hypervisor(rest)
    } else if program == "crosvm" {
        crosvm(rest)
    } else {
        let text = format!("nothing is known of the front-end '{program}'");
        vec![Finding::lacks(
            MEMORY,
            text,
            "give the command line of QEMU, cloud-hypervisor or crosvm",
        )]
    }
}

/// The values of an option, which may have one or two dashes, in the form `KIND,a=b,c=d`.
fn arguments_of(words: &[String], option: &str) -> Vec<String> {
    let named = |word: &str| word.trim_start_matches('-') == option && word.starts_with('-');
    let pairs = words.windows(2).filter(|pair| named(&pair[0]));
    pairs.map(|pair| without_json(&pair[1])).collect()
}

/// A value in JSON, as libvirt gives it to QEMU, in the form that people use. What has more than one level is not
/// looked at here.
fn without_json(value: &str) -> String {
    let Some(members) = value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return value.to_owned();
    };
    let unquoted = |text: &str| text.trim().trim_matches('"').to_owned();
    let members = members.split(',').filter_map(|member| member.split_once(':'));
    let members = members.map(|(name, value)| (unquoted(name), unquoted(value)));
    let (kinds, rest): (Vec<_>, Vec<_>) =
        members.partition(|(name, _)| matches!(name.as_str(), "type" | "qom-type" | "backend"));
    let mut text = kinds.into_iter().next().map_or_else(String::new, |(_, kind)| kind);
    for (name, value) in rest {
        text.push_str(&format!(",{name}={value}"));
    }
    text
}

/// The value of `key` in `a=b,c=d`.
fn property<'a>(value: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = value.split(',').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
}

fn is_on(value: Option<&str>) -> Option<bool> {
    Some(matches!(value?, "on" | "yes" | "true" | "y"))
}

/// The first word of a value, before its properties.
fn first_word(value: &str) -> &str {
    value.split(',').next().unwrap_or_default()
}

fn qemu(words: &[String]) -> Vec<Finding> {
    let netdevs = arguments_of(words, "netdev");
    if let Some(device) = netdevs.iter().find(|device| first_word(device) == "vhost-user") {
        return vec![qemu_memory(words), qemu_chardev(words, device)];
    }
    let stream = |device: &String| matches!(first_word(device), "stream" | "socket");
    if netdevs.iter().any(stream) {
        return vec![Finding::fine(
            MEMORY,
            "not shared, and need not be: frames go through a stream socket",
        )];
    }
    let cure = "-chardev socket,id=c,path=SOCKET -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n";
    vec![Finding::lacks(
        DEVICE,
        "there is no -netdev vhost-user, and none of the stream protocol",
        cure,
    )]
}

fn qemu_memory(words: &[String]) -> Finding {
    let machines = arguments_of(words, "machine").into_iter().chain(arguments_of(words, "M"));
    let machines: Vec<String> = machines.collect();
    let nodes = arguments_of(words, "numa");
    let by_machine = machines.iter().filter_map(|machine| property(machine, "memory-backend"));
    let by_node = nodes.iter().filter_map(|node| property(node, "memdev"));
    let used: Vec<&str> = by_machine.chain(by_node).collect();
    let objects = arguments_of(words, "object");
    if used.is_empty() {
        let unused = objects.iter().any(|object| first_word(object).starts_with("memory-backend"));
        let text = if unused {
            "a memory object is made, but the machine does not use it"
        } else {
            "the machine's memory is QEMU's own"
        };
        return Finding::lacks(MEMORY, text, QEMU_CURE);
    }
    for id in used {
        let object = objects.iter().find(|object| property(object, "id") == Some(id));
        let Some(object) = object else {
            return Finding::lacks(MEMORY, format!("there is no -object with id={id}"), QEMU_CURE);
        };
        let share = is_on(property(object, "share"));
        let (kind, shared) = match first_word(object) {
            "memory-backend-memfd" => ("memfd", share.unwrap_or(true)),
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
    let chardevs = arguments_of(words, "chardev");
    let found = chardevs.iter().find(|chardev| property(chardev, "id") == Some(id));
    match found {
        None => {
            let text = format!("there is no -chardev with id={id}, which -netdev vhost-user names");
            Finding::lacks(DEVICE, text, format!("-chardev socket,id={id},path=SOCKET"))
        }
        Some(chardev) if first_word(chardev) != "socket" || property(chardev, "path").is_none() => {
            let text = format!("-chardev {chardev} is no UNIX socket");
            Finding::lacks(DEVICE, text, format!("-chardev socket,id={id},path=SOCKET"))
        }
        Some(chardev) if is_on(property(chardev, "server")) == Some(true) => {
            let text = "QEMU would wait for a client on the socket, as passt does";
            Finding::lacks(DEVICE, text, format!("leave server=on out of -chardev {chardev}"))
        }
        Some(chardev) => {
            let path = property(chardev, "path").unwrap_or_default();
            Finding::fine(
                DEVICE,
                format!("vhost-user at {path}: passt --vhost-user --socket {path}"),
            )
        }
    }
}

fn cloud_hypervisor(words: &[String]) -> Vec<Finding> {
    let memory = arguments_of(words, "memory");
    let shared = memory.iter().any(|memory| is_on(property(memory, "shared")) == Some(true));
    let memory = if shared {
        Finding::fine(MEMORY, "shared")
    } else {
        Finding::lacks(MEMORY, "the guest's memory is private", "--memory size=SIZE,shared=on")
    };
    let nets = arguments_of(words, "net");
    let net = nets.iter().find(|net| is_on(property(net, "vhost_user")) == Some(true));
    let socket = net.and_then(|net| property(net, "socket"));
    let device = match socket {
        Some(path) => Finding::fine(
            DEVICE,
            format!("vhost-user at {path}: passt --vhost-user --socket {path}"),
        ),
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
    let devices = arguments_of(words, "vhost-user");
    let net = devices
        .iter()
        .find(|device| first_word(device) == "net" || property(device, "type") == Some("net"));
    let device = match net.and_then(|net| property(net, "socket")) {
        Some(path) => Finding::fine(
            DEVICE,
            format!("vhost-user at {path}: passt --vhost-user --socket {path}"),
        ),
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

    /// The worst of a line is at the end.
    fn judged(line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let findings = findings(&words);
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
        ] {
            let findings = findings(
                &format!("kvm {memory} {DEVICE_OF_QEMU}")
                    .split(' ')
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
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
                "-netdev stream,id=n,server=off,addr.type=unix,addr.path=/s",
                "ok guest memory: not shared, and need not be: frames go through a stream socket",
            ),
        ] {
            let line = format!("qemu-kvm {shared} {device}");
            assert_eq!(judged(&line), expected, "{line}");
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
