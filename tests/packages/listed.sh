# shellcheck shell=bash
# What contrib/packaging/files says, for the tests of packages.

# listed PREFIX ZSH APPARMOR SELINUX WORD...: all paths below the root that a package has then, sorted; without those that
# have one of the words in them.
listed() {
    local prefix=$1 zsh=$2 apparmor=$3 selinux=$4 path source rest file word
    shift 4
    while read -r path source rest; do
        case $path in '' | '#'*) continue ;; esac
        path=${path//@zsh@/$zsh}
        path=${path//@apparmor@/$apparmor}
        path=${path//@selinux@/$selinux}
        for word in "$@"; do
            case $path in *"$word"*) continue 2 ;; esac
        done
        case $path in /*) ;; *) path=$prefix/$path ;; esac
        case $path in
        *'/*') for file in "$ROOT"/$source; do echo "${path%'*'}${file##*/}"; done ;;
        */man/man*) echo "$path.gz" ;;
        *) echo "$path" ;;
        esac
    done <"$ROOT/contrib/packaging/files" | LC_ALL=C sort
}
SELINUX=share/passt-rs/selinux APPARMOR=share/passt-rs/apparmor

listed_deb() { listed /usr share/zsh/vendor-completions /etc/apparmor.d "$SELINUX" | sed 's#doc/passt-rs/LICENSE-MIT$#doc/passt-rs/copyright#' | LC_ALL=C sort; }
listed_static() { listed '' share/zsh/site-functions "$APPARMOR" "$SELINUX"; }
listed_rpm() { listed /usr share/zsh/site-functions "$APPARMOR" "$SELINUX"; }
listed_arch() { listed /usr share/zsh/site-functions /etc/apparmor.d "$SELINUX"; }
listed_alpine() { listed /usr share/zsh/site-functions "$APPARMOR" "$SELINUX" systemd; }
listed_nix() { listed '' share/zsh/site-functions "$APPARMOR" "$SELINUX" licences sbom; }

# files_of_rpm RPM: as a list has them, without folders.
files_of_rpm() { rpm -qplv "$1" | awk '$1 !~ /^d/ { sub(/ -> .*/, ""); print $NF }' | LC_ALL=C sort; }
