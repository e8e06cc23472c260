#![no_main]

#[path = "../../common/tests/it/hostile/lead.rs"]
mod lead;

libfuzzer_sys::fuzz_target!(|input: &[u8]| lead::check(input));
