//! `[destinations.<name>.filter]`: what a `clay` destination does not spend credits on.

use std::collections::HashSet;
use std::time::Duration;

use super::read::Reader;
use super::schema::{Key, Kind, Preset, Section};
use super::values::check_pointer;
use crate::filter::Filter;

const DAY: u64 = 86_400;
const EMAIL: &str = "email";

pub(super) static FILTER: Section = Section {
    title: "[destinations.<name>.filter]",
    doc: "Of a `clay` destination: which rows are held back before they are sent. What was held back is kept as a delivery \
          that ended `skipped`, with the reason. A field is a member's name, or a JSON pointer (`/company/domain`).",
    keys: &[
        Key::new(
            "required",
            Kind::Texts,
            Preset::Said("none"),
            "Fields that have to have a value; reason `missing_field`. Empty text, null and placeholders are no values.",
        ),
        Key::new(
            "email_fields",
            Kind::Texts,
            Preset::Said("`[\"email\"]`"),
            "Fields that hold e-mail addresses; the first that has a value is judged.",
        ),
        Key::new(
            "skip_personal",
            Kind::Bool,
            Preset::Is("false"),
            "Whether rows with a mailbox that anybody can have (gmail.com and 5,000 more) are held back; reason \
             `personal_email`.",
        ),
        Key::new(
            "skip_disposable",
            Kind::Bool,
            Preset::Is("false"),
            "Whether rows with a throw-away mailbox (mailinator.com and 10,000 more) are held back; reason \
             `disposable_email`.",
        ),
        Key::new(
            "personal_domains",
            Kind::Texts,
            Preset::Said("none"),
            "Domains that count as personal beside those of the list; their sub-domains do, too.",
        ),
        Key::new(
            "disposable_domains",
            Kind::Texts,
            Preset::Said("none"),
            "Domains that count as disposable beside those of the list; their sub-domains do, too.",
        ),
        Key::new(
            "kept_domains",
            Kind::Texts,
            Preset::Said("none"),
            "Domains that count as neither, whatever the lists say; their sub-domains do, too.",
        ),
        Key::new(
            "unique_by",
            Kind::Texts,
            Preset::Said("none"),
            "The fields that make two rows the same: of rows that agree in all of them (letter case aside) the first is sent, \
             and the others are held back for `within`; reason `duplicate_row`. If the first one cannot be sent, the next \
             goes. A row that lacks one of the fields is never held back for it. Takes the place of `once_per`.",
        ),
        Key::new(
            "within",
            Kind::Duration { min: Duration::from_secs(60), max: Duration::from_secs(3_650 * DAY) },
            Preset::Is("90d"),
            "For how long after a row others with the same `unique_by` are held back.",
        ),
        Key::new(
            "domain_fields",
            Kind::Texts,
            Preset::Said("none"),
            "Fields that are cut down to the bare domain before anything else: `https://www.Example.com/x` becomes \
             `example.com`.",
        ),
    ],
};

pub(super) fn read_filter(reader: &Reader<'_>) -> Filter {
    let email_fields = fields(reader, "email_fields");
    let filter = Filter {
        required: fields(reader, "required"),
        email_fields: if reader.has("email_fields") { email_fields } else { vec![EMAIL.to_owned()] },
        skip_personal: reader.truth("skip_personal"),
        skip_disposable: reader.truth("skip_disposable"),
        personal_domains: domains(reader, "personal_domains"),
        disposable_domains: domains(reader, "disposable_domains"),
        kept_domains: domains(reader, "kept_domains"),
        unique_by: fields(reader, "unique_by"),
        within: reader.duration("within").unwrap_or_default(),
        domain_fields: fields(reader, "domain_fields"),
    };
    if reader.has("within") && filter.unique_by.is_empty() {
        reader.wrong("within", "has no meaning without unique_by: add for example unique_by = [\"email\"]");
    }
    filter
}

/// JSON pointers that give a handed-in row its key, as those of a source do for callbacks.
pub(super) fn read_row_key(reader: &Reader<'_>) -> Vec<String> {
    reader.parsed_list("row_key", |text| check_pointer(text).map(|()| text.to_owned())).unwrap_or_default()
}

fn fields(reader: &Reader<'_>, name: &'static str) -> Vec<String> {
    let check = |text: &str| match text {
        "" => Err("is empty: name a field".to_owned()),
        text if text.starts_with('/') => check_pointer(text).map(|()| text.to_owned()),
        text => Ok(text.to_owned()),
    };
    reader.parsed_list(name, check).unwrap_or_default()
}

fn domains(reader: &Reader<'_>, name: &'static str) -> HashSet<String> {
    let check = |text: &str| {
        let domain = text.trim().trim_start_matches('@').trim_end_matches('.').to_lowercase();
        let is_domain = domain.contains('.') && !domain.contains(|c: char| c.is_whitespace() || "@/:".contains(c));
        if is_domain { Ok(domain) } else { Err("is no domain: write it as \"example.com\"".to_owned()) }
    };
    reader.parsed_list(name, check).unwrap_or_default().into_iter().collect()
}
