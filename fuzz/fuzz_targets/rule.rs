#![no_main]

#[path = "../../common/tests/it/hostile/rule.rs"]
mod rule;

libfuzzer_sys::fuzz_target!(|input: &[u8]| rule::check(input));
