//! The text of a `hosts.toml` with larder's block in it. Pure.

use toml::de::{DeTable, DeValue};

use super::block;

/// larder's lines in a `hosts.toml`.
pub(super) struct Block<'a> {
    /// The URL at which containerd reaches larder, without a trailing slash.
    pub(super) address: &'a str,
    /// How many directories were made for the file: its own, the one above, and so on.
    pub(super) made: usize,
}

impl Block<'_> {
    /// The lines, marks included.
    ///
    /// Uses only the two keys that every containerd since 1.6 knows. `dial_timeout` is unknown before 2.0. `ca` or
    /// `skip_verify` beside an http:// address make containerd try TLS first.
    pub(super) fn render(&self) -> String {
        let lines = format!(
            "# containerd asks larder on this node first. There is no `server` line for it on purpose:\n\
             # without one containerd goes on to the registry that the image names by itself, so that\n\
             # pulls work while larder is down.\n\
             [host.\"{}\"]\n\
             \x20 capabilities = [\"pull\", \"resolve\"]\n",
            self.address
        );
        block::marked(&lines, self.made)
    }
}

/// `text` with `block` in front of the first host.
///
/// # Errors
/// The text is not TOML, or the block cannot come first without a change to the rest.
pub(super) fn weave(text: &str, block: &str) -> Result<String, String> {
    let before = parse(text)?;
    let at = place(text)?;
    let (head, tail) = text.split_at(at);
    let newline = if head.is_empty() || head.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let blank = if tail.is_empty() { "" } else { "\n" };
    let woven = format!("{head}{newline}{block}{blank}{tail}");
    // Checking the result catches comments, unusual headers and dotted keys.
    let unfit = || {
        "larder cannot put its section before the hosts: write each host as its own [host.\"URL\"] section"
            .to_owned()
    };
    let mut after = parse(&woven).map_err(|_| unfit())?;
    let ours = parse(block)?;
    let address = hosts_in_order(block)?.pop().ok_or_else(unfit)?;
    if let Some(toml::Value::Table(hosts)) = after.get_mut("host") {
        let put = hosts.remove(&address);
        let same = put.as_ref() == ours.get("host").and_then(|hosts| hosts.get(&address));
        if !same {
            return Err(unfit());
        }
        if hosts.is_empty() && !before.contains_key("host") {
            after.remove("host");
        }
    }
    if after == before {
        Ok(woven)
    } else {
        Err(unfit())
    }
}

/// The address in larder's block of a `hosts.toml`, if the file has one.
pub fn installed(text: &str) -> Option<String> {
    let place = block::find(text).ok()??;
    hosts_in_order(&text[place]).ok()?.pop()
}

/// The hosts that `text` names, in the order in which containerd asks them.
///
/// # Errors
/// The text is not TOML.
pub fn hosts_in_order(text: &str) -> Result<Vec<String>, String> {
    let document = DeTable::parse(text).map_err(|error| not_toml(text, &error))?;
    let mut hosts: Vec<(usize, String)> = match document.get_ref().get("host") {
        Some(value) => match value.get_ref() {
            DeValue::Table(hosts) => hosts
                .keys()
                .map(|key| (key.span().start, key.get_ref().to_string()))
                .collect(),
            _ => return Err("`host` is not a table in it".to_owned()),
        },
        None => Vec::new(),
    };
    hosts.sort_unstable();
    Ok(hosts.into_iter().map(|(_, host)| host).collect())
}

/// Where a block goes: before the first host's section and the comments right above it, or else at the end.
fn place(text: &str) -> Result<usize, String> {
    let document = DeTable::parse(text).map_err(|error| not_toml(text, &error))?;
    let first = match document.get_ref().get("host").map(toml::Spanned::get_ref) {
        Some(DeValue::Table(hosts)) => hosts.keys().map(|key| key.span().start).min(),
        Some(_) => return Err("`host` is not a table in it".to_owned()),
        None => None,
    };
    let Some(first) = first else {
        return Ok(text.len());
    };
    let mut start = text[..first].rfind('\n').map_or(0, |newline| newline + 1);
    while start > 0 {
        let above = text[..start - 1]
            .rfind('\n')
            .map_or(0, |newline| newline + 1);
        if !text[above..start].starts_with('#') {
            break;
        }
        start = above;
    }
    Ok(start)
}

fn parse(text: &str) -> Result<toml::Table, String> {
    text.parse()
        .map_err(|error: toml::de::Error| not_toml(text, &error))
}

/// The parser's own `Display` repeats the line, and the line of a header may hold a secret.
fn not_toml(text: &str, error: &toml::de::Error) -> String {
    let offset = text.floor_char_boundary(error.span().map_or(0, |span| span.start));
    let line = text[..offset].matches('\n').count() + 1;
    format!("it is not TOML (line {line}: {})", error.message())
}
