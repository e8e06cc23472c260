//! Reads an object and keeps only the members that somebody asks for.
//!
//! What nobody asks for passes the same parser, so the same texts are refused at the same place, but nothing of it is
//! kept: the intake needs one or two members of a callback, and no tree of all of them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What is kept of an object's own members.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    All,
    /// Those with these names.
    Named(&'a [String]),
}

impl Wanted<'_> {
    fn takes(self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|wanted| wanted == name),
        }
    }
}

/// What a text of JSON turned out to be.
pub(super) enum Document {
    Object {
        /// The members that were wanted.
        members: Map<String, Value>,
        /// There are members that were not.
        has_others: bool,
    },
    /// Anything else.
    NoObject,
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The methods of a visitor that takes every value but an object, as `$answer`.
macro_rules! visit_all_but_maps {
    ($answer:expr) => {
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("any JSON value")
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($answer)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($answer)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($answer)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($answer)
        }

        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($answer)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($answer)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            while let Some(Passed) = items.next_element()? {}
            Ok($answer)
        }
    };
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Document;

    visit_all_but_maps!(Document::NoObject);

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Document, A::Error> {
        let mut members = Map::new();
        let mut has_others = false;
        while let Some(Name(name)) = access.next_key()? {
            if self.takes(&name) {
                members.insert(name.into_owned(), access.next_value()?);
            } else {
                has_others = true;
                let Passed = access.next_value()?;
            }
        }
        Ok(Document::Object { members, has_others })
    }
}

/// A value that was parsed, and is gone.
struct Passed;

impl<'de> Deserialize<'de> for Passed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Passed {
    type Value = Self;

    visit_all_but_maps!(Self);

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while let Some((Name(_), Passed)) = members.next_entry()? {}
        Ok(Self)
    }
}

/// A member's name, borrowed from the text where it holds no escape.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a member's name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}
