#![no_main]

#[path = "../../common/tests/it/hostile/configuration.rs"]
mod configuration;

libfuzzer_sys::fuzz_target!(|input: &[u8]| configuration::check(input));
