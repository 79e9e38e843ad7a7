//! Indexes a layer, and prints the time and memory that this took.
//!
//!     cargo run --release -p larder-layer --example index -- LAYER [INDEX [READY]]
//!
//! With a second name, the index is written there. Then all spans are decoded and compared, too. With a third name,
//! tree and tar are written there, as a file that the kernel mounts.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use larder_layer::{Index, build, decode};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut names = std::env::args_os().skip(1);
    let layer = names.next().ok_or("usage: index LAYER [INDEX]")?;
    let layer = Path::new(&layer);
    let mut out = io::stdout().lock();
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    let summary = if let Some(to) = names.next() {
        let summary = build(
            &mut File::open(layer)?,
            &mut BufWriter::new(File::create(&to)?),
        )?;
        writeln!(out, "built in {:.2} s", began.elapsed().as_secs_f64())?;
        let cpu = cpu_seconds()?;
        let mut index_file = File::open(&to)?;
        let index = Index::open(&mut index_file)?;
        writeln!(
            out,
            "opened and checked in {:.2} CPU-s",
            cpu_seconds()? - cpu
        )?;
        let cpu = cpu_seconds()?;
        let mut file = File::open(layer)?;
        let mut ready = names.next().map(File::create).transpose()?;
        if let Some(ready) = &mut ready {
            ready.write_all(index.tree())?;
        }
        for span in index.spans() {
            let window = Index::window(span, &mut index_file)?;
            file.seek(SeekFrom::Start(span.layer_at))?;
            let mut bytes = vec![0; span.layer_length as usize];
            file.read_exact(&mut bytes)?;
            let tar = decode(span, &window, &bytes)?;
            if let Some(ready) = &mut ready {
                ready.write_all(&tar)?;
            }
        }
        writeln!(
            out,
            "all {} spans decoded in {:.2} CPU-s",
            summary.spans,
            cpu_seconds()? - cpu
        )?;
        summary
    } else {
        let summary = build(&mut File::open(layer)?, &mut io::sink())?;
        let took = cpu_seconds()? - cpu;
        let gigabytes = summary.layer_length as f64 / 1e9;
        writeln!(
            out,
            "built in {took:.2} CPU-s: {:.1} a compressed GB",
            took / gigabytes
        )?;
        summary
    };
    let percent = |bytes: u64| 100.0 * bytes as f64 / summary.layer_length as f64;
    writeln!(out, "{summary:#?}")?;
    let (index, tree, windows) = (
        summary.index_length,
        summary.tree_stored,
        summary.windows_stored,
    );
    writeln!(
        out,
        "index {:.2} % of the layer: tree {:.2} %, windows {:.2} %",
        percent(index),
        percent(tree),
        percent(windows)
    )?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or_default();
    writeln!(out, "{peak}")?;
    Ok(())
}

/// User and system time of this process, from the 14th and 15th field, in hundredths.
fn cpu_seconds() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = behind_name.split(' ').skip(11).take(2);
    Ok(ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0)
}
