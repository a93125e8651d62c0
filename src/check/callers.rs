//! Podman and libvirt, where they are installed: whether it is this program that they would start.

use std::fs;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::conf::Mode;

/// Where Podman looks for its helpers, before `$PATH`, if its configuration does not say otherwise.
const PODMAN_FOLDERS: [&str; 5] = [
    "/usr/local/libexec/podman",
    "/usr/local/lib/podman",
    "/usr/libexec/podman",
    "/usr/lib/podman",
    "/usr/bin",
];

/// Daemons of libvirt that start passt.
const LIBVIRT: [&str; 2] = ["virtqemud", "libvirtd"];

pub(super) fn findings(mode: Mode) -> Vec<Finding> {
    let found = if mode == Mode::Pasta { podman() } else { libvirt() };
    found.into_iter().collect()
}

fn podman() -> Option<Finding> {
    const TOPIC: &str = "Podman";
    in_path("podman")?;
    let conf = containers_conf();
    if let Some(other) =
        conf.iter().rev().find_map(|text| strings_of(text, "default_rootless_network_cmd"))
        && other.first().is_some_and(|word| word != "pasta")
    {
        let text = format!("uses {} by default", other.join(" "));
        let cure = "--network pasta, or default_rootless_network_cmd=\"pasta\" in containers.conf";
        return Some(Finding::limits(TOPIC, text, cure));
    }
    let folders = conf.iter().rev().find_map(|text| strings_of(text, "helper_binaries_dir"));
    let folders = folders.unwrap_or_else(|| PODMAN_FOLDERS.map(str::to_owned).to_vec());
    let cure = own_folder().map(|own| {
        format!("helper_binaries_dir=[\"{}\"] under [engine] in containers.conf", own.display())
    });
    let found =
        folders.iter().map(|folder| Path::new(folder).join("pasta")).find(|path| path.exists());
    Some(judge(TOPIC, "pasta", found.or_else(|| in_path("pasta")), cure))
}

fn libvirt() -> Option<Finding> {
    LIBVIRT.iter().find_map(|daemon| in_path(daemon))?;
    let cure = own_folder().map(|own| {
        format!("install this program as /usr/bin/passt, or link {}/passt there", own.display())
    });
    Some(judge("libvirt", "passt", in_path("passt"), cure))
}

/// Whether `found` is this program, or was installed together with it.
fn judge(topic: &'static str, name: &str, found: Option<PathBuf>, cure: Option<String>) -> Finding {
    let cure = cure.unwrap_or_default();
    let Some(found) = found else {
        return Finding::limits(topic, format!("finds no {name}"), cure);
    };
    let real = fs::canonicalize(&found).unwrap_or_else(|_| found.clone());
    if real.parent() == own_folder().as_deref() {
        return Finding::fine(topic, format!("starts {}, which is this program", found.display()));
    }
    Finding::limits(topic, format!("starts {}, which is another program", found.display()), cure)
}

/// The folder of this program, links followed.
fn own_folder() -> Option<PathBuf> {
    let own = fs::canonicalize(std::env::current_exe().ok()?).ok()?;
    own.parent().map(Path::to_owned)
}

/// Where `$PATH`, or a folder for administrators, has the program.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Podman's configuration, the strongest last (containers.conf(5)).
fn containers_conf() -> Vec<String> {
    let files = containers_conf_files(&|name| std::env::var_os(name).map(PathBuf::from));
    // Nobody waits for a pipe of that name.
    let files = files.into_iter().filter(|file| file.is_file());
    files.filter_map(|file| fs::read_to_string(file).ok()).collect()
}

/// Where it is, by the environment: each file, and what is in the folder of its name with `.d`.
fn containers_conf_files(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let last = variable("CONTAINERS_CONF_OVERRIDE");
    if let Some(only) = variable("CONTAINERS_CONF") {
        return [only].into_iter().chain(last).collect();
    }
    let own = variable("XDG_CONFIG_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".config")))
        .map(|folder| folder.join("containers/containers.conf"));
    let files = ["/usr/share/containers/containers.conf", "/etc/containers/containers.conf"];
    let files = files.map(PathBuf::from).into_iter().chain(own);
    files.flat_map(|file| [vec![file.clone()], more_files(file)].concat()).chain(last).collect()
}

/// The files in the folder beside `file`, in the order of their names.
fn more_files(file: PathBuf) -> Vec<PathBuf> {
    let mut folder = file.into_os_string();
    folder.push(".d");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|end| end == "conf")).collect();
    files.sort();
    files
}

/// The strings that TOML gives `key`, one or a list, in whatever section: these keys are in one only.
fn strings_of(toml: &str, key: &str) -> Option<Vec<String>> {
    let mut lines = toml.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let first = lines.by_ref().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then_some(value.trim())
    })?;
    let mut text = first.to_owned();
    if text.starts_with('[') {
        for line in lines.take_while(|_| !first.contains(']')) {
            text.push_str(line);
            if line.contains(']') {
                break;
            }
        }
    }
    Some(text.split(['"', '\'']).skip(1).step_by(2).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_containers_conf() {
        let conf = "[network]\n# default_rootless_network_cmd = \"x\"\ndefault_rootless_network_cmd=\"slirp4netns\"\n\
                    [engine]\nhelper_binaries_dir = [\n  \"/a\", # first\n  \"/b\",\n]\nother = [\"/c\"]\n";
        assert_eq!(
            strings_of(conf, "default_rootless_network_cmd"),
            Some(vec!["slirp4netns".to_owned()])
        );
        assert_eq!(
            strings_of(conf, "helper_binaries_dir"),
            Some(vec!["/a".to_owned(), "/b".to_owned()])
        );
        assert_eq!(strings_of(conf, "other"), Some(vec!["/c".to_owned()]));
        assert_eq!(strings_of("key = 'word'", "key"), Some(vec!["word".to_owned()]));
        assert_eq!(strings_of(conf, "nothing"), None);
    }

    #[test]
    fn where_containers_conf_is() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".config/containers");
        fs::create_dir_all(folder.join("containers.conf.d")).unwrap();
        for name in ["b.conf", "a.conf", "c.txt"] {
            fs::write(folder.join("containers.conf.d").join(name), "").unwrap();
        }
        let files = containers_conf_files(&|name| (name == "HOME").then(|| home.path().into()));
        let own = ["containers.conf", "containers.conf.d/a.conf", "containers.conf.d/b.conf"];
        assert!(files.ends_with(&own.map(|name| folder.join(name))), "{files:?}");
        assert_eq!(files[0], Path::new("/usr/share/containers/containers.conf"));
        let files = containers_conf_files(&|name| Some(Path::new("/").join(name)));
        let named = ["/CONTAINERS_CONF", "/CONTAINERS_CONF_OVERRIDE"];
        assert_eq!(files, named.map(PathBuf::from));
    }

    #[test]
    fn who_is_started() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("pasta");
        fs::write(&other, "").unwrap();
        let own = std::env::current_exe().unwrap();
        let judged = |found| judge("Podman", "pasta", found, Some("cure".to_owned())).text;
        assert_eq!(judged(None), "finds no pasta");
        assert!(judged(Some(other)).ends_with("which is another program"));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert!(judged(Some(link)).ends_with("which is this program"));
    }
}
