#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mobula_core::fuzzing::gcs(bytes));
