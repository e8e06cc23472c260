//! Who a lead is, for cool-downs: normalised email, else LinkedIn URL, else company domain and name.
//!
//! Two leads of one person must meet in the same hash however Clay wrote them, and two people must not: a company's page
//! is no person, and a name alone is none either.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::lead::Lead;

/// A person's hash (SHA-256 over kind and normalised value): what cool-downs compare and tables keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Person(pub [u8; 32]);

/// Extra fields that may hold the company's domain, the most telling first.
const DOMAIN_FIELDS: [&str; 3] = ["company_domain", "domain", "website"];

/// The first path segments of LinkedIn URLs that lead to people.
const LINKEDIN_PEOPLE: [&str; 4] = ["in", "pub", "sales", "talent"];

impl Person {
    /// The person of a lead, if it names one.
    pub(crate) fn of(lead: &Lead) -> Option<Self> {
        let by_email = lead.email.as_deref().map(Self::by_email);
        by_email.or_else(|| Self::by_linkedin_url(lead.linkedin_url.as_deref()?)).or_else(|| Self::by_company(lead))
    }

    /// The person that somebody names on a command line: by an e-mail address (what has an `@` and no `/`), else by the URL
    /// of a LinkedIn profile. `None` where a lead with this text as its only field would name nobody either.
    ///
    /// A profile is the person of leads without an e-mail address alone: one that has both is the person of its address.
    pub fn named(text: &str) -> Option<Self> {
        let field = if text.contains('@') && !text.contains('/') { "email" } else { "linkedin_url" };
        let object = Map::from_iter([(field.to_owned(), Value::from(text))]);
        Lead::normalise(&object, &BTreeMap::new()).person()
    }

    /// The person with that e-mail address, in any letter case.
    pub fn by_email(email: &str) -> Self {
        Self::hash("email", &[&email.trim().to_lowercase()])
    }

    fn by_linkedin_url(url: &str) -> Option<Self> {
        let (host, path) = split_url(url);
        if host != "linkedin.com" && !host.ends_with(".linkedin.com") {
            return None;
        }
        let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let kind = segments.first()?.to_ascii_lowercase();
        if segments.len() < 2 || !LINKEDIN_PEOPLE.contains(&kind.as_str()) {
            return None;
        }
        if kind == "in" {
            // Names in public profiles have no letter case, and what follows them is a part or a language of the profile.
            let name = segments.get(1)?.to_lowercase();
            return Some(Self::hash("linkedin", &["in", &name]));
        }
        *segments.first_mut()? = &kind;
        Some(Self::hash("linkedin", &segments))
    }

    fn by_company(lead: &Lead) -> Option<Self> {
        let first_name = fold(lead.first_name.as_deref()?);
        let last_name = fold(lead.last_name.as_deref()?);
        let domain =
            DOMAIN_FIELDS.iter().find_map(|field| lead.extra.get(*field).and_then(Value::as_str).and_then(domain));
        match (domain, lead.company_name.as_deref()) {
            (Some(domain), _) => Some(Self::hash("domain", &[&domain, &first_name, &last_name])),
            (None, Some(company)) => Some(Self::hash("company", &[&fold(company), &first_name, &last_name])),
            (None, None) => None,
        }
    }

    /// What stands in a person's place where chosen columns make two rows the same: the columns' names and values.
    pub(crate) fn by_columns(names: &[String], values: &[String]) -> Self {
        Self::hash("columns", &names.iter().chain(values).map(String::as_str).collect::<Vec<_>>())
    }

    fn hash(kind: &str, values: &[&str]) -> Self {
        let mut hasher = Sha256::new();
        for part in std::iter::once(&kind).chain(values) {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hasher.finalize().into())
    }
}

/// Lower case, single spaces.
fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// The domain in `acme.example`, `https://www.acme.example/about` and the like.
pub(crate) fn domain(text: &str) -> Option<String> {
    let (host, _) = split_url(text);
    let labels = host.split('.').count();
    (labels >= 2 && host.split('.').all(|label| !label.is_empty()) && !host.contains(char::is_whitespace))
        .then_some(host)
}

