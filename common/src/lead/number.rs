//! Numbers as people and Clay columns write them.

/// What may stand between groups of three digits: comma, space, no-break spaces, apostrophe.
const GROUP_SEPARATORS: [char; 5] = [',', ' ', '\u{a0}', '\u{202f}', '\''];

/// Reads `85`, `85.5`, `1,200`, `1 200.50` or `1e3`; never infinite or NaN.
///
/// A decimal comma (`85,5`) and ranges (`51-200`) are refused rather than guessed at.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = |character: char| character.is_ascii_digit() || matches!(character, '+' | '-' | '.' | 'e' | 'E');
    let number: f64 = if text.chars().all(plain) { text.parse().ok()? } else { ungroup(text)?.parse().ok()? };
    number.is_finite().then_some(number)
}

/// `-1,200.5` without its separators, if they are all alike and stand where separators stand.
fn ungroup(text: &str) -> Option<String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let unsigned = whole.strip_prefix(['+', '-']).unwrap_or(whole);
    let separator = unsigned.chars().find(|character| !character.is_ascii_digit())?;
    let digits = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut groups = unsigned.split(separator);
    let grouped = GROUP_SEPARATORS.contains(&separator)
        && digits(groups.next()?, 1..=3)
        && groups.all(|group| digits(group, 3..=3))
        && digits(fraction, 1..=usize::MAX);
    grouped.then(|| format!("{}.{fraction}", whole.replace(separator, "")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for (text, expected) in [
            ("85", Some(85.0)),
            (" 85.5 ", Some(85.5)),
            ("0", Some(0.0)),
            ("-3", Some(-3.0)),
            ("+7", Some(7.0)),
            ("1e3", Some(1000.0)),
            ("1,200", Some(1200.0)),
            ("1,200,300", Some(1_200_300.0)),
            ("-1,200.75", Some(-1200.75)),
            ("1 200", Some(1200.0)),
            ("1\u{a0}200", Some(1200.0)),
            ("1\u{202f}200,0", None),
            ("12'500", Some(12500.0)),
            ("", None),
            ("85,5", None),
            ("1,20", None),
            ("1,2000", None),
            ("1,200 300", None),
            (",200", None),
            ("1,,200", None),
            ("1,200.", None),
            ("1.200,5", None),
            ("51-200", None),
            ("1000+", None),
            ("about 50", None),
            ("85%", None),
            ("inf", None),
            ("NaN", None),
            ("1e999", None),
            ("0x10", None),
            ("١٢", None),
            ("e", None),
        ] {
            assert_eq!(parse_number(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_finite_number_survives_being_written(number in any::<f64>()) {
            prop_assert_eq!(parse_number(&number.to_string()), number.is_finite().then_some(number));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            prop_assert!(parse_number(&text).is_none_or(f64::is_finite));
        }
    }
}
