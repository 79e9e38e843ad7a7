//! OpenMetrics as the older text format of Prometheus, for scrapers that do not ask for OpenMetrics.
//!
//! Samples look the same in both formats. In the older one the comment lines of a counter have its name with `_total`,
//! an info is a gauge whose name ends in `_info`, and `# UNIT` and `# EOF` do not exist.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write as _;

/// The same metrics. `text` has the encoder's order: HELP, then TYPE, then the samples.
pub fn from_openmetrics(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take() {
                // Writing to a String cannot fail.
                let _ = writeln!(classic, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(classic, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            classic.push_str(line);
            classic.push('\n');
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::from_openmetrics;

    #[test]
    fn counters_and_infos_are_named_as_their_samples() {
        let text = "# HELP a_bytes Some help.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\n\
                    a_bytes_total{b=\"c d\"} 1\n# HELP i I.\n# TYPE i info\ni_info{v=\"1\"} 1\n\
                    # HELP g G.\n# TYPE g gauge\ng 2\n# EOF\n";
        let classic = "# HELP a_bytes_total Some help.\n# TYPE a_bytes_total counter\n\
                       a_bytes_total{b=\"c d\"} 1\n# HELP i_info I.\n# TYPE i_info gauge\n\
                       i_info{v=\"1\"} 1\n# HELP g G.\n# TYPE g gauge\ng 2\n";
        assert_eq!(from_openmetrics(text), classic);
    }
}
