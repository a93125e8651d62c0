//! QEMU's arguments: what there is of a network gives way to one device, virtio-net, and one back-end, which is a
//! descriptor. The device takes over the place and the address of the first one that has gone.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::Path;

/// The back-end's name.
const BACK_END: &str = "hostnet0";

/// Network devices that give way, whatever back-end they have.
const DEVICES: [&str; 5] = ["virtio-net-pci", "virtio-net-ccw", "e1000", "e1000e", "rtl8139"];

const PCI_DEVICE: &str = "virtio-net-pci";
/// Machines without PCI, by how their names begin, and the device that they have instead.
const OTHER_DEVICES: [(&str, &str); 2] =
    [("s390", "virtio-net-ccw"), ("microvm", "virtio-net-device")];

/// What a device leaves to the one in its place; the second list on PCI only, the third on channels only.
const KEPT: [&str; 3] = ["id", "mac", "bootindex"];
const KEPT_ON_PCI: [&str; 2] = ["bus", "addr"];
const KEPT_ON_CHANNELS: [&str; 1] = ["devno"];

/// Questions about QEMU itself.
const QUESTIONS: [&str; 3] = ["h", "help", "version"];

/// Whether a guest is to be started. Who asks what QEMU knows, as libvirt does, has no use for a network, and maybe
/// no passt yet.
pub(super) fn want_a_guest(arguments: &[OsString]) -> bool {
    let asks = |word: &OsString| option(word).is_some_and(|name| QUESTIONS.contains(&name));
    !arguments.iter().any(asks) && machine(arguments) != Some("none")
}

/// The arguments with passt's device, whose descriptor is `number`.
pub(super) fn with_passt(program: &Path, arguments: &[OsString], number: RawFd) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut gone = None;
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        match option(word) {
            Some("netdev" | "net") => {
                rest.next();
            }
            Some("device") => match rest.next() {
                Some(value) => match network_device(value) {
                    Some(device) => gone = gone.or(Some(device)),
                    None => kept.extend([word.clone(), value.clone()]),
                },
                None => kept.push(word.clone()),
            },
            _ => kept.push(word.clone()),
        }
    }
    let device = device_for(program, arguments, &gone.unwrap_or_default());
    kept.extend(["-device", &device, "-netdev"].map(OsString::from));
    kept.push(format!("socket,fd={number},id={BACK_END}").into());
    kept
}

/// The name of an option, which may have one dash or two.
fn option(word: &OsStr) -> Option<&str> {
    let word = word.to_str()?;
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    Some(name).filter(|name| !name.is_empty())
}

/// The kind of machine, the last one that is named.
fn machine(arguments: &[OsString]) -> Option<&str> {
    let pairs = arguments.windows(2).rev();
    let mut values = pairs.filter(|pair| matches!(option(&pair[0]), Some("machine" | "M")));
    values.find_map(|pair| {
        let value = pair[1].to_str()?;
        let mut parts = value.split(',');
        let first = parts.next().filter(|first| !first.contains('='));
        first.or_else(|| value.split(',').find_map(|part| part.strip_prefix("type=")))
    })
}

/// A device's properties, as text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Properties(Vec<(String, String)>);

