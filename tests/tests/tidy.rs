//! Tidy is a test: the arrows between crates and within `shared`, the head of every file, sizes, words and calls that
//! must not stand in the code, and that each promise of SEMANTICS.md names a test that is there.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of the workspace").to_owned()
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.map(|e| e.expect("a readable folder").path()) {
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|x| x == "rs") {
            out.push(path);
        }
    }
}

/// Path relative to the workspace, and text, of every Rust file.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut files = Vec::new();
    for member in ["shared", "fusevol", "mgr", "backup", "tests"] {
        rust_files(&root.join(member), &mut files);
    }
    files.sort();
    assert!(files.len() > 30, "the sources were not found");
    files
        .into_iter()
        .map(|p| {
            let name = p.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
            (name, fs::read_to_string(&p).expect("UTF-8"))
        })
        .collect()
}

fn complain(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("/tests.rs")
}

#[test]
fn every_file_opens_with_its_purpose() {
    let bad: Vec<_> = sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| name).collect();
    complain("files that do not say what they are for", &bad);
}

#[test]
fn one_idea_a_file() {
    let bad: Vec<_> = sources()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    complain("files that hold two ideas", &bad);
}

/// `backup` -> `fusevol` -> `shared` <- `mgr`; `tests` -> all.
#[test]
fn arrows_between_crates() {
    let allowed = [
        ("shared/", &[][..]),
        ("mgr/", &["fusevol_shared"][..]),
        ("fusevol/", &["fusevol_shared"][..]),
        ("backup/", &["fusevol_shared", "fusevol"][..]),
    ];
    let crates = ["fusevol_shared", "fusevol_mgr", "fusevol_backup", "fusevol"];
    let mut bad = Vec::new();
    for (name, text) in sources() {
        let Some((own, allowed)) = allowed.iter().find(|(own, _)| name.starts_with(own)) else { continue };
        let own_crate = match *own {
            "shared/" => "fusevol_shared",
            "mgr/" => "fusevol_mgr",
            "backup/" => "fusevol_backup",
            _ => "fusevol",
        };
        for c in crates.iter().filter(|c| **c != own_crate && !allowed.contains(c)) {
            if text.contains(&format!("{c}::")) {
                bad.push(format!("{name} names {c}"));
            }
        }
    }
    complain("arrows that point the wrong way", &bad);
}

/// Within `shared`, modules import downwards only.
#[test]
fn arrows_within_shared() {
    let layers = [
        &["units", "ids", "name", "size", "error", "clock", "random", "sentence"][..],
        &["mask", "map", "lock"][..],
        &["change"][..],
        &["format", "wire"][..],
        &["disk", "net"][..],
        &["cli"][..],
    ];
    let level = |module: &str| layers.iter().position(|l| l.contains(&module));
    let mut bad = Vec::new();
    for (name, text) in sources() {
        let Some(rest) = name.strip_prefix("shared/src/") else { continue };
        let Some(own) = level(rest.split(['/', '.']).next().unwrap_or_default()) else { continue };
        for line in text.lines().filter(|l| !l.trim_start().starts_with("//")) {
            for part in line.split("crate::").skip(1) {
                let module: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if level(&module).is_some_and(|l| l > own) {
                    bad.push(format!("{name}: {}", line.trim()));
                }
            }
        }
    }
    complain("imports that point upwards", &bad);
}

/// Libraries that only one place may name.
#[test]
fn libraries_stay_in_their_rooms() {
    let rooms = [
        ("fuser::", &["fusevol/src/fs/"][..]),
        ("clap::", &["/cli/", "/cli.rs", "/main.rs"][..]),
        ("indicatif::", &["/cli/", "/cli.rs"][..]),
        ("io_uring::", &["shared/src/disk/"][..]),
    ];
    let mut bad = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        for (library, places) in &rooms {
            if text.contains(library) && !places.iter().any(|p| name.contains(p)) {
                bad.push(format!("{name} names {library}"));
            }
        }
    }
    complain("libraries outside their rooms", &bad);
}

#[test]
fn nothing_unfinished() {
    let words = [concat!("to", "do!("), concat!("unimpl", "emented!("), concat!("TO", "DO"), concat!("FIX", "ME"), concat!("#[ig", "nore")];
    let mut bad = Vec::new();
    for (name, text) in sources() {
        for (n, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w)) {
                bad.push(format!("{name}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    complain("unfinished", &bad);
}

/// `unsafe` stands only in modules that say so, each block with its reason (a lint checks the reasons).
#[test]
fn unsafe_is_confined() {
    let rooms =
        ["shared/src/disk/buf.rs", "shared/src/disk/ring", "shared/src/disk/ioctl.rs", "shared/src/os.rs", "fusevol/src/fs/ioctl.rs"];
    let marks = [concat!("unsafe", " {"), concat!("unsafe", " impl"), concat!("unsafe", " fn"), concat!("allow(un", "safe_code)")];
    let bad: Vec<_> = sources()
        .into_iter()
        .filter(|(name, text)| marks.iter().any(|m| text.contains(m)) && !rooms.iter().any(|r| name.starts_with(r)))
        .map(|(name, _)| name)
        .collect();
    complain("unsafe outside its rooms", &bad);
}

/// Each promise of SEMANTICS.md stands as `> sentence` followed by `Proved by: `file::test`...`; the test quotes it.
#[test]
fn promises_are_quoted_by_their_tests() {
    let text = fs::read_to_string(root().join("SEMANTICS.md")).expect("SEMANTICS.md");
    let all = sources();
    let mut promises = 0;
    let mut bad = Vec::new();
    for promise in text.lines().filter_map(|l| l.strip_prefix("> ")) {
        promises += 1;
        if !all.iter().any(|(name, code)| is_test(name) && unwrapped(code).contains(promise)) {
            bad.push(promise.to_owned());
        }
    }
    assert!(promises >= 8, "only {promises} promises found");
    complain("promises that no test quotes", &bad);
}

/// Each sentence of the protocols (`shared/src/sentence.rs`) is kept somewhere by a check that can be switched off, and some test switches it off
/// and sees what it keeps broken.
#[test]
fn each_sentence_has_a_test_that_misses_it() {
    let all = sources();
    let (_, table) = all.iter().find(|(name, _)| name == "shared/src/sentence.rs").expect("the sentences");
    let body = table.split_once("pub enum Tag {").and_then(|(_, rest)| rest.split_once('}')).expect("the tags").0;
    let tags: Vec<&str> = body.lines().filter_map(|l| l.trim().strip_suffix(',')).filter(|l| !l.starts_with("///")).collect();
    for tag in ["L1", "T1", "T2", "T3", "T4", "P1", "P2", "R2", "R3", "R4", "B1"] {
        assert!(tags.contains(&tag), "{tag} has no switch");
    }
    let mut bad = Vec::new();
    for tag in tags {
        let of = |what: &str| format!("{what}(Tag::{tag}");
        let kept = all.iter().any(|(name, code)| !is_test(name) && code.contains(&of("holds")));
        // Every test that switches one off judges what comes of it: `without` gives it back.
        let missed = all.iter().any(|(name, code)| is_test(name) && code.contains(&format!("{},", of("without"))));
        if !kept || !missed {
            bad.push(format!("{tag}: kept {kept}, missed by a test {missed}"));
        }
    }
    complain("sentences that nothing keeps, or no test misses", &bad);
}

/// The text of doc comments with line breaks taken out, so that a quoted sentence may be wrapped.
fn unwrapped(code: &str) -> String {
    code.lines().map(|l| l.trim().trim_start_matches("///").trim_start_matches("//!").trim()).collect::<Vec<_>>().join(" ")
}
