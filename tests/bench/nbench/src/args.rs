//! Arguments of the form `key=value`, behind those that stand at a place.

use std::error::Error;
use std::str::FromStr;

/// The `key=value` words of a command, each of which must be known.
#[derive(Debug)]
pub struct Args<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Args<'a> {
    /// Splits the words.
    ///
    /// # Errors
    /// Names the first word that is not `key=value` with a key of `known`.
    pub fn parse(words: &[&'a str], known: &[&str]) -> Result<Self, Box<dyn Error>> {
        let split = |word: &&'a str| {
            let pair = word.split_once('=').filter(|(key, _)| known.contains(key));
            pair.ok_or_else(|| format!("'{word}' is none of {}", known.join("=, ") + "="))
        };
        Ok(Self(words.iter().map(split).collect::<Result<_, _>>()?))
    }

    /// The last value of `key`, or `otherwise`.
    ///
    /// # Errors
    /// Names the word that cannot be read.
    pub fn value<T: FromStr>(&self, key: &str, otherwise: T) -> Result<T, Box<dyn Error>> {
        let found = self.0.iter().rfind(|(name, _)| *name == key);
        let Some((_, value)) = found else { return Ok(otherwise) };
        value.parse().map_err(|_| format!("cannot read '{key}={value}'").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_and_unknown_keys_are_errors() {
        let args = Args::parse(&["flows=1", "flows=3"], &["flows", "size"]).unwrap();
        assert_eq!(args.value("flows", 9).unwrap(), 3);
        assert_eq!(args.value("size", 9).unwrap(), 9);
        assert!(Args::parse(&["flow=1"], &["flows"]).is_err());
        assert!(args.value::<std::net::IpAddr>("flows", "::".parse().unwrap()).is_err());
    }
}
