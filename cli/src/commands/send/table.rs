//! From what a file says to the object that is sent: columns become members, some renamed, some left out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{anyhow, bail};
use common::rows::prepare::RowProblem;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::records::fields;

/// Which columns become which members.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapping {
    /// From the file's name to the member's.
    pub(super) renamed: BTreeMap<String, String>,
    /// Only columns that are named there are sent.
    pub(super) only: bool,
}

impl Mapping {
    /// The member that a column becomes; `None`: it is left out.
    fn member<'a>(&'a self, column: &'a str) -> Option<&'a str> {
        match self.renamed.get(column) {
            Some(member) => Some(member),
            None if self.only => None,
            None => Some(column),
        }
    }

    /// One line of JSON with its members renamed; values stay as they are written.
    pub(super) fn rename(&self, raw: &[u8]) -> Option<Vec<u8>> {
        if self.renamed.is_empty() && !self.only {
            return None;
        }
        // What is no object is the preparing's to refuse.
        let object: BTreeMap<String, &RawValue> = serde_json::from_slice(raw).ok()?;
        let renamed: BTreeMap<&str, &&RawValue> =
            object.iter().filter_map(|(name, value)| Some((self.member(name)?, value))).collect();
        serde_json::to_vec(&renamed).ok()
    }
}

/// The member that each of a file's columns becomes; `None`: it is left out, or has no name.
pub(super) fn members(columns: &[String], mapping: &Mapping) -> anyhow::Result<Vec<Option<String>>> {
    if let Some(column) = mapping.renamed.keys().find(|column| !columns.contains(column)) {
        bail!("there is no column \"{column}\"; the file has: {}", columns.join(", "));
    }
    let member = |name: &String| mapping.member(name).filter(|_| !name.is_empty()).map(str::to_owned);
    let members: Vec<Option<String>> = columns.iter().map(member).collect();
    let mut seen = BTreeSet::new();
    if let Some(twice) = members.iter().flatten().find(|member| !seen.insert(*member)) {
        bail!("two columns become \"{twice}\": rename one by --map, or choose columns with --only");
    }
    Ok(members)
}

/// No column becomes a member without which the file cannot be meant.
pub(super) fn lacks<'a>(member: &str, has: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let has: Vec<&str> = has.collect();
    anyhow!(
        "the destination's filter needs \"{member}\", and no column is called so: name the one that is meant, for example \
         --map \"Work Email={member}\"; what is sent of the file is: {}",
        has.join(", ")
    )
}

/// The columns of a table, by its first record.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    delimiter: u8,
    /// The member that each becomes; `None`: left out.
    members: Vec<Option<String>>,
    /// Those without a name.
    nameless: Vec<bool>,
}

impl Columns {
    /// Reads the header.
    pub(super) fn of_header(raw: &[u8], delimiter: u8, mapping: &Mapping) -> anyhow::Result<Self> {
        let mut names = Vec::new();
        for field in fields(raw, delimiter) {
            let Ok(name) = String::from_utf8(field) else { bail!("the header is not UTF-8") };
            names.push(name.trim().to_owned());
        }
        let members = members(&names, mapping)?;
        Ok(Self { delimiter, members, nameless: names.iter().map(String::is_empty).collect() })
    }

    /// What columns become.
    pub(super) fn members(&self) -> impl Iterator<Item = &str> {
        self.members.iter().flatten().map(String::as_str)
    }

    /// The object of one record: text as it stands; empty cells are left out.
    ///
    /// # Errors
    /// [`RowProblem::Unreadable`].
    pub(super) fn object(&self, raw: &[u8]) -> Result<Vec<u8>, RowProblem> {
        let unreadable = |what: String| Err(RowProblem::Unreadable(what));
        let fields = fields(raw, self.delimiter);
        if fields.len() != self.members.len() {
            return unreadable(format!("{} fields where the header has {}", fields.len(), self.members.len()));
        }
        let mut object = Map::new();
        for (at, ((field, member), nameless)) in fields.into_iter().zip(&self.members).zip(&self.nameless).enumerate() {
            if field.is_empty() {
                continue;
            }
            if *nameless {
                return unreadable(format!("a value in column {}, which has no name", at + 1));
            }
            let Some(member) = member else { continue };
            let Ok(text) = String::from_utf8(field) else {
                return unreadable(format!("the field \"{member}\" is not UTF-8"));
            };
            object.insert(member.clone(), Value::String(text));
        }
        serde_json::to_vec(&object).or_else(|error| unreadable(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mapping(pairs: &[(&str, &str)], only: bool) -> Mapping {
        let renamed = pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        Mapping { renamed, only }
    }

    #[test]
    fn columns_become_members() {
        let header = b"Work Email , n,,Note";
        let email = [("Work Email", "email")];
        for (only, row, expected) in [
            (false, "a@example.com,007,,\"x,y\"", Ok(r#"{"Note":"x,y","email":"a@example.com","n":"007"}"#)),
            (true, "a@example.com,007,,z", Ok(r#"{"email":"a@example.com"}"#)),
            (false, ",,,", Ok("{}")),
            (false, "a,1", Err("2 fields where the header has 4")),
            (false, "a,1,secret,", Err("a value in column 3, which has no name")),
        ] {
            let columns = Columns::of_header(header, b',', &mapping(&email, only)).unwrap();
            let object = columns.object(row.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(
                object.map_err(|problem| problem.to_string()),
                expected.map(str::to_owned).map_err(str::to_owned)
            );
        }
        let columns = Columns::of_header(header, b',', &Mapping::default()).unwrap();
        assert_eq!(columns.object(b"\xff,,,").unwrap_err().to_string(), "the field \"Work Email\" is not UTF-8");
    }

    #[test]
    fn headers_that_cannot_be_meant_are_refused() {
        let said =
            |header: &[u8], pairs| Columns::of_header(header, b',', &mapping(pairs, false)).unwrap_err().to_string();
        assert_eq!(said(b"a,b", &[("c", "x")]), "there is no column \"c\"; the file has: a, b");
        assert!(said(b"a,b", &[("a", "b")]).starts_with("two columns become \"b\""));
        assert!(said(b"a,a", &[]).starts_with("two columns become \"a\""));
    }

    #[test]
    fn members_of_lines_are_renamed_and_their_values_stay() {
        let line = br#"{"a":12345678901234567890123,"b":[1, 2]}"#;
        assert_eq!(Mapping::default().rename(line), None);
        assert_eq!(mapping(&[("a", "n")], true).rename(line).unwrap(), br#"{"n":12345678901234567890123}"#);
        assert_eq!(mapping(&[("a", "n")], false).rename(line).unwrap(), br#"{"b":[1, 2],"n":12345678901234567890123}"#);
        assert_eq!(mapping(&[("a", "n")], false).rename(b"nonsense"), None);
    }
}
