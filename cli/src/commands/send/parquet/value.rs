//! From values of Parquet to JSON. Numbers keep their digits; times are ISO 8601.

use ::parquet::record::Field;
use common::rows::prepare::RowProblem;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use time::{Date, Duration, OffsetDateTime};
use uuid::Uuid;

use super::shape::Shape;

/// The day that Parquet counts from, as [`Date`] counts.
const EPOCH_JULIAN_DAY: i32 = 2_440_588;
const NANOS_PER_MILLI: i64 = 1_000_000;
const NANOS_PER_MICRO: i64 = 1_000;

/// The object of one row: what has no value is left out.
///
/// # Errors
/// [`RowProblem::Unreadable`].
pub(super) fn object<'a>(fields: impl Iterator<Item = (&'a str, &'a Shape, &'a Field)>) -> Result<Vec<u8>, RowProblem> {
    let mut object = b"{".to_vec();
    for (member, shape, field) in fields.filter(|(_, _, field)| !is_missing(field)) {
        write_member(&mut object, member, shape, field)
            .map_err(|what| RowProblem::Unreadable(format!("the field \"{member}\" {what}")))?;
    }
    object.push(b'}');
    Ok(object)
}

/// Null, or what tools for tables write in its place.
fn is_missing(field: &Field) -> bool {
    match field {
        Field::Null => true,
        Field::Float16(number) => number.is_nan(),
        Field::Float(number) => number.is_nan(),
        Field::Double(number) => number.is_nan(),
        _ => false,
    }
}

/// Behind what is there already.
fn write_member(json: &mut Vec<u8>, name: &str, shape: &Shape, field: &Field) -> Result<(), &'static str> {
    if json.last() != Some(&b'{') {
        json.push(b',');
    }
    write(json, &name)?;
    json.push(b':');
    write_value(json, shape, field)
}

fn write_value(json: &mut Vec<u8>, shape: &Shape, field: &Field) -> Result<(), &'static str> {
    match (field, shape) {
        (field, _) if is_missing(field) => write(json, &()),
        (Field::Bool(value), _) => write(json, value),
        (Field::Byte(number), _) => write(json, number),
        (Field::Short(number), _) => write(json, number),
        (Field::Int(number), _) => write(json, number),
        (Field::Long(nanos), Shape::TimeNanos) => write(json, &time_of_day(*nanos, 1)?),
        (Field::Long(nanos), Shape::Timestamp { .. }) => write(json, &timestamp(*nanos, 1, shape)?),
        (Field::Long(number), _) => write(json, number),
        (Field::UByte(number), _) => write(json, number),
        (Field::UShort(number), _) => write(json, number),
        (Field::UInt(number), _) => write(json, number),
        (Field::ULong(number), _) => write(json, number),
        (Field::Float16(number), _) => write_float(json, f32::from(*number)),
        (Field::Float(number), _) => write_float(json, *number),
        (Field::Double(number), _) => write_float(json, *number),
        (Field::Decimal(_), _) => {
            // Written out with its point, which JSON wants a digit behind.
            json.extend_from_slice(field.to_string().trim_end_matches('.').as_bytes());
            Ok(())
        }
        (Field::Str(text), _) => write(json, text),
        (Field::Bytes(bytes), Shape::Uuid) => write(json, &Uuid::from_slice(bytes.data()).map_err(|_| "is no UUID")?),
        (Field::Bytes(bytes), _) => write(json, std::str::from_utf8(bytes.data()).map_err(|_| "is not UTF-8")?),
        (Field::Date(days), _) => write(json, &date(*days)?),
        (Field::TimeMillis(millis), _) => write(json, &time_of_day((*millis).into(), NANOS_PER_MILLI)?),
        (Field::TimeMicros(micros), _) => write(json, &time_of_day(*micros, NANOS_PER_MICRO)?),
        (Field::TimestampMillis(millis), _) => write(json, &timestamp(*millis, NANOS_PER_MILLI, shape)?),
        (Field::TimestampMicros(micros), _) => write(json, &timestamp(*micros, NANOS_PER_MICRO, shape)?),
        (Field::ListInternal(list), Shape::OldList(shape)) => match list.elements() {
            [elements] => write_value(json, shape, elements),
            _ => write(json, &[(); 0]),
        },
        (Field::ListInternal(list), _) => {
            json.push(b'[');
            for (at, element) in list.elements().iter().enumerate() {
                if at > 0 {
                    json.push(b',');
                }
                write_value(json, shape, element)?;
            }
            json.push(b']');
            Ok(())
        }
        (Field::Group(group), Shape::Group(shapes)) => {
            json.push(b'{');
            for ((name, field), shape) in group.get_column_iter().zip(shapes) {
                write_member(json, name, shape, field)?;
            }
            json.push(b'}');
            Ok(())
        }
        (Field::MapInternal(map), Shape::Map(keys, values)) => {
            json.push(b'{');
            for (key, value) in map.entries() {
                let mut name = Vec::new();
                write_value(&mut name, keys, key)?;
                // A name is text; numbers and the rest become it as they are written.
                let name =
                    serde_json::from_slice(&name).unwrap_or_else(|_| String::from_utf8_lossy(&name).into_owned());
                write_member(json, &name, values, value)?;
            }
            json.push(b'}');
            Ok(())
        }
        (Field::Null | Field::Group(_) | Field::MapInternal(_), _) => Err("is not what the file says of it"),
    }
}

fn write(json: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<(), &'static str> {
    serde_json::to_writer(json, value).map_err(|_| "is nothing that JSON can say")
}

/// In as few digits as tell it from its neighbours.
fn write_float(json: &mut Vec<u8>, number: impl Into<f64> + Serialize + Copy) -> Result<(), &'static str> {
    if number.into().is_infinite() {
        return Err("is infinite, which JSON has no number for");
    }
    write(json, &number)
}

fn date(days: i32) -> Result<String, &'static str> {
    let outside = "is a date that no calendar has";
    let date = Date::from_julian_day(days.checked_add(EPOCH_JULIAN_DAY).ok_or(outside)?).map_err(|_| outside)?;
    Ok(date.to_string())
}

/// With the `Z` of UTC, or without any zone.
fn timestamp(since_epoch: i64, nanos: i64, shape: &Shape) -> Result<String, &'static str> {
    let mut text = rfc3339(i128::from(since_epoch) * i128::from(nanos)).ok_or("is a time that no calendar has")?;
    if matches!(shape, Shape::Timestamp { utc: false, .. }) {
        text.pop();
    }
    Ok(text)
}

fn time_of_day(since_midnight: i64, nanos: i64) -> Result<String, &'static str> {
    let nanos = i128::from(since_midnight) * i128::from(nanos);
    let text = rfc3339(nanos).filter(|_| (0..Duration::DAY.whole_nanoseconds()).contains(&nanos));
    let text = text.ok_or("is no time of a day")?;
    Ok(text.split_once('T').map(|(_, time)| time.trim_end_matches('Z').to_owned()).unwrap_or_default())
}

fn rfc3339(nanos: i128) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}
