#![allow(clippy::unwrap_used)]
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::{Compression, GzipLevel, ZstdLevel};
use ::parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType, Int32Type,
    Int64Type, Int96, Int96Type,
};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use tempfile::NamedTempFile;

use super::*;

/// The values of one column: with definition and repetition levels, where it has them.
enum Values<'a> {
    Bool(Vec<bool>),
    Int(Vec<i32>),
    Long(Vec<i64>),
    Int96(Vec<Int96>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<&'a [u8]>),
    Fixed(Vec<&'a [u8]>),
}

type Levels<'a> = Option<&'a [i16]>;

fn put(
    group: &mut SerializedRowGroupWriter<'_, &mut File>,
    values: Values<'_>,
    definitions: Levels<'_>,
    repetitions: Levels<'_>,
) {
    let mut column = group.next_column().unwrap().unwrap();
    macro_rules! write {
        ($kind:ty, $values:expr) => {
            column.typed::<$kind>().write_batch(&$values, definitions, repetitions).unwrap()
        };
    }
    match values {
        Values::Bool(values) => write!(BoolType, values),
        Values::Int(values) => write!(Int32Type, values),
        Values::Long(values) => write!(Int64Type, values),
        Values::Int96(values) => write!(Int96Type, values),
        Values::Float(values) => write!(FloatType, values),
        Values::Double(values) => write!(DoubleType, values),
        Values::Bytes(values) => {
            write!(ByteArrayType, values.into_iter().map(ByteArray::from).collect::<Vec<_>>())
        }
        Values::Fixed(values) => write!(
            FixedLenByteArrayType,
            values.into_iter().map(|value| FixedLenByteArray::from(value.to_vec())).collect::<Vec<_>>()
        ),
    };
    column.close().unwrap();
}

/// A file of `groups` row groups, each filled by `fill`.
fn file(
    schema: &str,
    compression: Compression,
    groups: usize,
    mut fill: impl FnMut(usize, &mut SerializedRowGroupWriter<'_, &mut File>),
) -> NamedTempFile {
    let mut made = NamedTempFile::new().unwrap();
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {schema} }}")).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(made.as_file_mut(), schema, properties).unwrap();
    for group in 0..groups {
        let mut row_group = writer.next_row_group().unwrap();
        fill(group, &mut row_group);
        row_group.close().unwrap();
    }
    writer.close().unwrap();
    made
}

/// One column of one row group.
fn one(schema: &str, values: Values<'_>, definitions: Levels<'_>, repetitions: Levels<'_>) -> NamedTempFile {
    let mut values = Some(values);
    file(schema, Compression::UNCOMPRESSED, 1, |_, group| {
        put(group, values.take().unwrap(), definitions, repetitions);
    })
}

async fn read_from(path: &Path, mapping: &Mapping, from: u64) -> anyhow::Result<Vec<(u64, Result<String, String>)>> {
    let mut parquet = Parquet::open(File::open(path).unwrap(), mapping).await?;
    parquet.begin(from, &[])?;
    let mut rows = Vec::new();
    loop {
        let part = parquet.next().await?;
        if part.is_empty() {
            return Ok(rows);
        }
        rows.extend(part.into_iter().map(|ParquetRow { row, object }| {
            let object = object.map(|object| String::from_utf8(object).unwrap());
            (row, object.map_err(|problem| problem.to_string()))
        }));
    }
}

/// The objects of a file, or what is said of a row, one behind the other.
async fn read(file: &NamedTempFile) -> anyhow::Result<Vec<String>> {
    let rows = read_from(file.path(), &Mapping::default(), 0).await?;
    Ok(rows.into_iter().map(|(_, object)| object.unwrap_or_else(|problem| problem)).collect())
}

async fn said(file: &NamedTempFile) -> String {
    format!("{:#}", read(file).await.unwrap_err())
}

