//! The documentation of the commands: `--help`, `docs/cli.md` and completions agree with each other.

use std::collections::BTreeSet;
use std::process::Command;

use larder_tests::node::larder_program;

use crate::documents;

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(larder_program())
        .args(arguments)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The names in the list of commands of a `--help`.
fn commands(help: &str) -> Vec<String> {
    let (_, rest) = help.split_once("Commands:\n").expect("a list of commands");
    let lines = rest.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Every `--flag` in a text.
fn flags(text: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    for (at, _) in text.match_indices("--") {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let word = |c: &char| c.is_ascii_lowercase() || *c == '-';
        let name: String = text[at + 2..].chars().take_while(word).collect();
        let name = name.trim_matches('-');
        if !before.is_alphanumeric() && before != '-' && !name.is_empty() {
            flags.insert(format!("--{name}"));
        }
    }
    flags
}

/// The options of a `--help`: what stands before the examples.
fn options(command: &str) -> BTreeSet<String> {
    let help = printed(&[command, "--help"]);
    let (usage, _) = help.split_once("\nExamples:").unwrap_or((&help, ""));
    let lines = usage.lines().filter(|line| {
        let line = line.trim_start();
        let short = ["-a, --", "-f, --", "-n, --"];
        line.starts_with("--") || short.iter().any(|short| line.starts_with(short))
    });
    let first = lines.filter_map(|line| flags(line).into_iter().next());
    first.collect()
}

/// The section of `docs/cli.md` about a command.
fn section(command: &str) -> Option<String> {
    let page = std::fs::read_to_string(documents().join("cli.md")).expect("docs/cli.md");
    let heading = format!("\n## larder {command}\n");
    let (_, rest) = page.split_once(&heading)?;
    Some(rest.split("\n## ").next().unwrap_or_default().to_owned())
}

/// What every command that asks the daemon has.
const COMMON: [&str; 4] = ["--socket", "--config", "--timeout", "--json"];

#[test]
fn the_page_says_of_each_command_what_its_help_says() {
    let common: BTreeSet<String> = COMMON.map(str::to_owned).into();
    let commands = commands(&printed(&["--help"]));
    assert!(commands.len() > 10, "{commands:?}");
    for command in &commands {
        let Some(section) = section(command) else {
            panic!("docs/cli.md has no section `## larder {command}`");
        };
        if section.contains("Its options: `larder") {
            continue;
        }
        let help = options(command);
        let own: BTreeSet<String> = help.difference(&common).cloned().collect();
        let (told, _) = section.split_once("```json").unwrap_or((&section, ""));
        let told = flags(told);
        let untold: Vec<_> = own.difference(&told).collect();
        assert!(
            untold.is_empty(),
            "docs/cli.md does not say {untold:?} of {command}"
        );
        let wrong: Vec<_> = told
            .iter()
            .filter(|flag| !help.contains(*flag) && !common.contains(*flag))
            .collect();
        assert!(
            wrong.is_empty(),
            "docs/cli.md says {wrong:?} of {command}, and there is no such thing"
        );
    }
    let page = std::fs::read_to_string(documents().join("cli.md")).expect("docs/cli.md");
    for heading in page
        .lines()
        .filter_map(|line| line.strip_prefix("## larder "))
    {
        assert!(
            commands.iter().any(|name| name == heading),
            "there is no {heading}"
        );
    }
}

/// The page names every schema, and every schema that it names exists.
#[test]
fn the_page_names_every_schema() {
    let page = std::fs::read_to_string(documents().join("cli.md")).expect("docs/cli.md");
    let mut schemas = 0;
    for entry in std::fs::read_dir(documents().join("schemas")).expect("docs/schemas") {
        let name = entry.expect("a file").file_name();
        let name = name.to_string_lossy().into_owned();
        // The schemas of the configuration file have a page of their own.
        if name.starts_with("config") {
            continue;
        }
        schemas += 1;
        assert!(page.contains(&format!("(schemas/{name})")), "{name}");
    }
    assert_eq!(page.matches("](schemas/").count(), schemas);
}

/// The parts of every `--help` that larder writes itself: its purpose, and examples.
#[test]
fn every_command_has_examples() {
    // Commands that set up a node have pages of their own.
    let elsewhere = ["install", "uninstall", "config"];
    for command in commands(&printed(&["--help"])) {
        if !elsewhere.contains(&command.as_str()) {
            let help = printed(&[&command, "--help"]);
            assert!(help.contains("\nExamples:\n  "), "{command}: {help}");
        }
    }
}

#[test]
fn completions_know_the_commands_and_are_a_shells() {
    let commands = commands(&printed(&["--help"]));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command.as_str()), "{shell}: {command}");
        }
    }
    let script = printed(&["completions", "bash"]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("larder.bash");
    std::fs::write(&file, script).expect("a file");
    let asked = "COMP_WORDS=(larder ima); COMP_CWORD=1; _larder larder ima larder; echo \"${COMPREPLY[*]}\"";
    let completed = Command::new("bash")
        .args(["-c", &format!("source {}; {asked}", file.display())])
        .output()
        .expect("bash");
    assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "images");
}
