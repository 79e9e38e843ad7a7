//! The text of the file: a parsed document in which every word keeps its place.
//!
//! [`Section`] hands out the values of one table, checks their types, and remembers which keys were asked for. So the
//! keys that `meaning` reads are the keys that exist. [`Section::finish`] refuses all others, with a suggestion.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Position};
use super::words::{found, joined, nearest, shown, shown_key};

/// A file's text and name, for errors.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) origin: &'a str,
}

impl<'a> Source<'a> {
    /// Reads the TOML. The parser limits how deep tables nest.
    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'a>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let place = error.span().map_or(0, |span| span.start);
            self.error(place, format!("not TOML: {}", error.message()))
        })
    }

    /// An error at the byte `offset`.
    pub(super) fn error(&self, offset: usize, message: impl Into<String>) -> ConfigError {
        ConfigError::at(self.origin, Position::of(self.text, offset), message)
    }
}

/// One table of the file, or the absence of one.
pub(super) struct Section<'s, 'a> {
    source: &'s Source<'a>,
    /// The table's name in errors: `[store]`.
    title: String,
    table: Option<&'s DeTable<'a>>,
    /// The place of errors that are about no key.
    start: usize,
    asked: Vec<&'static str>,
}

impl<'s, 'a> Section<'s, 'a> {
    /// The top level of the file.
    pub(super) fn root(source: &'s Source<'a>, table: &'s DeTable<'a>) -> Self {
        Self::new(source, String::new(), Some(table), 0)
    }

    fn new(
        source: &'s Source<'a>,
        title: String,
        table: Option<&'s DeTable<'a>>,
        start: usize,
    ) -> Self {
        Self {
            source,
            title,
            table,
            start,
            asked: Vec::new(),
        }
    }

