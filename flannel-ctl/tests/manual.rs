//! docs/operations.md has a cure for every refusal and every hint that the code can print.

use std::{fs, path::Path};

/// Whole texts in `#[error("...")]`, and hints in `Some("...")`.
const SOURCES: [&str; 8] = [
    "src/plan/inspect.rs",
    "src/daemon/error.rs",
    "src/store/file.rs",
    "src/store/server.rs",
    "src/kernel/linux/explain.rs",
    "src/kernel/linux/setting.rs",
    "src/source/etcd/error.rs",
    "src/kernel/fastpath/error.rs",
];

/// Passed on from inside, or said by a library.
const NO_CURE: [&str; 3] = ["serving: {0}", "the task that serves ended early: {0}", "the {0} ended unexpectedly"];

#[test]
fn every_refusal_and_every_hint_is_in_the_manual() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: &str| fs::read_to_string(crate_dir.join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"));
    // Line breaks and code marks are the manual's business.
    let manual = read("../docs/operations.md").replace('`', "");
    let mut missing = Vec::new();
    for path in SOURCES {
        let source = read(path);
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        let texts: Vec<String> = texts(source);
        assert!(texts.len() > 2, "{path} has its messages in another form by now");
        for text in texts.iter().filter(|text| !NO_CURE.iter().any(|start| text.starts_with(start))) {
            if !manual.lines().any(|line| says(line, text)) {
                missing.push(format!("{path}: {text}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/operations.md does not have:\n{}", missing.join("\n"));
}

/// The string literals behind `#[error(` and `Some(`.
fn texts(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for opening in ["#[error(", "Some("] {
        for (at, _) in source.match_indices(opening) {
            let Some(rest) = source[at + opening.len()..].trim_start().strip_prefix('"') else { continue };
            found.push(literal(rest));
        }
    }
    found
}

/// Up to the closing quote, with escapes undone.
fn literal(rest: &str) -> String {
    let (mut text, mut chars) = (String::new(), rest.chars().peekable());
    while let Some(letter) = chars.next() {
        match letter {
            '"' => break,
            '\\' if chars.next_if_eq(&'\n').is_some() => while chars.next_if_eq(&' ').is_some() {},
            '\\' => text.extend(chars.next()),
            '`' => {}
            _ => text.push(letter),
        }
    }
    text
}

/// All that does not vary stands in the line, in order.
fn says(line: &str, text: &str) -> bool {
    let mut rest = line;
    for piece in text.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, after)| after)) {
        // "the {0} was" may be shown with an example in between.
        let piece = piece.trim_matches(|letter: char| letter == ' ' || letter == ':' || letter == '/');
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}
