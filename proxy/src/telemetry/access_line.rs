//! The access line as text. It looks like every other line. Each request writes one, so it has a formatter of its own:
//! the general one asks the terminal's colors for every field, which takes longer than the field does.

use std::fmt::{self, Debug};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// The target of access lines.
pub const ACCESS: &str = "access";

/// Text lines without colors.
#[derive(Debug)]
pub struct Lines(Format<Full, SystemTime>);

impl Default for Lines {
    fn default() -> Self {
        Self(Format::default().with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if metadata.target() != ACCESS {
            return self.0.format_event(context, writer, event);
        }
        SystemTime.format_time(&mut writer)?;
        write!(writer, " {:>5} {ACCESS}:", metadata.level())?;
        let mut pairs = Pairs {
            writer,
            written: Ok(()),
        };
        event.record(&mut pairs);
        pairs.written?;
        pairs.writer.write_char('\n')
    }
}

/// Writes ` name=value` for each field.
struct Pairs<'a> {
    writer: Writer<'a>,
    written: fmt::Result,
}

impl Pairs<'_> {
    fn name(&mut self, field: &Field) -> fmt::Result {
        self.writer.write_char(' ')?;
        self.writer.write_str(field.name())?;
        self.writer.write_char('=')
    }

    fn string(&mut self, field: &Field, value: &str) -> fmt::Result {
        self.name(field)?;
        let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        if !value.bytes().all(plain) {
            return write!(self.writer, "{value:?}");
        }
        self.writer.write_char('"')?;
        self.writer.write_str(value)?;
        self.writer.write_char('"')
    }

    fn value(&mut self, field: &Field, value: &dyn Debug) -> fmt::Result {
        self.name(field)?;
        write!(self.writer, "{value:?}")
    }
}

impl Visit for Pairs<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.written.is_ok() {
            self.written = self.string(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.written.is_ok() {
            self.written = self.value(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Kept {
        /// The lines without their times.
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let rest = |line: &str| line.split_once(' ').unwrap().1.to_owned();
            text.lines().map(rest).collect()
        }
    }

    #[test]
    fn an_access_line_is_what_the_general_formatter_writes() {
        let (ours, general) = (Kept::default(), Kept::default());
        let subscriber = || tracing_subscriber::fmt().with_ansi(false);
        let lines = || {
            for value in ["", "a b", "\"\\", "\n\x1b[31m\x7f", "ä\u{85}\u{202e}"] {
                tracing::info!(
                    target: "access",
                    method = %"GET",
                    path = value,
                    status = 200_u16,
                    sent = 1_u64 << 40,
                    ms = 6.014,
                    whole = 6.0,
                    none = None::<f64>,
                    some = Some(true),
                );
                tracing::warn!(value, "another line");
            }
        };
        let by_ours = subscriber().with_writer(ours.clone());
        let by_ours = by_ours.event_format(Lines::default()).finish();
        tracing::subscriber::with_default(by_ours, lines);
        let by_general = subscriber().with_writer(general.clone()).finish();
        tracing::subscriber::with_default(by_general, lines);
        assert_eq!(ours.lines(), general.lines());
        assert_eq!(ours.lines().len(), 10);
        assert_eq!(
            ours.lines()[2],
            " INFO access: method=GET path=\"a b\" status=200 sent=1099511627776 ms=6.014 whole=6.0 some=true"
        );
    }
}
