//! Domains out of what people write for them.

use url::Host;

use crate::person;

/// `https://www.Example.com/x` → `example.com`; `None`: there is no domain in it.
pub(super) fn bare(text: &str) -> Option<String> {
    person::domain(text)
}

/// The domain of an e-mail address, also of `Ada <ada@example.com>`, in lower case and as DNS knows it.
pub(super) fn of_email(address: &str) -> Option<String> {
    let (_, domain) = address.rsplit_once('@')?;
    let domain = domain.trim().trim_end_matches(['>', ' ']).trim_end_matches('.').to_lowercase();
    if domain.is_ascii() {
        return Some(domain).filter(|domain| !domain.is_empty());
    }
    match Host::parse(&domain) {
        Ok(Host::Domain(ascii)) => Some(ascii),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_of_an_address() {
        for (address, expected) in [
            ("ada@example.com", Some("example.com")),
            ("\"a@b\"@Example.COM.", Some("example.com")),
            ("Ada <ada@example.com >", Some("example.com")),
            ("ada@bücher.example", Some("xn--bcher-kva.example")),
            ("ada", None),
            ("ada@", None),
        ] {
            assert_eq!(of_email(address).as_deref(), expected, "{address}");
        }
    }
}
