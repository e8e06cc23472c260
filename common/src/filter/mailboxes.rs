//! The lists of e-mail domains, as they lie in `common/data`: one domain a line, sorted. Their first lines name the
//! packages that a newer list is taken from. Sub-domains are the caller's to cut off.

use std::collections::HashSet;
use std::sync::LazyLock;

static PERSONAL: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| entries(include_str!("../../data/personal-email-domains.txt")).collect());
static DISPOSABLE: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| entries(include_str!("../../data/disposable-email-domains.txt")).collect());

/// Whether anybody can have a mailbox at `domain` (`gmail.com`).
pub fn is_personal(domain: &str) -> bool {
    PERSONAL.contains(domain)
}

/// Whether mailboxes at `domain` are thrown away (`mailinator.com`).
pub fn is_disposable(domain: &str) -> bool {
    DISPOSABLE.contains(domain)
}

fn entries(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_clean_and_apart() {
        for (name, text) in [
            ("personal", include_str!("../../data/personal-email-domains.txt")),
            ("disposable", include_str!("../../data/disposable-email-domains.txt")),
        ] {
            let header: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
            assert!(header.len() == 3 && header[2].starts_with("# As of 20"), "{name}: where it comes from, and when");
            let all: Vec<&str> = entries(text).collect();
            assert!(all.len() > 4_000, "{name}: {}", all.len());
            assert!(all.is_sorted_by(|a, b| a < b), "{name}: sorted, each once");
            let is_clean = |domain: &&str| {
                let clean = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
                domain.contains('.') && domain.bytes().all(clean)
            };
            assert_eq!(all.iter().find(|domain| !is_clean(domain)), None, "{name}");
        }
        assert_eq!(PERSONAL.intersection(&DISPOSABLE).next(), None);
        for domain in ["gmail.com", "web.de", "qq.com", "proton.me", "yahoo.co.uk"] {
            assert!(is_personal(domain) && !is_disposable(domain), "{domain}");
        }
        assert!(is_disposable("mailinator.com") && !is_disposable("example.com") && !is_personal("example.com"));
    }
}
