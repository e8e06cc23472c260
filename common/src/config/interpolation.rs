//! `${VARIABLE}` in strings; `$$` stands for one `$`, and a `$` before anything else for itself.

use super::Environment;

/// Why a string cannot be completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// Variables that are unset or empty.
    Unset(Vec<String>),
    /// `${` without a variable's name and `}` behind it.
    Syntax,
}

/// Replaces every `${VARIABLE}` of `text`.
///
/// # Errors
/// [`Gap::Unset`] names all missing variables at once.
pub(super) fn interpolate(text: &str, environment: &Environment) -> Result<String, Gap> {
    let mut complete = String::with_capacity(text.len());
    let mut unset = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        complete.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            complete.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (name, behind) = after.split_once('}').filter(|(name, _)| is_name(name)).ok_or(Gap::Syntax)?;
            match environment.get(name) {
                Some(value) => complete.push_str(value),
                None => unset.push(name.to_owned()),
            }
            rest = behind;
        } else {
            complete.push('$');
        }
    }
    complete.push_str(rest);
    if unset.is_empty() { Ok(complete) } else { Err(Gap::Unset(unset)) }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment() -> Environment {
        [("HOST", "example.com"), ("TOKEN", "t$0{}"), ("EMPTY", "")].into_iter().collect()
    }

    #[test]
    fn variables_are_replaced() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("${HOST}", "example.com"),
            ("https://${HOST}/${TOKEN}?x", "https://example.com/t$0{}?x"),
            ("$$", "$"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$example.com"),
            ("5 $ and $5", "5 $ and $5"),
            ("end$", "end$"),
            ("ä${HOST}ö", "äexample.comö"),
        ] {
            assert_eq!(interpolate(text, &environment()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn gaps_are_named() {
        assert_eq!(
            interpolate("${NO} ${HOST} ${EMPTY}", &environment()),
            Err(Gap::Unset(vec!["NO".to_owned(), "EMPTY".to_owned()]))
        );
        for text in ["${", "${}", "${HOST", "${A B}", "${1A}", "x${é}"] {
            assert_eq!(interpolate(text, &environment()), Err(Gap::Syntax), "{text}");
        }
    }

    proptest! {
        #[test]
        fn escaping_every_dollar_gives_the_text_back(text in ".*") {
            prop_assert_eq!(interpolate(&text.replace('$', "$$"), &Environment::default()), Ok(text));
        }
    }
}
