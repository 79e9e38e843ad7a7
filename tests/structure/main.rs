//! The code has the structure that ARCHITECTURE.md describes.

mod release;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use source::{Crate, Name};

/// A path inside the project's folder.
fn project(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Which children of `parent` use which others: the first name below it on both sides.
fn uses_below(files: &Crate, parent: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let below = |name: &[String]| -> Option<String> { name.strip_prefix(parent)?.first().cloned() };
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, file) in &files.0 {
        let Some(child) = below(module) else { continue };
        let used = all.entry(child.clone()).or_default();
        for name in &file.uses {
            if let Some(other) = below(&files.module_of(name))
                && other != child
            {
                used.insert(other);
            }
        }
    }
    all
}

/// A cycle of children that use each other, as a path that returns to its start.
fn circle(uses: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        at: &str,
        uses: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(begin) = way.iter().position(|step| step == at) {
            let mut found = way[begin..].to_vec();
            found.push(at.to_owned());
            return Some(found);
        }
        if !done.insert(at.to_owned()) {
            return None;
        }
        way.push(at.to_owned());
        let found = uses[at].iter().find_map(|next| walk(next, uses, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    uses.keys()
        .find_map(|at| walk(at, uses, &mut Vec::new(), &mut done))
}

/// A child may use its parent's definitions, and a parent its children's. The children of one parent form an order.
#[test]
fn no_files_use_each_other_in_a_circle() {
    for src in ["proxy/src", "shared/src", "layer/src"] {
        let files = Crate::read(&project(src));
        let parents: BTreeSet<&[String]> = files
            .0
            .keys()
            .filter_map(|module| module.split_last().map(|(_, parent)| parent))
            .collect();
        let circles: Vec<_> = parents
            .into_iter()
            .filter_map(|parent| {
                let found = circle(&uses_below(&files, parent))?;
                Some(format!(
                    "in {src}/{}: {}",
                    parent.join("/"),
                    found.join(" -> ")
                ))
            })
            .collect();
        assert!(
            circles.is_empty(),
            "these use each other:\n{}",
            circles.join("\n")
        );
    }
}

/// A row of ARCHITECTURE's table of modules.
#[derive(Debug, Default)]
struct Row {
    module: String,
    imports: BTreeSet<String>,
}

/// The table of modules, cut into columns where its head has them.
fn table() -> Vec<Row> {
    let text = fs::read_to_string(project("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let head = text.lines().find(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.first() == Some(&"module") && words.last() == Some(&"imports")
    });
    let head = head.expect("a table with the columns module and imports");
    let (first, last) = (head.find("module").unwrap(), head.find("imports").unwrap());
    let lines = text.lines().skip_while(|line| *line != head).skip(2);
    let mut rows: Vec<Row> = Vec::new();
    for line in lines.take_while(|line| !line.trim().is_empty()) {
        let cell = |from: usize, to: usize| {
            let chars = line.chars().skip(from).take(to - from);
            chars.collect::<String>().trim().to_owned()
        };
        let module = cell(first, first + 13);
        if !module.is_empty() {
            rows.push(Row {
                module,
                ..Row::default()
            });
        }
        let row = rows.last_mut().expect("the first row names a module");
        let imports = cell(last, usize::MAX);
        let words = imports.split_whitespace().filter(|word| *word != "-");
        row.imports.extend(words.map(ToOwned::to_owned));
    }
    rows
}

#[test]
fn the_table_of_modules_is_what_the_code_imports() {
    let files = Crate::read(&project("proxy/src"));
    let uses = uses_below(&files, &Name::new());
    let rows = table();
    let mut wrong = Vec::new();
    let mut above: BTreeSet<&str> = BTreeSet::new();
    for row in &rows {
        let Some(imports) = uses.get(&row.module) else {
            wrong.push(format!("{}: there is no such module", row.module));
            continue;
        };
        if row.imports != *imports {
            let words = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
            wrong.push(format!(
                "{}: the table says\n    {}\n  the code says\n    {}",
                row.module,
                words(&row.imports),
                words(imports)
            ));
        }
        for other in imports
            .iter()
            .filter(|other| !above.contains(other.as_str()))
        {
            wrong.push(format!(
                "{} imports {other}, which stands below it",
                row.module
            ));
        }
        above.insert(&row.module);
    }
    for module in uses
        .keys()
        .filter(|module| !above.contains(module.as_str()))
    {
        wrong.push(format!("{module} is not in the table"));
    }
    assert!(
        wrong.is_empty(),
        "ARCHITECTURE.md, the modules:\n{}",
        wrong.join("\n")
    );
}

/// The picture of the modules is drawn from modules.dot, which must match the table.
#[test]
fn the_picture_of_the_modules_is_the_table() {
    let text = fs::read_to_string(project("docs/pictures/modules.dot")).expect("modules.dot");
    let drawn: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.trim().split_once(" -> "))
        .map(|(module, other)| (module.to_owned(), other.to_owned()))
        .collect();
    let rows = table().into_iter();
    let said: BTreeSet<_> = rows
        .flat_map(|row| {
            let module = row.module;
            let arrow = move |other| (module.clone(), other);
            row.imports.into_iter().map(arrow)
        })
        .collect();
    let apart: Vec<_> = drawn.symmetric_difference(&said).collect();
    assert!(apart.is_empty(), "run scripts/pictures: {apart:?}");
}

/// lib.rs lists the modules in the table's order.
#[test]
fn the_root_lists_the_modules_in_the_order_of_the_table() {
    let text = fs::read_to_string(project("proxy/src/lib.rs")).expect("lib.rs");
    let listed: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .filter(|module| *module != "fuzz")
        .map(ToOwned::to_owned)
        .collect();
    let rows: Vec<_> = table().into_iter().map(|row| row.module).collect();
    assert_eq!(listed, rows);
}

/// All Rust files of the project with their numbers of lines, without generated files.
fn lengths(dir: &Path, found: &mut Vec<(usize, String)>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                lengths(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            found.push((text.lines().count(), path.display().to_string()));
        }
    }
}

/// A person should be able to read a file in one sitting.
#[test]
fn no_file_is_long_and_most_are_short() {
    let mut found = Vec::new();
    for crate_dir in ["proxy", "shared", "layer", "simulate", "tests", "fuzz"] {
        lengths(&project(crate_dir), &mut found);
    }
    found.sort();
    let long: Vec<_> = found.iter().filter(|(lines, _)| *lines > 450).collect();
    assert!(long.is_empty(), "split these by concept: {long:#?}");
    let (median, _) = found[found.len() / 2];
    assert!(median <= 180, "the median is {median} lines");
}
