//! What is said of ports that cannot be opened, by the protocols that have a field for it.

/// What failed and what to do, out of an error of several lines: what failed stands on the first, and what to do
/// behind the colon of the second.
pub(super) fn words_of(text: &str) -> (String, String) {
    let mut lines = text.lines();
    let problem = lines.next().unwrap_or_default().to_owned();
    let second = lines.next().unwrap_or_default();
    let cure = second.split_once(": ").map_or(second, |(_, cure)| cure);
    let cure = cure.split(" (option").next().unwrap_or(cure);
    (format!("{problem}; nothing has changed"), cure.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_several_lines_is_what_failed_and_what_to_do() {
        let (problem, cure) = words_of(
            "Listen failed for HOST TCP port */22: Address already in use\n\
             Failed to bind port 22: choose another one, or stop the program that has it (option -t)\n\
             Couldn't listen on requested ports",
        );
        assert_eq!(
            problem,
            "Listen failed for HOST TCP port */22: Address already in use; nothing has changed"
        );
        assert_eq!(cure, "choose another one, or stop the program that has it");
        let (_, cure) = words_of("All listens failed for x\nCouldn't listen on requested ports: y");
        assert_eq!(cure, "y");
    }
}