/// Host (lower case, without `www.`, user and port) and path (without query and fragment) of a URL or of what stands
/// where a URL should.
fn split_url(text: &str) -> (String, &str) {
    let text = text.trim();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = text.split_once('/').unwrap_or((text, ""));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default().trim_end_matches('.').to_lowercase();
    (host.strip_prefix("www.").map(str::to_owned).unwrap_or(host), path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn person(lead: Value) -> Option<Person> {
        let Value::Object(object) = lead else { return None };
        Lead::normalise(&object, &BTreeMap::new()).person()
    }

    fn linkedin(url: &str) -> Option<Person> {
        person(json!({ "linkedin_url": url }))
    }

    #[test]
    fn one_person_written_differently_is_one() {
        let jane = person(json!({"email": "jane@example.com"}));
        assert!(jane.is_some());
        for lead in [
            json!({"email": " Jane@Example.COM "}),
            json!({"email": "jane@example.com", "linkedin_url": "https://linkedin.com/in/other", "first_name": "X"}),
        ] {
            assert_eq!(person(lead.clone()), jane, "{lead}");
        }
        assert_eq!(jane, Some(Person::by_email("JANE@example.com")));

        let profile = linkedin("https://www.linkedin.com/in/jane-doe");
        assert!(profile.is_some());
        for url in [
            "http://linkedin.com/in/jane-doe/",
            "linkedin.com/in/jane-doe",
            "https://uk.LinkedIn.com/in/Jane-Doe/?trk=x#about",
            "https://www.linkedin.com/in/jane-doe/details/experience/",
            "HTTPS://WWW.LINKEDIN.COM/in//jane-doe",
        ] {
            assert_eq!(linkedin(url), profile, "{url}");
        }

        let by_domain = person(json!({"first_name": "Jane", "last_name": "van Dyck", "domain": "acme.example"}));
        assert!(by_domain.is_some());
        for (field, value) in [
            ("company_domain", "Acme.Example"),
            ("domain", "www.acme.example"),
            ("website", "https://www.acme.example:443/about?x=1"),
        ] {
            let lead = json!({"first_name": " JANE", "last_name": "Van  Dyck", "company_name": "Any", field: value});
            assert_eq!(person(lead), by_domain, "{field}");
        }
    }

    #[test]
    fn different_people_are_different() {
        let people = [
            person(json!({"email": "jane@example.com"})),
            person(json!({"email": "jane@example.org"})),
            linkedin("https://linkedin.com/in/jane@example.com"),
            linkedin("https://linkedin.com/in/jane-doe"),
            linkedin("https://linkedin.com/sales/lead/ACwAAA"),
            linkedin("https://linkedin.com/sales/lead/ACwaaa"),
            person(json!({"first_name": "Jane", "last_name": "Doe", "domain": "acme.example"})),
            person(json!({"first_name": "Jane", "last_name": "Doe", "company_name": "acme.example"})),
            person(json!({"first_name": "Jane D", "last_name": "oe", "company_name": "acme.example"})),
            person(json!({"first_name": "Joe", "last_name": "Doe", "company_name": "acme.example"})),
        ];
        for (i, a) in people.iter().enumerate() {
            assert!(a.is_some(), "{i}");
            for b in people.iter().skip(i + 1) {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn what_names_no_one_is_no_person() {
        for lead in [
            json!({}),
            json!({"email": "not an address"}),
            json!({"email": "/Work Email"}),
            json!({"first_name": "Jane", "last_name": "Doe"}),
            json!({"first_name": "Jane", "company_name": "Acme"}),
            json!({"company_name": "Acme", "domain": "acme.example"}),
            json!({"linkedin_url": "https://www.linkedin.com/company/acme"}),
            json!({"linkedin_url": "https://www.linkedin.com/in/"}),
            json!({"linkedin_url": "https://www.linkedin.com/profile/view?id=1"}),
            json!({"linkedin_url": "https://notlinkedin.com/in/jane"}),
            json!({"linkedin_url": "https://acme.example/in/jane"}),
            json!({"linkedin_url": "jane-doe"}),
        ] {
            assert_eq!(person(lead.clone()), None, "{lead}");
        }
    }

    #[test]
    fn who_is_named_is_the_person_of_the_leads() {
        let jane = person(json!({"email": "jane@example.com"}));
        let profile = linkedin("https://www.linkedin.com/in/jane-doe");
        assert!(jane.is_some() && profile.is_some());
        for (text, expected) in [
            ("jane@example.com", jane),
            (" Jane@Example.COM\n", jane),
            ("https://www.linkedin.com/in/jane-doe", profile),
            ("linkedin.com/in/Jane-Doe/?trk=x", profile),
            // `@` and `/`: the user of a URL, and a part of a profile.
            ("https://jane@linkedin.com/in/jane-doe", profile),
            ("https://linkedin.com/in/jane-doe/details/@x", profile),
        ] {
            assert_eq!(Person::named(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_and_no_profile_names_nobody() {
        for text in [
            "",
            " ",
            "jane",
            "Jane Doe",
            "@",
            "jane@",
            "@example.com",
            "jane@example",
            "jane@@example.com",
            "jane@example.com, john@example.com",
            "Jane <jane@example.com>",
            "mailto:jane@example.com",
            "{{Work Email}}",
            "N/A",
            "/Work Email",
            "https://example.com/in/jane-doe",
            "https://example.com/@jane-doe",
            "https://www.linkedin.com/company/acme",
            "https://www.linkedin.com/in/",
            "in/jane-doe",
        ] {
            assert_eq!(Person::named(text), None, "{text}");
        }
    }

    /// Cool-downs and leads are stored by this hash.
    #[test]
    fn hashes_stay_what_they_are() {
        let hex = |person: Option<Person>| person.map(|person| hex::encode(person.0));
        assert_eq!(
            [
                hex(person(json!({"email": "jane@example.com"}))),
                hex(linkedin("https://linkedin.com/in/jane")),
                hex(person(json!({"first_name": "Jane", "last_name": "Doe", "company_name": "Acme"}))),
            ]
            .map(Option::unwrap_or_default),
            [
                "f25326b84f4144cecd175c98cbd49a08f60024056dd559f4b6fc8a9cb5ba8263",
                "3ac8701055b5081affb26da540f52fa369ed0b6867c621227af5e2143759c0a2",
                "199ff68b2533924e95dd8a21c452f4c20a5aa088f032d39eece7193942522509"
            ]
        );
    }
}