    /// The table under `key`. If the file lacks it, the section is empty.
    pub(super) fn section(&mut self, key: &'static str) -> Result<Section<'s, 'a>, ConfigError> {
        let title = format!("[{key}]");
        match self.ask(key) {
            None => Ok(Section::new(self.source, title, None, self.start)),
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => Ok(Section::new(
                    self.source,
                    title,
                    Some(table),
                    value.span().start,
                )),
                _ => Err(self.error(
                    value.span().start,
                    format!(
                        "`{key}` is {}: write it as a section, {title}",
                        found(value)
                    ),
                )),
            },
        }
    }

    /// The table under a `key` of this section, if there is one.
    pub(super) fn table(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Section<'s, 'a>>, ConfigError> {
        let Some(value) = self.ask(key) else {
            return Ok(None);
        };
        let DeValue::Table(table) = value.get_ref() else {
            // The value is not repeated: it may be a secret.
            return Err(self.wrong(key, "write a table: { … }"));
        };
        let title = format!("`{key}` of {}", self.title);
        let start = value.span().start;
        Ok(Some(Section::new(self.source, title, Some(table), start)))
    }

    /// The same table under another name in errors.
    pub(super) fn titled(self, title: &str) -> Self {
        Self {
            title: title.to_owned(),
            ..self
        }
    }

    /// As [`Section::entries`], in the order of the file.
    pub(super) fn entries_as_written(self) -> Result<Vec<(String, Section<'s, 'a>)>, ConfigError> {
        let mut entries = self.entries()?;
        entries.sort_by_key(|(_, section)| section.start);
        Ok(entries)
    }

    /// Every table in this one with its key, where the keys are names of the operator's choice. In the order of the
    /// names.
    pub(super) fn entries(self) -> Result<Vec<(String, Section<'s, 'a>)>, ConfigError> {
        let kind = self.title.trim_matches(['[', ']']);
        let mut entries = Vec::new();
        for (key, value) in self.table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            let title = if name.contains('@') {
                format!("[{kind}.\"…\"]")
            } else {
                format!("[{kind}.{name:?}]")
            };
            let DeValue::Table(table) = value.get_ref() else {
                return Err(self.error(
                    key.span().start,
                    format!(
                        "{} in {} is {}: write it as a section, {title}",
                        shown_key(name),
                        self.title,
                        found(value)
                    ),
                ));
            };
            let start = key.span().start;
            let section = Section::new(self.source, title, Some(table), start);
            entries.push((name.to_owned(), section));
        }
        Ok(entries)
    }

    /// The string under `key`, read by `read`.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.ask(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::String(text) => self.read(key, value.span(), text, read).map(Some),
            _ => Err(self.mistyped(key, value, "a string in quotes")),
        }
    }

    /// As [`Section::text`], for a key that also takes another type. A value of another type gives `None` here.
    pub(super) fn one_text<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let value = self.table.and_then(|table| table.get(key));
        match value.map(Spanned::get_ref) {
            Some(DeValue::String(_)) => self.text(key, read),
            _ => Ok(None),
        }
    }

    /// Every key of this table with its string, where the keys are names of the operator's choice. In their order.
    pub(super) fn words(self) -> Result<Vec<(String, String)>, ConfigError> {
        let mut words = Vec::new();
        for (key, value) in self.table.into_iter().flatten() {
            let DeValue::String(text) = value.get_ref() else {
                let name = shown_key(key.get_ref());
                let offset = value.span().start;
                return Err(self.error(
                    offset,
                    format!(
                        "{name} in {} is {}: write a string in quotes",
                        self.title,
                        found(value)
                    ),
                ));
            };
            words.push((key.get_ref().to_string(), text.to_string()));
        }
        Ok(words)
    }

    /// As [`Section::text`], for sizes and times. A bare number counts as a string without its quotes, so that the
    /// error can name the unit that is mostly missing too.
    pub(super) fn quantity<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.ask(key) else {
            return Ok(None);
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => return Err(self.mistyped(key, value, "a string in quotes")),
        };
        self.read(key, value.span(), text, read).map(Some)
    }

    /// One of the words in `words`.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, ConfigError> {
        self.text(key, |text| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, meaning)| *meaning)
                .ok_or_else(|| {
                    let all: Vec<String> =
                        words.iter().map(|(word, _)| format!("{word:?}")).collect();
                    format!("write {}", all.join(" or "))
                })
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        match self.ask(key) {
            None => Ok(None),
            Some(value) => match value.get_ref() {
                DeValue::Boolean(flag) => Ok(Some(*flag)),
                _ => Err(self.mistyped(key, value, "true or false, without quotes")),
            },
        }
    }

    /// A list of strings, each read by `read`.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(value) = self.ask(key) else {
            return Ok(None);
        };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.mistyped(key, value, "a list: [\"…\"]"));
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            let DeValue::String(text) = item.get_ref() else {
                return Err(self.mistyped(key, item, "a string in quotes"));
            };
            texts.push(self.read(key, item.span(), text, &read)?);
        }
        Ok(Some(texts))
    }

    /// A list of tables.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
    ) -> Result<Vec<Section<'s, 'a>>, ConfigError> {
        let Some(value) = self.ask(key) else {
            return Ok(Vec::new());
        };
        let DeValue::Array(items) = value.get_ref() else {
            return Err(self.mistyped(key, value, "a list of tables: [{ … }]"));
        };
        let mut sections = Vec::with_capacity(items.len());
        for item in items {
            let DeValue::Table(table) = item.get_ref() else {
                return Err(self.mistyped(key, item, "a table: { … }"));
            };
            let title = format!("`{key}` of {}", self.title);
            let start = item.span().start;
            sections.push(Section::new(self.source, title, Some(table), start));
        }
        Ok(sections)
    }

    /// The value of a required key, or the error that the key is missing.
    pub(super) fn needed<T>(&self, key: &'static str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.error(self.start, format!("`{key}` is missing in {}", self.title)))
    }

    /// Whether the file has `key`.
    pub(super) fn says(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// An error about the value of `key`, or about the whole section if the file lacks the key.
    pub(super) fn wrong(&self, key: &str, message: impl Into<String>) -> ConfigError {
        let value = self.table.and_then(|table| table.get(key));
        let offset = value.map_or(self.start, |value| value.span().start);
        self.error(
            offset,
            format!("`{key}` in {}: {}", self.title, message.into()),
        )
    }

    /// An error about the section's own name.
    pub(super) fn misnamed(&self, message: impl Into<String>) -> ConfigError {
        self.error(self.start, format!("{}: {}", self.title, message.into()))
    }

    /// Refuses the keys that were not asked for. Call it last.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        let unknown = self
            .table
            .into_iter()
            .flatten()
            .filter(|(key, _)| !self.asked.contains(&key.get_ref().as_ref()))
            .min_by_key(|(key, _)| key.span().start);
        let Some((key, value)) = unknown else {
            return Ok(());
        };
        let name = key.get_ref().as_ref();
        let table = matches!(value.get_ref(), DeValue::Table(_));
        let offset = key.span().start;
        let near = nearest(name, &self.asked);
        if self.title.is_empty() {
            let written = if table && !name.contains('@') {
                format!("section [{name}]")
            } else {
                format!("key {} outside of any section", shown_key(name))
            };
            let fix = near.map_or_else(
                || format!("the sections are {}", joined(&self.asked, "[", "]")),
                |near| format!("did you mean [{near}]?"),
            );
            return Err(self.error(offset, format!("unknown {written}: {fix}")));
        }
        // Without its quotes, a name with dots becomes nested tables.
        let fix = if table && self.title.starts_with("[upstreams.") {
            "a registry's name goes into quotes, as in [upstreams.\"docker.io\"]".to_owned()
        } else {
            near.map_or_else(
                || format!("the keys are {}", joined(&self.asked, "`", "`")),
                |near| format!("did you mean `{near}`?"),
            )
        };
        let written = format!("unknown key {} in {}", shown_key(name), self.title);
        Err(self.error(offset, format!("{written}: {fix}")))
    }

    fn ask(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.table.and_then(|table| table.get(key))
    }

    fn read<T>(
        &self,
        key: &str,
        span: Range<usize>,
        text: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        read(text).map_err(|fix| {
            self.error(
                span.start,
                format!("`{key}` in {} is {}: {fix}", self.title, shown(text)),
            )
        })
    }

    fn mistyped(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> ConfigError {
        self.error(
            value.span().start,
            format!(
                "`{key}` in {} is {}: write {wanted}",
                self.title,
                found(value)
            ),
        )
    }

    fn error(&self, offset: usize, message: String) -> ConfigError {
        self.source.error(offset, message)
    }
}
