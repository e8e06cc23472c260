//! `claygate send` of Parquet: each row once as of any other file, and in little memory, whatever the file's size.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use rand::SeedableRng;
use rand::distr::{Alphanumeric, SampleString};
use rand::rngs::StdRng;
use serde_json::json;
use testkit::wait::wait_for;

use crate::send::{ROWS, config, fake, kill_and_go_on};
use crate::site::{LIMIT, Site};

const MIB: u64 = 1024 * 1024;

/// Writes `groups` row groups of `rows` people each.
fn write(path: &Path, groups: i64, rows: i64, mut note: impl FnMut(i64) -> String) {
    let schema = "message people { required binary email (UTF8); required int64 n; required binary note (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).set_dictionary_enabled(false);
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties.build())).unwrap();
    for group in 0..groups {
        let ns: Vec<i64> = (group * rows..(group + 1) * rows).collect();
        let mut row_group = writer.next_row_group().unwrap();
        write_texts(&mut row_group, ns.iter().map(|n| format!("person-{n}@acme.example")));
        let mut column = row_group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&ns, None, None).unwrap();
        column.close().unwrap();
        write_texts(&mut row_group, ns.iter().map(|n| note(*n)));
        row_group.close().unwrap();
    }
    writer.close().unwrap();
}

fn write_texts(group: &mut SerializedRowGroupWriter<'_, File>, texts: impl Iterator<Item = String>) {
    let texts: Vec<ByteArray> = texts.map(|text| ByteArray::from(text.into_bytes())).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_parquet_is_sent_as_any_other() {
    let (_clay, table) = fake().await;
    let site = Site::new(&config(&table));
    let too_long = |n: i64| if n == 7 { "x".repeat(100_000) } else { "short".to_owned() };
    write(&site.folder().join("people.parquet"), 2, 30, too_long);
    let send = ["send", "people.parquet", "--to", "leads", "--map", "n=number"];

    let dry = site.run(&[&send[..], &["--dry-run"]].concat()).await;
    let text = String::from_utf8(dry.stdout).unwrap();
    assert_eq!(dry.status.code(), Some(1), "{text}");
    assert!(text.starts_with(r#"{"email":"person-0@acme.example","note":"short","number":0}"#), "{text}");
    assert!(text.contains("\n  row 8: the row is larger than Clay takes"), "{text}");

    let up = site.up().await;
    let sent = site.run(&[&send[..], &["--wait", "--json"]].concat()).await;
    let report: serde_json::Value = serde_json::from_slice(&sent.stdout).unwrap();
    assert_eq!([&report["accepted"], &report["refused"], &report["next_line"]], [&json!(59), &json!(1), &json!(61)]);
    assert_eq!(report["states"], json!({"delivered": 59}));
    assert_eq!(table.counts().accepted, 59);
    let again = site.run(&[&send[..], &["--wait"]].concat()).await;
    assert!(String::from_utf8_lossy(&again.stderr).contains("This file was sent before"), "{again:?}");
    assert_eq!(table.counts().accepted, 59);

    for (arguments, expected) in [
        (["send", "-", "--to", "leads", "--format", "parquet"], "Parquet is read from its end"),
        (["send", "claygate.toml", "--to", "leads", "--format", "parquet"], "it is no Parquet file"),
        (
            ["send", "/dev/null", "--to", "leads", "--format", "parquet"],
            "is no regular file: give a stream to standard input",
        ),
    ] {
        let output = site.run(&arguments).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(expected), "{arguments:?}: {said}");
    }
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_send_of_parquet_goes_on_where_it_was() {
    kill_and_go_on("people.parquet", |path| write(path, 5, ROWS / 5, |_| "short".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_depends_on_no_file_and_no_row_group() {
    let (_clay, table) = fake().await;
    let site = Site::new(&config(&table));
    // Far longer than what a compression looks back to.
    let random = Alphanumeric.sample_string(&mut StdRng::seed_from_u64(1), 1_000_000);
    let note = |n: i64| {
        let at = usize::try_from(n % 1_000).unwrap() * 1_000;
        random[at..at + 1_000].to_owned()
    };
    write(&site.folder().join("small.parquet"), 1, 100, note);
    write(&site.folder().join("large.parquet"), 1, 32_000, note);
    assert!(std::fs::metadata(site.folder().join("large.parquet")).unwrap().len() > 30 * MIB);
    let small = peak(&site, "small.parquet").await;
    let large = peak(&site, "large.parquet").await;
    assert!(large < small + 16 * MIB, "{} MiB, and {} MiB of a small file", large / MIB, small / MIB);
}

/// The most memory that a dry run of `file` had resident.
async fn peak(site: &Site, file: &str) -> u64 {
    let mut child = site.command(&["send", file, "--to", "leads", "--dry-run"]).stdout(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let ended = wait_for("a dry run to end", LIMIT, || {
        let status = std::fs::read_to_string(&status).unwrap();
        // A process that has ended and was not waited for has no memory.
        if let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            peak_kib = peak.split_whitespace().next().unwrap().parse().unwrap();
        }
        let ended = child.try_wait().unwrap();
        async move { ended.ok_or("it runs") }
    })
    .await;
    let mut said = String::new();
    child.stdout.unwrap().read_to_string(&mut said).unwrap();
    assert!(ended.success(), "{said}");
    peak_kib * 1024
}
