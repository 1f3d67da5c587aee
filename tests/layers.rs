//! The rules that keep the crate in layers, checked on the words of its source.
//!
//! A module imports only from layers below its own; shared mutability, clocks, the runtime and
//! `unsafe` stay where ARCHITECTURE.md says.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Lowest first. Modules of one layer do not see each other.
const LAYERS: &[&[&str]] = &[
    &["error", "info", "packet", "pool", "seq", "time", "testing"],
    &["checksum", "congestion"],
    &["config"],
    &["wire", "link", "device"],
    &["tcp"],
    &["engine"],
    &["reactor"],
    &["net"],
];

/// Who must not import whom although the layers would allow it: the protocol does not know where
/// packets come from.
const FORBIDDEN: &[(&str, &str)] = &[("tcp", "device"), ("engine", "device")];

/// Words that belong to some places only.
struct Rule {
    /// Whether the path or name that starts at this token is meant.
    applies: fn(&[Token<'_>]) -> bool,
    /// Where it is allowed: prefixes of paths below `src`.
    places: &'static [&'static str],
    what: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        applies: |tokens| {
            let word = tokens[0].text;
            matches!(word, "Mutex" | "RwLock" | "Condvar" | "OnceLock")
                || word.starts_with("Atomic")
        },
        places: &["link/", "device/", "reactor", "net/"],
        what: "shared mutability",
    },
    Rule {
        applies: |tokens| tokens[0].text == "Waker",
        // The engine gives out the list of those to be woken.
        places: &["link/", "device/", "reactor", "net/", "engine/mod.rs"],
        what: "a waker",
    },
    Rule {
        applies: |tokens| path(tokens, &["Instant", "now"]) || path(tokens, &["SystemTime", "now"]),
        places: &["device/", "reactor", "net/"],
        what: "a clock",
    },
    Rule {
        applies: |tokens| tokens[0].text == "tokio" && !path(tokens, &["tokio", "sync"]),
        places: &["device/", "reactor", "net/"],
        what: "the runtime",
    },
    Rule {
        applies: |tokens| tokens[0].text == "unsafe",
        places: &[
            "device/netns.rs",
            "device/reader.rs",
            "device/rtnetlink.rs",
            "device/tun.rs",
        ],
        what: "`unsafe`",
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Length in bytes of the string literal that `source` starts with, if it does.
fn string_len(source: &str) -> Option<usize> {
    let unprefixed = source.trim_start_matches(['b', 'c']);
    let prefix = source.len() - unprefixed.len();
    if let Some(raw) = unprefixed.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let len = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(prefix + 1 + hashes + 1 + len);
    }
    let body = unprefixed.strip_prefix('"')?;
    let mut escaped = false;
    let end = body.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    Some(prefix + 1 + end.map_or(body.len(), |at| at + 1))
}

/// Length in bytes of the character literal that `source` starts with, if it is one and not a
/// lifetime.
fn char_len(source: &str) -> Option<usize> {
    let body = source.strip_prefix('\'')?;
    if let Some(escape) = body.strip_prefix('\\') {
        let first = escape.chars().next()?.len_utf8();
        return Some(2 + first + escape[first..].find('\'')? + 1);
    }
    let c = body.chars().next()?.len_utf8();
    body[c..].starts_with('\'').then_some(1 + c + 1)
}

/// Length in bytes of the comment that `source` starts with, if it does.
fn comment_len(source: &str) -> Option<usize> {
    if source.starts_with("//") {
        return Some(source.find('\n').unwrap_or(source.len()));
    }
    source.strip_prefix("/*")?;
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < source.len() {
        let rest = &source[at..];
        let (step, change) = match rest.get(..2) {
            Some("/*") => (2, 1),
            Some("*/") => (2, -1),
            _ => (rest.chars().next().map_or(1, char::len_utf8), 0),
        };
        at += step;
        depth += change;
    }
    Some(at)
}

/// Names and punctuation of a source file, without comments and literals.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        let literal = comment_len(rest)
            .or_else(|| string_len(rest))
            .or_else(|| char_len(rest));
        let len = literal.unwrap_or_else(|| {
            if is_name(c) {
                rest.find(|c| !is_name(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                c.len_utf8()
            }
        });
        let text = &rest[..len];
        if literal.is_none() && !c.is_whitespace() {
            found.push(Token { text, line });
        }
        line += text.matches('\n').count();
        at += len;
    }
    found
}

/// Whether `tokens` start with these names, joined by `::`.
fn path(tokens: &[Token<'_>], names: &[&str]) -> bool {
    names.iter().enumerate().all(|(i, name)| {
        let is = |at: usize, text| tokens.get(at).is_some_and(|token| token.text == text);
        (i == 0 || is(2 * i - 1, "::")) && is(2 * i, *name)
    })
}

/// The first names of what follows `crate::`: one, or several if it is a group.
fn first_names<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    if tokens.first().is_none_or(|token| token.text != "{") {
        return tokens.first().copied().into_iter().collect();
    }
    let (mut depth, mut expected, mut found) = (1, true, Vec::new());
    for token in &tokens[1..] {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => expected = true,
            _ if expected => {
                found.push(*token);
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// The modules of the crate that a file names, through `crate::` or through enough `super::`.
/// `depth` is that of the file's module: 1 for `src/seq.rs`, 2 for `src/tcp/rtt.rs`.
fn imports<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<Token<'a>> {
    let mut found = Vec::new();
    let mut blocks = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let here = &tokens[at..];
        match token.text {
            // `mod name {` and not `mod name;`
            "{" => blocks.push(at >= 2 && tokens[at - 2].text == "mod"),
            "}" => {
                blocks.pop();
            }
            "crate" if here.get(1).is_some_and(|next| next.text == "::") => {
                found.extend(first_names(&here[2..]));
            }
            "super" => {
                let supers = here
                    .chunks(2)
                    .take_while(|pair| pair[0].text == "super")
                    .count();
                let inline = blocks.iter().filter(|is_module| **is_module).count();
                if supers >= depth + inline {
                    found.extend(first_names(&here[(2 * supers).min(here.len())..]));
                }
                at += 2 * supers - 1;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Without what is compiled for tests only. Tests may use clocks, wakers and devices.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let attribute = ["#", "[", "cfg", "("].iter().enumerate();
        let mut words = tokens[at..].iter().skip(4).take_while(|t| t.text != "]");
        let is_test = attribute.into_iter().all(|(i, text)| is(at + i, text))
            && !is(at + 4, "not")
            && words.any(|t| t.text == "test");
        if !is_test {
            kept.push(tokens[at]);
            at += 1;
            continue;
        }
        // The item ends with its first block, or with a semicolon before one.
        let mut depth = 0;
        while at < tokens.len() {
            match tokens[at].text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 && matches!(tokens[at - 1].text, "}" | ";") {
                break;
            }
        }
    }
    kept
}

/// What is wrong with one file; `name` is its path below `src`.
fn violations(name: &str, source: &str) -> Vec<String> {
    let parts: Vec<&str> = name.trim_end_matches(".rs").split('/').collect();
    let own = parts[0];
    if own == "lib" {
        return Vec::new();
    }
    let layer_of = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let Some(layer) = layer_of(own) else {
        return vec![format!("{name}: `{own}` is in no layer")];
    };
    let depth = parts.len() - usize::from(parts.last() == Some(&"mod"));
    let is_test = parts.contains(&"tests");
    let all = tokens(source);
    let code = if is_test {
        Vec::new()
    } else {
        without_tests(&all)
    };
    let mut found = Vec::new();
    for target in imports(&all, depth) {
        let module = target.text;
        if module != own && layer_of(module).is_some_and(|other| other >= layer) {
            found.push(format!("{name}:{}: imports crate::{module}", target.line));
        }
    }
    for target in imports(&code, depth) {
        if FORBIDDEN.contains(&(own, target.text)) {
            let Token { text, line } = target;
            found.push(format!("{name}:{line}: {own} must not know {text}"));
        }
    }
    for rule in RULES {
        if rule.places.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for at in 0..code.len() {
            if (rule.applies)(&code[at..]) {
                let Token { text, line } = code[at];
                let (what, places) = (rule.what, rule.places);
                found.push(format!(
                    "{name}:{line}: `{text}` is {what}: only in {places:?}"
                ));
            }
        }
    }
    found
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory that can be read") {
        let path = entry.expect("an entry that can be read").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_keeps_to_its_layer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&src, &mut paths);
    assert!(paths.len() > 10, "the source was not found in {src:?}");
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let name = path.strip_prefix(&src).expect("a path below src");
        let source = fs::read_to_string(&path).expect("a file that can be read");
        found.extend(violations(&name.to_string_lossy(), &source));
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn a_made_up_violation_of_each_rule_is_found() {
    let cases = [
        ("wire/tcp.rs", "use crate::tcp::Connection;"),
        ("wire/tcp.rs", "use crate::{seq, link::Rope};"),
        (
            "wire/tcp.rs",
            "use crate::{seq::{SeqNum, SeqRange}, engine};",
        ),
        ("seq.rs", "fn f() { crate::error::Failure::Reset; }"),
        ("seq.rs", "use super::error;"),
        ("link/rope.rs", "use super::super::wire;"),
        (
            "tcp/congestion/cubic.rs",
            "use super::super::super::engine;",
        ),
        ("seq.rs", "mod tests { use super::super::tcp; }"),
        ("tcp/rtt.rs", "use crate::device::Device;"),
        ("engine/demux.rs", "wakes: Vec<std::task::Waker>"),
        ("tcp/send.rs", "lock: std::sync::Mutex<u8>"),
        ("tcp/send.rs", "use std::sync::atomic::AtomicU64;"),
        ("tcp/rtt.rs", "let now = Instant::now();"),
        ("link/mod.rs", "let now = std::time::SystemTime::now();"),
        ("link/mod.rs", "tokio::spawn(async {});"),
        ("engine/mod.rs", "use tokio::{sync, time};"),
        ("device/channel.rs", "unsafe { f() }"),
        (
            "tcp/send.rs",
            "#[cfg(test)] mod tests { use std::sync::Mutex; } unsafe {}",
        ),
        ("tcp/send.rs", "#[cfg(not(test))] fn f() { Instant::now() }"),
        ("tcp/send.rs", "let quote = '\"'; unsafe {} '\"'"),
        ("novelty.rs", ""),
    ];
    for (name, source) in cases {
        let found = violations(name, source);
        assert_eq!(found.len(), 1, "{name}: {source}: {found:?}");
    }
}

#[test]
fn what_is_allowed_or_only_mentioned_is_no_violation() {
    let cases = [
        ("tcp/input.rs", "use crate::{link::Wakes, seq::SeqNum};"),
        (
            "tcp/input.rs",
            "use super::{recv, send}; use crate::tcp::State;",
        ),
        ("engine/mod.rs", "pub(crate) fn f(wakes: &mut Wakes) {}"),
        ("seq.rs", "mod tests { use super::*; }"),
        ("tcp/mod.rs", "//! Not [`crate::engine`], nor unsafe."),
        (
            "tcp/mod.rs",
            "/* /* Mutex */ unsafe */ let lifetime: &'a str = \"unsafe \\\" Mutex\";",
        ),
        (
            "tcp/mod.rs",
            "r#\"Instant::now() \" unsafe\"#; b'\\''; '\\u{41}'",
        ),
        ("tcp/rtt.rs", "#[cfg(test)] mod tests { Instant::now(); }"),
        ("tcp/tests/close.rs", "let waker = Waker::noop();"),
        ("engine/tests/pair.rs", "use crate::device::link;"),
        ("link/command.rs", "use tokio::sync::oneshot;"),
        ("reactor.rs", "tokio::time::Instant::now()"),
        ("device/tun.rs", "unsafe { ioctl() }"),
        ("lib.rs", "pub use crate::net::Stack;"),
    ];
    for (name, source) in cases {
        let found = violations(name, source);
        assert!(found.is_empty(), "{name}: {source}: {found:?}");
    }
}
