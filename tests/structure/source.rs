//! Which file of a crate uses which, read from its text: `use` trees, and paths that begin with `crate`, `self` or
//! `super`.
//!
//! A re-exported name (`pub use child::Name`) counts as its definition's. Code for tests is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path of modules and names from the crate's root.
pub type Name = Vec<String>;

/// A file of the crate.
#[derive(Debug, Default)]
pub struct File {
    /// The names that it uses from elsewhere in the crate.
    pub uses: BTreeSet<Name>,
    /// The names that it imports, and the full names behind them.
    names: BTreeMap<String, Name>,
}

/// The files of a crate by their modules; the root's name is empty.
#[derive(Debug)]
pub struct Crate(pub BTreeMap<Name, File>);

impl Crate {
    /// Reads `src`, whose root is `lib.rs`.
    pub fn read(src: &Path) -> Self {
        let mut files = BTreeMap::new();
        read_module(src, &src.join("lib.rs"), &[], &mut files);
        Self(files)
    }

    /// The module that defines `name`.
    pub fn module_of(&self, name: &[String]) -> Name {
        let mut name = name.to_vec();
        // A name may be re-exported a few times.
        for _ in 0..8 {
            let depth = (0..=name.len())
                .rev()
                .find(|n| self.0.contains_key(&name[..*n]));
            let depth = depth.expect("the root is a file");
            let file = &self.0[&name[..depth]];
            match name.get(depth).and_then(|next| file.names.get(next)) {
                Some(stands_for) => {
                    let rest = name[depth + 1..].to_vec();
                    name = [stands_for.clone(), rest].concat();
                }
                None => return name[..depth].to_vec(),
            }
        }
        panic!("{name:?} is passed on in a circle");
    }
}

fn read_module(dir: &Path, path: &Path, module: &[String], files: &mut BTreeMap<Name, File>) {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tokens: TokenStream = text
        .parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = Reader {
        module,
        children: Vec::new(),
        file: File::default(),
    };
    reader.read_items(&tokens.into_iter().collect::<Vec<_>>());
    let children = std::mem::take(&mut reader.children);
    files.insert(module.to_vec(), reader.file);
    for child in children {
        let below = [module, std::slice::from_ref(&child)].concat();
        let file = dir.join(format!("{child}.rs"));
        read_module(&dir.join(&child), &file, &below, files);
    }
}

struct Reader<'a> {
    module: &'a [String],
    children: Vec<String>,
    file: File,
}

impl Reader<'_> {
    fn read_items(&mut self, tokens: &[TokenTree]) {
        // Children first: a `use` may begin with a child's name.
        let mut at = 0;
        while at < tokens.len() {
            if let Some(after) = test_only(tokens, at) {
                at = after;
            } else if is_word(tokens.get(at), "mod")
                && is_sign(tokens.get(at + 2), ';')
                && let Some(TokenTree::Ident(child)) = tokens.get(at + 1)
            {
                self.children.push(child.to_string());
                at += 3;
            } else {
                at += 1;
            }
        }
        self.read_tokens(tokens);
    }

    fn read_tokens(&mut self, tokens: &[TokenTree]) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if let Some(after) = test_only(tokens, at) {
                at = after;
                continue;
            }
            match token {
                TokenTree::Ident(word) if word == "use" => {
                    let ends = tokens[at..]
                        .iter()
                        .position(|token| is_sign(Some(token), ';'));
                    let end = at + ends.unwrap_or(tokens.len() - at);
                    self.read_use(&tokens[at + 1..end], &[]);
                    at = end;
                }
                TokenTree::Ident(word) if is_path_begin(tokens, at) => {
                    let mut path = vec![word.to_string()];
                    while is_sign(tokens.get(at + 1), ':')
                        && is_sign(tokens.get(at + 2), ':')
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 3)
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    if let Some(absolute) = self.absolute(&path) {
                        self.file.uses.insert(absolute);
                    }
                    at += 1;
                }
                TokenTree::Group(group) => {
                    let inside: Vec<_> = group.stream().into_iter().collect();
                    self.read_tokens(&inside);
                    at += 1;
                }
                _ => at += 1,
            }
        }
    }

    /// One tree of a `use`, below `before`.
    fn read_use(&mut self, tokens: &[TokenTree], before: &[String]) {
        let mut path = before.to_vec();
        let mut renamed = None;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(word) if word == "as" => {
                    renamed = tokens.get(at + 1).map(ToString::to_string);
                    at += 1;
                }
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let inside: Vec<_> = group.stream().into_iter().collect();
                    for tree in inside.split(|token| is_sign(Some(token), ',')) {
                        if !tree.is_empty() {
                            self.read_use(tree, &path);
                        }
                    }
                    return;
                }
                _ => {}
            }
            at += 1;
        }
        // `use a::{self}` brings in `a`.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let Some(absolute) = self.absolute(&path) else {
            return;
        };
        let glob = is_sign(tokens.last(), '*');
        if let (Some(last), false) = (path.last(), glob) {
            let name = renamed.unwrap_or_else(|| last.clone());
            // A child's own name is its module's.
            if !(self.children.contains(&name) && absolute.len() == self.module.len() + 1) {
                self.file.names.insert(name, absolute.clone());
            }
        }
        self.file.uses.insert(absolute);
    }

    /// The path from the crate's root; `None` for a path into another crate.
    fn absolute(&self, path: &[String]) -> Option<Name> {
        let (first, mut rest) = path.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.module.to_vec(),
            "super" => self.module.split_last()?.1.to_vec(),
            child if self.children.iter().any(|known| known == child) => {
                return Some([self.module, path].concat());
            }
            _ => return None,
        };
        while let Some((word, after)) = rest.split_first()
            && word == "super"
        {
            base.pop();
            rest = after;
        }
        base.extend_from_slice(rest);
        Some(base)
    }
}

/// Whether a path of this crate begins here, and not in the middle of another.
fn is_path_begin(tokens: &[TokenTree], at: usize) -> bool {
    let begins = ["crate", "self", "super"];
    let goes_on = is_sign(tokens.get(at + 1), ':') && is_sign(tokens.get(at + 2), ':');
    let inside = at > 0 && is_sign(tokens.get(at - 1), ':');
    begins.iter().any(|word| is_word(tokens.get(at), word)) && goes_on && !inside
}

/// Where an item for tests and fuzzers alone ends, if one begins here.
fn test_only(tokens: &[TokenTree], at: usize) -> Option<usize> {
    let TokenTree::Group(attribute) = tokens.get(at + 1)? else {
        return None;
    };
    let text = attribute.stream().to_string();
    let is_test =
        text.starts_with("cfg") && ["test", "fuzzing"].iter().any(|word| text.contains(word));
    if !is_sign(tokens.get(at), '#') || !is_test || text.contains("not") {
        return None;
    }
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        sign => is_sign(Some(sign), ';'),
    };
    let length = tokens[at + 2..].iter().position(ends)?;
    Some(at + 2 + length + 1)
}

fn is_word(token: Option<&TokenTree>, word: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(ident)) if ident == word)
}

fn is_sign(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}
