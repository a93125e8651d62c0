//! The file system as the process sees it (mount_namespaces(7), pivot_root(2)).

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_move, unmount,
};
use rustix::process::{chdir, chroot, pivot_root};

/// Lets no mount of the calling mount namespace reach another one, or come from one.
///
/// # Errors
/// What mount(2) reports.
pub(crate) fn detach_all() -> Result<(), Errno> {
    mount_change("/", MountPropagationFlags::UNBINDABLE | MountPropagationFlags::REC)
}

/// Lets no mount of the calling mount namespace reach another one. Those of others still come, unless a
/// policy (AppArmor) refuses that and allows [`detach_all`] only.
///
/// # Errors
/// What mount(2) reports.
pub(crate) fn keep_to_ourselves() -> Result<(), Errno> {
    match mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC) {
        Err(Errno::ACCESS) => detach_all(),
        changed => changed,
    }
}

/// Mounts an empty file system on `place` in which nothing can be made, and goes there.
///
/// # Errors
/// What mount(2) or chdir(2) report.
pub(crate) fn enter_empty(place: &str) -> Result<(), Errno> {
    let flags = MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::RDONLY;
    mount("", place, "tmpfs", flags, c"nr_inodes=2,nr_blocks=0")?;
    chdir(place)
}

/// Makes the working directory, a mount, the root, and leaves the old root behind for good.
///
/// # Errors
/// What pivot_root(2) or umount(2) report; `INVAL` where the root is the kernel's first.
pub(crate) fn pivot_to_here() -> Result<(), Errno> {
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

/// Makes the working directory, a mount, the root by moving it over the old one, which stays mounted
/// below it.
///
/// # Errors
/// What mount(2) or chroot(2) report.
pub(crate) fn chroot_to_here() -> Result<(), Errno> {
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")
}
