#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| larder::fuzz::run("fuse_requests", bytes));