impl Properties {
    fn value(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        pairs.find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// What `-device` describes, if it is a network device: one of those that give way, or one with a back-end, which has gone.
fn network_device(value: &OsStr) -> Option<Properties> {
    let text = value.to_str()?;
    let properties = in_json(text).unwrap_or_else(|| in_words(text));
    let driver = properties.value("driver").unwrap_or_default();
    let gives_way = DEVICES.contains(&driver) || properties.value("netdev").is_some();
    gives_way.then_some(properties)
}

/// `DRIVER,a=b,c=d`, where a doubled comma stands for one.
fn in_words(text: &str) -> Properties {
    let whole = text.replace(",,", "\0");
    let mut parts = whole.split(',');
    let driver = parts.next().unwrap_or_default();
    let driver = driver.strip_prefix("driver=").unwrap_or(driver);
    let mut properties = vec![("driver".to_owned(), driver.to_owned())];
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        properties.push((name.to_owned(), value.replace('\0', ",")));
    }
    Properties(properties)
}

/// An object in JSON, as libvirt gives it to QEMU 6.2 and later.
fn in_json(text: &str) -> Option<Properties> {
    let members: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    let plain = members.into_iter().filter_map(|(name, value)| match value {
        serde_json::Value::String(text) => Some((name, text)),
        serde_json::Value::Number(number) => Some((name, number.to_string())),
        _ => None,
    });
    Some(Properties(plain.collect()))
}

/// The device of ours, in the place of the one that has gone.
fn device_for(program: &Path, arguments: &[OsString], gone: &Properties) -> String {
    let program = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    // A program for one kind of processor says which machine there is, if nothing else does.
    let machine = machine(arguments).or(program.strip_prefix("qemu-system-")).unwrap_or_default();
    let other = OTHER_DEVICES.iter().find(|(begin, _)| machine.starts_with(begin));
    let driver = other.map_or(PCI_DEVICE, |(_, driver)| driver);
    let mut device = format!("{driver},netdev={BACK_END}");
    let places: &[&str] = match driver {
        PCI_DEVICE => &KEPT_ON_PCI,
        "virtio-net-ccw" => &KEPT_ON_CHANNELS,
        _ => &[],
    };
    for key in KEPT.iter().chain(places) {
        if let Some(value) = gone.value(key) {
            device.push_str(&format!(",{key}={}", value.replace(',', ",,")));
        }
    }
    device
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn rewritten(program: &str, line: &str) -> String {
        let words = with_passt(Path::new(program), &words(line), 5);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn what_there_is_of_a_network_gives_way() {
        let plain = "-device virtio-net-pci,netdev=hostnet0 -netdev socket,fd=5,id=hostnet0";
        for (before, after) in [
            ("", ""),
            ("test.qcow2 -m 1024 -display none", "test.qcow2 -m 1024 -display none "),
            ("-net none -m 1", "-m 1 "),
            ("-net nic,model=virtio -net user -m 1", "-m 1 "),
            ("--netdev user,id=x -m 1 -netdev tap,id=y", "-m 1 "),
            ("-device e1000 -device rtl8139,netdev=x -m 1", "-m 1 "),
            ("-device virtio-net,netdev=x -m 1", "-m 1 "),
            (
                "-device e1000e-like -device virtio-rng-pci",
                "-device e1000e-like -device virtio-rng-pci ",
            ),
            // What ends too early is QEMU's to complain about.
            ("-m 1 -device", "-m 1 -device "),
            ("-m 1 -net", "-m 1 "),
            ("-", "- "),
        ] {
            assert_eq!(rewritten("/usr/bin/kvm", before), format!("{after}{plain}"), "{before}");
        }
    }

    #[test]
    fn the_new_device_takes_the_place_and_the_address_of_the_first() {
        for (before, device) in [
            (
                "-device virtio-net-pci,netdev=h,id=net0,mac=52:54:00:01:02:03,bus=pci.1,addr=0x0,mq=on -device e1000,mac=52:54:00:00:00:09",
                "virtio-net-pci,netdev=hostnet0,id=net0,mac=52:54:00:01:02:03,bus=pci.1,addr=0x0",
            ),
            (
                r#"-device {"driver":"e1000e","netdev":"h","id":"net0","mac":"52:54:00:01:02:03","bootindex":2,"bus":"pcie.0","addr":"0x3"}"#,
                "virtio-net-pci,netdev=hostnet0,id=net0,mac=52:54:00:01:02:03,bootindex=2,bus=pcie.0,addr=0x3",
            ),
            (
                "-M s390-ccw-virtio -device virtio-net-ccw,netdev=h,devno=fe.0.0002,bus=x",
                "virtio-net-ccw,netdev=hostnet0,devno=fe.0.0002",
            ),
            ("-device driver=rtl8139,id=a,,b", "virtio-net-pci,netdev=hostnet0,id=a,,b"),
        ] {
            let line = rewritten("kvm", before);
            assert!(line.contains(&format!("-device {device} -netdev")), "{before}: {line}");
            assert_eq!(line.matches("-device").count(), 1, "{line}");
        }
    }

    #[test]
    fn machines_without_pci_have_another_device() {
        for (program, line, device) in [
            ("qemu-system-s390x", "-m 1", "virtio-net-ccw"),
            ("kvm", "-machine type=s390-ccw-virtio,accel=kvm", "virtio-net-ccw"),
            ("kvm", "-machine accel=kvm,type=microvm", "virtio-net-device"),
            ("kvm", "-M s390-ccw-virtio -M q35", "virtio-net-pci"),
            ("qemu-system-aarch64", "-machine virt", "virtio-net-pci"),
        ] {
            let line = rewritten(program, line);
            assert!(line.contains(&format!("-device {device},netdev=hostnet0")), "{line}");
        }
    }

    #[test]
    fn who_only_asks_gets_no_network() {
        for line in [
            "-version",
            "--version",
            "-m 1 -help",
            "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg -daemonize",
            "-M none",
        ] {
            assert!(!want_a_guest(&words(line)), "{line}");
        }
        for line in ["", "-m 1024", "-machine q35", "-machine pc -name version", "-nographic"] {
            assert!(want_a_guest(&words(line)), "{line}");
        }
    }

    #[test]
    fn what_is_not_utf8_stays() {
        use std::os::unix::ffi::OsStringExt;
        let odd = OsString::from_vec(b"disk\xff.img".to_vec());
        let words = with_passt(Path::new("kvm"), &["-hda".into(), odd.clone()], 6);
        assert_eq!(words[1], odd);
        assert_eq!(words.last().and_then(|word| word.to_str()), Some("socket,fd=6,id=hostnet0"));
    }
}
