//! Whether the time of a signature check tells where a wrong credential differs first: `cargo bench -p common --bench
//! signature_timing`. Ends with 1 where it does.
//!
//! A sender who can measure it would find a secret byte by byte. Two classes of credentials, wrong in their first byte
//! and wrong in their last, are checked in random order, so that whatever disturbs the machine disturbs both. The
//! slowest tenth of all is interruptions and is left out, by one limit for both classes. Welch's t of what is left is held to
//! a threshold, and the difference to a nanosecond: with enough samples any machine shows some t.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::config::{ActiveSecret, Verification};
use common::signature::{RequestParts, verify};
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::Sha256;
use time::OffsetDateTime;

const SECRET: &str = "a-secret-of-the-bench-that-guards-nothing";
const HEADER: &str = "x-clay-signature";
const BODY: &[u8] = br#"{"email":"ada@leads.example"}"#;
/// Checks of each class.
const SAMPLES: usize = 200_000;
/// Checks that are timed as one: a clock's tick is longer than a comparison.
const BATCH: u32 = 8;
/// Beyond it the classes differ, as is usual for such tests (dudect).
const T_MAX: f64 = 4.5;
/// What nobody sees over a network, whatever t says.
const DIFFERENCE_NS_MAX: f64 = 1.0;

struct Parts(Vec<u8>);

impl RequestParts for Parts {
    fn header(&self, name: &str) -> Option<&[u8]> {
        (name == HEADER).then_some(&self.0[..])
    }

    fn path_and_query(&self) -> &str {
        "/api/clay/enriched"
    }
}

fn main() -> ExitCode {
    let secrets = || vec![ActiveSecret { value: SECRET.to_owned().into(), expires_at: None }];
    let header = || HEADER.to_owned();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(BODY);
    let mac: [u8; 32] = mac.finalize().into_bytes().into();
    let token = Verification::Token { header: header(), secrets: secrets() };
    let hmac = Verification::HmacSha256 { header: header(), secrets: secrets() };
    let text = |bytes: [u8; 32]| hex::encode(bytes).into_bytes();
    let base64 = |bytes: [u8; 32]| STANDARD.encode(bytes).into_bytes();
    let wrong = |place: usize| {
        let mut wrong = mac;
        wrong[place] ^= 1;
        wrong
    };
    let token_wrong = |place: usize| {
        let mut wrong = SECRET.as_bytes().to_vec();
        wrong[place] ^= 1;
        wrong
    };
    let last = SECRET.len() - 1;
    let mut dependent = false;
    for (name, verification, first, last) in [
        ("token", &token, token_wrong(0), token_wrong(last)),
        ("hmac, hex", &hmac, text(wrong(0)), text(wrong(31))),
        ("hmac, base64", &hmac, base64(wrong(0)), base64(wrong(31))),
    ] {
        let verification = std::slice::from_ref(verification);
        dependent |= compare(name, verification, &Parts(first), &Parts(last));
    }
    if dependent {
        println!(
            "the time of a check tells where a credential is wrong, or the machine is busy: repeat it on an idle one"
        );
        return ExitCode::FAILURE;
    }
    println!("no check tells where a credential is wrong");
    ExitCode::SUCCESS
}

/// Measures both classes, prints what came out, and tells whether they differ.
fn compare(name: &str, verification: &[Verification], first: &Parts, last: &Parts) -> bool {
    let mut random = rand::rng();
    let mut times: [Vec<f64>; 2] = [Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES)];
    // The first ones warm the machine up.
    for turn in 0..2 * SAMPLES + SAMPLES / 10 {
        let class = usize::from(random.random::<bool>());
        let parts = if class == 0 { first } else { last };
        let started = Instant::now();
        for _ in 0..BATCH {
            assert!(verify(black_box(verification), black_box(parts), BODY, OffsetDateTime::UNIX_EPOCH).is_err());
        }
        let elapsed = started.elapsed().as_nanos() as f64 / f64::from(BATCH);
        if turn >= SAMPLES / 10 {
            times[class].push(elapsed);
        }
    }
    let mut all: Vec<f64> = times.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let limit = all[all.len() * 9 / 10];
    let [(n1, mean1, variance1), (n2, mean2, variance2)] = times.map(|times| summary(&times, limit));
    let t = (mean1 - mean2) / (variance1 / n1 + variance2 / n2).sqrt();
    let differs = t.abs() > T_MAX && (mean1 - mean2).abs() > DIFFERENCE_NS_MAX;
    let verdict = if differs { "DIFFERS" } else { "the same" };
    println!("{name:<13} wrong first byte {mean1:8.2} ns, wrong last byte {mean2:8.2} ns, t = {t:6.2}: {verdict}");
    differs
}

/// Count, mean and variance of those up to `limit`.
fn summary(times: &[f64], limit: f64) -> (f64, f64, f64) {
    let kept: Vec<f64> = times.iter().copied().filter(|time| *time <= limit).collect();
    let n = kept.len() as f64;
    let mean = kept.iter().sum::<f64>() / n;
    let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (n, mean, variance)
}
