//! `docs/conformance.md`, `docs/states.md` and `docs/threats.md` promise tests: they must exist, and
//! every row that is the stack's business must have one or say why not.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of all tests in the sources.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(tests_in(&read(&path)));
            }
        }
    }
    names
}

/// The functions that follow a test attribute.
fn tests_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut expected = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            expected = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| expected) {
            names.extend(rest.split(['(', '<']).next().map(str::to_owned));
            expected = false;
        }
    }
    names
}

/// The cells of every row of the tables whose header begins with these.
fn rows(page: &str, header: &[&str]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        let Some(line) = line
            .strip_prefix('|')
            .and_then(|line| line.strip_suffix('|'))
        else {
            inside = false;
            continue;
        };
        let cells: Vec<String> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        if cells.starts_with(
            &header
                .iter()
                .map(|cell| (*cell).to_owned())
                .collect::<Vec<_>>(),
        ) {
            inside = true;
        } else if inside && !cells[0].starts_with("---") {
            rows.push(cells);
        }
    }
    rows
}

/// What stands in backticks.
fn named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn conformance() -> Vec<Vec<String>> {
    rows(
        &read(&root().join("docs/conformance.md")),
        &["id", "level", "section", "requirement"],
    )
}

#[test]
fn conformance_names_only_tests_that_exist() {
    let tests = tests();
    let rows = conformance();
    let missing: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            named(row.last().expect("cells")).map(move |name| format!("{}: {name}", row[0]))
        })
        .filter(|name| !tests.contains(name.split(": ").nth(1).expect("a name")))
        .collect();
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
    let names: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| named(row.last().expect("cells")))
        .collect();
    println!("{} rows, {} tests named", rows.len(), names.len());
}

#[test]
fn conformance_leaves_no_row_of_the_stack_without_a_test_or_a_reason() {
    for row in conformance() {
        let [.., verdict, test] = row.as_slice() else {
            panic!("{row:?}")
        };
        let reason = verdict
            .split_once(": ")
            .is_some_and(|(_, reason)| !reason.is_empty());
        match verdict.split([' ', ':']).next() {
            Some("yes") => assert!(
                named(test).next().is_some(),
                "{}: claimed, and no test",
                row[0]
            ),
            Some("no") => assert!(reason, "{}: not done, and no reason", row[0]),
            Some("for") => assert_eq!(row[4], "app", "{}: the stack's business", row[0]),
            _ => panic!("{}: no verdict", row[0]),
        }
    }
}

#[test]
fn conformance_has_every_label_of_rfc_9293_once() {
    let mut found: Vec<String> = conformance()
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    found.retain(|id| !id.starts_with("U-"));
    found.sort();
    let labels = |name: &str, last: u32| {
        (1..=last)
            .map(|n| format!("{name}-{n}"))
            .collect::<Vec<_>>()
    };
    let mut expected = [
        labels("MUST", 69),
        labels("SHLD", 31),
        labels("MAY", 18),
        labels("REC", 1),
    ]
    .concat();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn states_names_only_tests_that_exist() {
    let tests = tests();
    let rows = rows(&read(&root().join("docs/states.md")), &["", "from", "to"]);
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row[0], (at + 1).to_string());
        let mut names = named(row.last().expect("cells")).peekable();
        assert!(names.peek().is_some(), "transition {} has no test", row[0]);
        names.for_each(|name| {
            assert!(
                tests.contains(name),
                "transition {}: no test {name}",
                row[0]
            )
        });
    }
    assert!(!rows.is_empty());
}

#[test]
fn conformance_names_only_modules_that_exist() {
    let rows = rows(&read(&root().join("docs/conformance.md")), &["RFC", "what"]);
    for row in &rows {
        for module in named(row.last().expect("cells")) {
            let path = root().join("src").join(module);
            assert!(path.exists(), "RFC {}: no {module}", row[0]);
        }
    }
    assert!(rows.len() > 10);
}

/// Threats by their ids: floods, blind injection, malformed packets, state machine, the process.
fn threat_ids() -> Vec<String> {
    let ids = |letter: char, last: u32| (1..=last).map(move |n| format!("{letter}{n}"));
    let mut all: Vec<String> = ids('F', 18).chain(ids('B', 15)).collect();
    all.push("B4a".into());
    all.extend(ids('M', 17).chain(ids('S', 17)).chain(ids('A', 19)));
    all.sort();
    all
}

#[test]
fn conformance_has_for_each_threat_a_test_of_its_name_or_a_reason() {
    let tests = tests();
    let rows = rows(&read(&root().join("docs/threats.md")), &["id", "threat"]);
    for row in &rows {
        let [id, _, test] = row.as_slice() else {
            panic!("{row:?}")
        };
        for name in named(test) {
            assert!(tests.contains(name), "{id}: no test {name}");
        }
        let prefix = format!("{}_", id.to_lowercase());
        let has_its_own = named(test).any(|name| name.starts_with(&prefix));
        // Of what happens in the state machine many tests have the name of a figure or an RFC, and
        // what programs do has names of its own.
        let elsewhere = id.starts_with(['S', 'A']) && named(test).next().is_some();
        let reason = test
            .strip_prefix("later: ")
            .is_some_and(|reason| !reason.is_empty());
        assert!(
            has_its_own || elsewhere || reason,
            "{id}: no test of its name"
        );
    }
    let mut ids: Vec<String> = rows.into_iter().map(|row| row[0].clone()).collect();
    ids.sort();
    assert_eq!(ids, threat_ids());
}
