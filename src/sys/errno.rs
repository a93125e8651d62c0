//! What error numbers mean, in words. Callers and test suites look for those of glibc, and musl has others
//! for some numbers: a message is the same whichever the program is linked with.

use rustix::io::Errno;

/// Numbers for which the two differ, with the words of musl and of glibc.
const WORDS: &[(i32, &str, &str)] = &[
    (libc::ENOMEM, "Out of memory", "Cannot allocate memory"),
    (libc::EBUSY, "Resource busy", "Device or resource busy"),
    (libc::EXDEV, "Cross-device link", "Invalid cross-device link"),
    (libc::EMFILE, "No file descriptors available", "Too many open files"),
    (libc::ENOTTY, "Not a tty", "Inappropriate ioctl for device"),
    (libc::ERANGE, "Result not representable", "Numerical result out of range"),
    (libc::ENAMETOOLONG, "Filename too long", "File name too long"),
    (libc::ELOOP, "Symbolic link loop", "Too many levels of symbolic links"),
    (libc::ENOTSOCK, "Not a socket", "Socket operation on non-socket"),
    (libc::EMSGSIZE, "Message too large", "Message too long"),
    (libc::EOPNOTSUPP, "Not supported", "Operation not supported"),
    (libc::EADDRINUSE, "Address in use", "Address already in use"),
    (libc::EADDRNOTAVAIL, "Address not available", "Cannot assign requested address"),
    (libc::ENETUNREACH, "Network unreachable", "Network is unreachable"),
    (libc::ECONNABORTED, "Connection aborted", "Software caused connection abort"),
    (libc::EISCONN, "Socket is connected", "Transport endpoint is already connected"),
    (libc::ENOTCONN, "Socket not connected", "Transport endpoint is not connected"),
    (libc::ETIMEDOUT, "Operation timed out", "Connection timed out"),
    (libc::EHOSTUNREACH, "Host is unreachable", "No route to host"),
];

/// What an error number means, without the number.
pub(crate) fn errno_text(errno: Errno) -> String {
    let text = errno.to_string();
    let mut words =
        text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words).to_owned();
    settle(&mut words, errno.raw_os_error());
    words
}

/// The same of an error, or its own words where it has no number.
pub(crate) fn io_error_text(error: &std::io::Error) -> String {
    Errno::from_io_error(error).map_or_else(|| error.to_string(), errno_text)
}

/// Puts the usual words of error `number` at the end of `text` if musl's stand there.
pub(crate) fn settle(text: &mut String, number: i32) {
    let known = WORDS.iter().find(|(known, ..)| *known == number);
    if let Some((_, musl, usual)) = known
        && let Some(before) = text.strip_suffix(musl)
    {
        text.truncate(before.len());
        text.push_str(usual);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_do_not_depend_on_the_library() {
        for (number, musl, usual) in WORDS {
            assert_eq!(errno_text(Errno::from_raw_os_error(*number)), *usual);
            let mut text = format!("bind: {musl}");
            settle(&mut text, *number);
            assert_eq!(text, format!("bind: {usual}"));
        }
        let error = std::io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(io_error_text(&error), "Permission denied");
        assert_eq!(io_error_text(&std::io::Error::other("no reply")), "no reply");
        let mut text = "Address in use".to_owned();
        settle(&mut text, libc::EPERM);
        assert_eq!(text, "Address in use", "of another error");
    }
}
