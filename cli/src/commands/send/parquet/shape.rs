//! What a column holds, where the value itself does not say it.

use ::parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical};
use ::parquet::schema::types::Type;

/// The kind of a column's values. A list has the shape of its elements: the value says that it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A value that says what it is.
    Plain,
    /// Sixteen bytes.
    Uuid,
    /// Nanoseconds since midnight.
    TimeNanos,
    /// Since 1970: nanoseconds, or in a unit that the value says. Not `utc`: in a zone that nobody names.
    Timestamp { nanos: bool, utc: bool },
    /// Members, in their order.
    Group(Vec<Shape>),
    /// Keys and values.
    Map(Box<Shape>, Box<Shape>),
    /// A list without the level between, which is read as the only element of another one.
    OldList(Box<Shape>),
}

impl Shape {
    /// Of one column. `Err`: what it holds cannot be read.
    pub(super) fn of(field: &Type) -> Result<Self, &'static str> {
        if field.is_primitive() {
            return Self::of_value(field);
        }
        let children = field.get_fields();
        match (field.get_basic_info().converted_type(), children) {
            (ConvertedType::LIST, [level]) if is_repeated(level) => match level_between(level) {
                Some(element) => Self::of(element),
                None => Ok(Self::OldList(Box::new(Self::of(level)?))),
            },
            (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, [entries])
                if is_repeated(entries) && entries.is_group() =>
            {
                match entries.get_fields() {
                    [key] => Self::of(key),
                    [key, value] => Ok(Self::Map(Box::new(Self::of(key)?), Box::new(Self::of(value)?))),
                    _ => Err("a map that is none"),
                }
            }
            (ConvertedType::LIST, _) => Err("a list that is none"),
            (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, _) => Err("a map that is none"),
            (_, []) => Err("a group of no columns"),
            (_, children) => Ok(Self::Group(children.iter().map(|child| Self::of(child)).collect::<Result<_, _>>()?)),
        }
    }

    fn of_value(field: &Type) -> Result<Self, &'static str> {
        let info = field.get_basic_info();
        Ok(match (info.logical_type_ref(), info.converted_type()) {
            (Some(LogicalType::Timestamp(timestamp)), _) => {
                Self::Timestamp { nanos: timestamp.unit == TimeUnit::NANOS, utc: timestamp.is_adjusted_to_u_t_c }
            }
            (Some(LogicalType::Time(time)), _) if time.unit == TimeUnit::NANOS => Self::TimeNanos,
            (Some(LogicalType::Uuid), _) => Self::Uuid,
            (_, ConvertedType::INTERVAL) => return Err("intervals"),
            // As old files write them; those are of UTC.
            (None, ConvertedType::TIMESTAMP_MILLIS | ConvertedType::TIMESTAMP_MICROS) => {
                Self::Timestamp { nanos: false, utc: true }
            }
            _ if field.get_physical_type() == Physical::INT96 => Self::Timestamp { nanos: false, utc: true },
            _ => Self::Plain,
        })
    }
}

fn is_repeated(field: &Type) -> bool {
    let info = field.get_basic_info();
    info.has_repetition() && info.repetition() == Repetition::REPEATED
}

/// The element of a list where `level`, the list's only child, is none itself but a level between. Old writers left that
/// level out; how they are told is a rule of the format (LogicalTypes.md, "Backward-compatibility rules").
fn level_between(level: &Type) -> Option<&Type> {
    if level.is_primitive() {
        return None;
    }
    let only = match level.get_fields() {
        [only] => only,
        _ => return None,
    };
    let is_list = level.get_basic_info().converted_type() == ConvertedType::LIST;
    let is_element = !is_list && !is_repeated(only) && (level.name() == "array" || level.name().ends_with("_tuple"));
    (!is_element).then_some(only)
}
