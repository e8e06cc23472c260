#![no_main]

#[path = "../../common/tests/it/hostile/signature.rs"]
mod signature;

libfuzzer_sys::fuzz_target!(|input: &[u8]| signature::check(input));