#[tokio::test]
async fn values_of_every_type_become_json() {
    use Values::{Bool, Bytes, Double, Fixed, Float, Int, Int96 as Legacy, Long};
    let julian_day = |day: u32, nanos: u64| Int96::from(vec![nanos as u32, (nanos >> 32) as u32, day]);
    let int96 = vec![julian_day(2_460_311, 11_045_006_000_000)];
    let wide = 12_345_678_901_234_567_890_123_456_i128.to_be_bytes();
    let uuid = [0x11; 16];
    for (column, values, expected) in [
        ("boolean v", Bool(vec![true, false]), vec!["true", "false"]),
        ("int32 v (INTEGER(8,true))", Int(vec![-128]), vec!["-128"]),
        ("int32 v (INTEGER(16,true))", Int(vec![-7]), vec!["-7"]),
        ("int32 v", Int(vec![i32::MIN]), vec!["-2147483648"]),
        ("int32 v (INTEGER(8,false))", Int(vec![255]), vec!["255"]),
        ("int32 v (INTEGER(16,false))", Int(vec![65_535]), vec!["65535"]),
        ("int32 v (INTEGER(32,false))", Int(vec![-1]), vec!["4294967295"]),
        ("int64 v", Long(vec![9_007_199_254_740_993]), vec!["9007199254740993"]),
        ("int64 v (INTEGER(64,false))", Long(vec![-1]), vec!["18446744073709551615"]),
        ("float v", Float(vec![0.1, 85.0]), vec!["0.1", "85.0"]),
        ("double v", Double(vec![0.1, 1e300]), vec!["0.1", "1e+300"]),
        ("double v", Double(vec![f64::INFINITY]), vec!["the field \"v\" is infinite, which JSON has no number for"]),
        ("int32 v (DECIMAL(9,2))", Int(vec![110, -5, 0]), vec!["1.10", "-0.05", "0.00"]),
        ("int64 v (DECIMAL(18,0))", Long(vec![100]), vec!["100"]),
        ("fixed_len_byte_array(16) v (DECIMAL(38,6))", Fixed(vec![&wide]), vec!["12345678901234567890.123456"]),
        ("binary v (DECIMAL(4,1))", Bytes(vec![&[0xff]]), vec!["-0.1"]),
        (
            "binary v (UTF8)",
            Bytes(vec![b"007", "L\u{f6}ve \"\n".as_bytes(), b""]),
            vec![r#""007""#, "\"L\u{f6}ve \\\"\\n\"", r#""""#],
        ),
        ("binary v (JSON)", Bytes(vec![b"{\"a\":1}"]), vec![r#""{\"a\":1}""#]),
        ("binary v", Bytes(vec![b"plain", b"\xff"]), vec![r#""plain""#, "the field \"v\" is not UTF-8"]),
        ("fixed_len_byte_array(16) v (UUID)", Fixed(vec![&uuid]), vec![r#""11111111-1111-1111-1111-111111111111""#]),
        ("fixed_len_byte_array(2) v (FLOAT16)", Fixed(vec![&[0x00, 0x3e]]), vec!["1.5"]),
        ("int32 v (DATE)", Int(vec![0, -1, 19_723]), vec![r#""1970-01-01""#, r#""1969-12-31""#, r#""2024-01-01""#]),
        ("int32 v (DATE)", Int(vec![i32::MAX]), vec!["the field \"v\" is a date that no calendar has"]),
        ("int32 v (TIME(MILLIS,true))", Int(vec![11_045_006]), vec![r#""03:04:05.006""#]),
        ("int64 v (TIME(MICROS,true))", Long(vec![11_045_000_007]), vec![r#""03:04:05.000007""#]),
        (
            "int64 v (TIME(NANOS,true))",
            Long(vec![1, -1]),
            vec![r#""00:00:00.000000001""#, "the field \"v\" is no time of a day"],
        ),
        ("int64 v (TIMESTAMP_MILLIS)", Long(vec![1_704_164_645_006]), vec![r#""2024-01-02T03:04:05.006Z""#]),
        ("int64 v (TIMESTAMP(MILLIS,true))", Long(vec![0]), vec![r#""1970-01-01T00:00:00Z""#]),
        ("int64 v (TIMESTAMP(MICROS,false))", Long(vec![1_704_164_645_000_000]), vec![r#""2024-01-02T03:04:05""#]),
        (
            "int64 v (TIMESTAMP(NANOS,true))",
            Long(vec![1_704_164_645_000_000_001]),
            vec![r#""2024-01-02T03:04:05.000000001Z""#],
        ),
        (
            "int64 v (TIMESTAMP(MILLIS,true))",
            Long(vec![i64::MAX]),
            vec!["the field \"v\" is a time that no calendar has"],
        ),
        ("int96 v", Legacy(int96), vec![r#""2024-01-01T03:04:05.006Z""#]),
    ] {
        let schema = format!("required {column};");
        let rows = read(&one(&schema, values, None, None)).await.unwrap();
        let expected: Vec<String> = expected
            .into_iter()
            .map(|value| if value.starts_with("the field") { value.to_owned() } else { format!("{{\"v\":{value}}}") })
            .collect();
        assert_eq!(rows, expected, "{column}");
    }
}

#[tokio::test]
async fn what_has_no_value_is_left_out() {
    let texts = Values::Bytes(vec![b"Ada"]);
    let file = one("optional binary name (UTF8);", texts, Some(&[1, 0]), None);
    assert_eq!(read(&file).await.unwrap(), [r#"{"name":"Ada"}"#, "{}"]);
    let file = one("required double v;", Values::Double(vec![f64::NAN, 1.5]), None, None);
    assert_eq!(read(&file).await.unwrap(), ["{}", r#"{"v":1.5}"#]);
}

#[tokio::test]
async fn groups_lists_and_maps_are_nested() {
    let list = "optional group tags (LIST) { repeated group list { optional binary element (UTF8); } }";
    let texts = || Values::Bytes(vec![b"a", b"b"]);
    // Two elements and a null, an empty list, no list.
    let levels: (Levels<'_>, Levels<'_>) = (Some(&[3, 2, 3, 1, 0]), Some(&[0, 1, 1, 0, 0]));
    let rows = read(&one(list, texts(), levels.0, levels.1)).await.unwrap();
    assert_eq!(rows, [r#"{"tags":["a",null,"b"]}"#, r#"{"tags":[]}"#, "{}"]);

    let times =
        "optional group seen (LIST) { repeated group list { required int64 element (TIMESTAMP(NANOS,true)); } }";
    let rows = read(&one(times, Values::Long(vec![0]), Some(&[2]), Some(&[0]))).await.unwrap();
    assert_eq!(rows, [r#"{"seen":["1970-01-01T00:00:00Z"]}"#]);

    // As old writers made lists, and a column that is repeated without being called one.
    for old in ["required group tags (LIST) { repeated binary element (UTF8); }", "repeated binary tags (UTF8);"] {
        let rows = read(&one(old, texts(), Some(&[1, 1, 0]), Some(&[0, 1, 0]))).await.unwrap();
        assert_eq!(rows, [r#"{"tags":["a","b"]}"#, r#"{"tags":[]}"#], "{old}");
    }

    let old = "optional group people (LIST) { repeated group array { required binary name (UTF8); } }";
    let rows = read(&one(old, texts(), Some(&[2, 2, 1, 0]), Some(&[0, 1, 0, 0]))).await.unwrap();
    assert_eq!(rows, [r#"{"people":[{"name":"a"},{"name":"b"}]}"#, r#"{"people":[]}"#, "{}"]);

    let nested = "optional group company { required binary name (UTF8); optional group at { required int32 day (DATE); } }
                  required group counts (MAP) { repeated group key_value { required int32 key; optional int32 value; } }";
    let file = file(nested, Compression::UNCOMPRESSED, 1, |_, group| {
        put(group, Values::Bytes(vec![b"Acme"]), Some(&[1, 0]), None);
        put(group, Values::Int(vec![1]), Some(&[2, 0]), None);
        put(group, Values::Int(vec![7, 8]), Some(&[1, 1, 0]), Some(&[0, 1, 0]));
        put(group, Values::Int(vec![70]), Some(&[2, 1, 0]), Some(&[0, 1, 0]));
    });
    let rows = read(&file).await.unwrap();
    assert_eq!(
        rows,
        [r#"{"company":{"name":"Acme","at":{"day":"1970-01-02"}},"counts":{"7":70,"8":null}}"#, r#"{"counts":{}}"#]
    );
}

/// Two columns, and in every row group the rows that follow.
fn people(compression: Compression, groups: usize, rows: usize) -> NamedTempFile {
    file("required binary name (UTF8); required int64 n;", compression, groups, |group, writer| {
        let ns: Vec<i64> = (0..rows).map(|row| i64::try_from(group * rows + row + 1).unwrap()).collect();
        let names: Vec<String> = ns.iter().map(|n| format!("person {n}")).collect();
        put(writer, Values::Bytes(names.iter().map(String::as_bytes).collect()), None, None);
        put(writer, Values::Long(ns), None, None);
    })
}

#[tokio::test]
async fn every_row_of_every_row_group_comes_once_from_where_it_is_asked_for() {
    const ROWS: u64 = 3 * 700;
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        let file = people(compression, 3, 700);
        assert_eq!(Parquet::open(file.reopen().unwrap(), &Mapping::default()).await.unwrap().rows(), ROWS);
        for from in [0, 1, 2, 700, 701, 1_500, ROWS, ROWS + 1] {
            let rows = read_from(file.path(), &Mapping::default(), from).await.unwrap();
            let expected: Vec<_> =
                (from.max(1)..=ROWS).map(|n| (n, Ok(format!("{{\"name\":\"person {n}\",\"n\":{n}}}")))).collect();
            assert!(rows == expected, "{compression:?} from {from}: {} rows", rows.len());
        }
    }
}

#[tokio::test]
async fn columns_are_renamed_left_out_and_missed() {
    let file = people(Compression::SNAPPY, 1, 1);
    let mapping = |column: &str, only| Mapping { renamed: [(column.to_owned(), "id".to_owned())].into(), only };
    let rows = read_from(file.path(), &mapping("n", false), 0).await.unwrap();
    assert_eq!(rows, [(1, Ok(r#"{"name":"person 1","id":1}"#.to_owned()))]);
    let rows = read_from(file.path(), &mapping("n", true), 0).await.unwrap();
    assert_eq!(rows, [(1, Ok(r#"{"id":1}"#.to_owned()))]);
    let missing = read_from(file.path(), &mapping("nobody", true), 0).await.unwrap_err();
    assert_eq!(missing.to_string(), "there is no column \"nobody\"; the file has: name, n");
    let mut parquet = Parquet::open(file.reopen().unwrap(), &Mapping::default()).await.unwrap();
    let lacking = parquet.begin(0, &["email".to_owned()]).unwrap_err().to_string();
    assert!(lacking.contains("needs \"email\", and no column is called so"), "{lacking}");
}

#[tokio::test]
async fn what_cannot_be_read_is_said_before_the_first_row() {
    let of_bytes = |bytes: &[u8]| {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    };
    let whole = std::fs::read(people(Compression::SNAPPY, 1, 10).path()).unwrap();
    let (body, magic) = whole.split_at(whole.len() - 4);
    for bytes in [b"".as_slice(), b"email\nada@example.com\n", body] {
        assert_eq!(said(&of_bytes(bytes)).await, "it is no Parquet file, or its end is missing");
    }
    let encrypted = of_bytes(&[body, MAGIC_ENCRYPTED].concat());
    assert_eq!(said(&encrypted).await, "it is encrypted, and claygate has no key: send a copy that is not");
    let cut = of_bytes(&[MAGIC, magic, &whole[whole.len() / 2..]].concat());
    assert!(said(&cut).await.contains("cannot be read: the file is damaged"), "{}", said(&cut).await);

    // The number of a compression stands behind the column's path: 1 is snappy's, 4 brotli's, both doubled.
    let mut brotli = whole.clone();
    let at = whole.windows(7).position(|bytes| bytes == b"\x04name\x15\x02").unwrap();
    brotli[at + 6] = 8;
    let text = "the column \"name\" is compressed with BROTLI; snappy, gzip, zstd and none can be read";
    assert_eq!(said(&of_bytes(&brotli)).await, text);
    let other = Mapping { renamed: [("n".to_owned(), "n".to_owned())].into(), only: true };
    assert_eq!(read_from(of_bytes(&brotli).path(), &other, 10).await.unwrap(), [(10, Ok("{\"n\":10}".to_owned()))]);

    let intervals = one("required fixed_len_byte_array(12) v (INTERVAL);", Values::Fixed(vec![&[0; 12]]), None, None);
    let text = "the column \"v\" holds intervals: name those that are sent by --map and --only";
    assert_eq!(said(&intervals).await, text);
}

#[tokio::test]
async fn a_text_that_is_none_ends_the_reading_without_being_repeated() {
    let file = one("required binary v (UTF8);", Values::Bytes(vec![b"good", b"\xffsecret"]), None, None);
    assert_eq!(said(&file).await, "row 2 cannot be read: a text is not UTF-8");
}

/// Whatever a file holds, it is read or refused; nothing hangs, nothing is read that the file does not say.
#[tokio::test]
async fn a_damaged_file_is_refused_or_read() {
    let file = people(Compression::SNAPPY, 2, 50);
    let whole = std::fs::read(file.path()).unwrap();
    let damaged = NamedTempFile::new().unwrap();
    let mut refused = 0;
    for at in 4..whole.len() - 4 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(damaged.path(), bytes).unwrap();
        refused += usize::from(read_from(damaged.path(), &Mapping::default(), 0).await.is_err());
    }
    assert!(refused > whole.len() / 10, "{refused} of {}", whole.len());
}
