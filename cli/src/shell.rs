//! Words as a shell takes them.

/// A word, quoted where a shell would not take it for one word as it is.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_needs_it_is_quoted() {
        for plain in ["claygate-data/secrets/clay", "--before=2030-01-31T00:00:00Z/0193a1b2"] {
            assert_eq!(quote(plain), plain);
        }
        assert_eq!(quote("my data/it's"), r"'my data/it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
