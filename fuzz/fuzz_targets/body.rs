#![no_main]

#[path = "../../common/tests/it/hostile/body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| body::check(input));
