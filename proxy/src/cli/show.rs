//! Words for people: standard output, standard error, sizes.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is where the CLI speaks"
)]

/// Prints a line of output.
pub fn say(text: &str) {
    println!("{text}");
}

/// Prints what went wrong.
pub fn complain(text: &str) {
    eprintln!("larder: {text}");
}

/// Bytes for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}
