#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| larder::fuzz::run("holder_messages", bytes));
