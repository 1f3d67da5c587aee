//! docs/tokio-net.md names tests; they are there.

#![allow(clippy::unwrap_used, reason = "a test may panic anywhere")]

use std::{collections::HashSet, fs, path::Path};

/// The names of all functions in the Rust files below a directory that have a test's attribute.
fn tests_below(dir: &Path, found: &mut HashSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in source.lines().map(str::trim) {
                let after = line.strip_prefix("async ").unwrap_or(line);
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some(rest) = after.strip_prefix("fn ") {
                    let name = rest.split('(').next().unwrap_or_default();
                    if is_test {
                        found.insert(name.to_owned());
                    }
                    is_test = false;
                }
            }
        }
    }
}

#[test]
fn every_row_names_tests_that_exist_or_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = HashSet::new();
    tests_below(&root.join("src"), &mut tests);
    tests_below(&root.join("tests"), &mut tests);
    let page = fs::read_to_string(root.join("docs/tokio-net.md")).unwrap();
    let (checked, differences) = page.split_once("## What differs").unwrap();
    let mut rows = 0;
    for line in page.lines() {
        // A name of four words and more in backticks is a test's.
        for word in line.split('`').skip(1).step_by(2) {
            let is_name = word.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
            if is_name && word.matches('_').count() >= 3 {
                assert!(tests.contains(word), "there is no test {word}: {line}");
            }
        }
    }
    for line in checked.lines().filter(|line| line.starts_with("| `")) {
        let column = line.split('|').nth(2).unwrap();
        let names = column
            .split('`')
            .filter(|word| tests.contains(*word))
            .count();
        let accounted = names > 0 || column.contains("both ways") || column.contains("absent");
        assert!(accounted, "nothing tests {line}");
        rows += 1;
    }
    assert!(rows >= 20, "{rows} rows were read");
    assert!(differences.contains("synack"));
}
