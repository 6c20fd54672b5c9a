//! Holds the source against the map of `docs/ARCHITECTURE.md`: every room is on it, imports go
//! the ways it allows, and no rooms form a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Words in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Room -> (layer, rooms it may use), from the table of the page.
fn map() -> BTreeMap<String, (u32, BTreeSet<String>)> {
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the page is there");
    let mut rooms = BTreeMap::new();
    for line in page.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let layer = cells[2].parse().expect("a layer is a number");
        rooms.insert(
            quoted(cells[1]).remove(0),
            (layer, quoted(cells[4]).into_iter().collect()),
        );
    }
    rooms
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Room -> rooms that its code names as `crate::<room>`; tests may know more.
fn uses() -> BTreeMap<String, BTreeMap<String, String>> {
    let src = root().join("src");
    let mut all = Vec::new();
    files(&src, &mut all);
    let mut uses: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for path in all {
        let relative = path
            .strip_prefix(&src)
            .expect("below src")
            .to_string_lossy()
            .into_owned();
        let room = relative
            .split('/')
            .next()
            .expect("not empty")
            .trim_end_matches(".rs")
            .to_owned();
        if ["lib", "main"].contains(&room.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a readable file");
        let code = text.split("#[cfg(test)]").next().expect("not empty");
        let named = uses.entry(room).or_default();
        for part in code.split("crate::").skip(1) {
            for name in named_first(part) {
                named.entry(name).or_insert_with(|| relative.clone());
            }
        }
    }
    uses
}

/// What `crate::` is followed by: a name, or the first names of a group.
fn named_first(part: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let part = text.trim_start().chars();
        part.take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(group) = part.strip_prefix('{') else {
        return vec![name(part)];
    };
    let mut names = vec![name(group)];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

#[test]
fn groups_of_imports_are_seen() {
    assert_eq!(
        named_first("{engine, report::{View, files}, units};"),
        ["engine", "report", "units"]
    );
    assert_eq!(named_first("units::NS_PER_S;"), ["units"]);
}

#[test]
fn every_room_is_on_the_map_and_every_room_of_the_map_exists() {
    let on_map: BTreeSet<String> = map().into_keys().collect();
    let built: BTreeSet<String> = uses().into_keys().collect();
    assert_eq!(
        built, on_map,
        "rooms in src/ (left) and in docs/ARCHITECTURE.md (right)"
    );
}

#[test]
fn imports_go_the_ways_the_map_allows() {
    let map = map();
    let mut wrong = Vec::new();
    for (room, named) in uses() {
        let Some((_, allowed)) = map.get(&room) else {
            continue;
        };
        for (other, file) in named {
            if other != room && map.contains_key(&other) && !allowed.contains(&other) {
                wrong.push(format!("{file}: `{room}` may not use `{other}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_only_looks_down() {
    let map = map();
    for (room, (layer, allowed)) in &map {
        for other in allowed {
            let (below, _) = map
                .get(other)
                .unwrap_or_else(|| panic!("`{room}` may use `{other}`, which is not on the map"));
            assert!(
                below < layer,
                "`{room}` (layer {layer}) may not look at `{other}` (layer {below})"
            );
        }
    }
}

#[test]
fn modules_say_what_they_are_for() {
    let mut all = Vec::new();
    files(&root().join("src"), &mut all);
    let silent: Vec<_> = all
        .iter()
        .filter(|p| {
            !fs::read_to_string(p)
                .expect("a readable file")
                .starts_with("//!")
        })
        .collect();
    assert!(silent.is_empty(), "without `//!`: {silent:?}");
}

#[test]
fn the_tests_that_the_method_page_names_exist() {
    let page = fs::read_to_string(root().join("docs/METHOD.md")).expect("a readable file");
    let mut all = Vec::new();
    files(&root().join("src"), &mut all);
    files(&root().join("tests"), &mut all);
    let code: String = all
        .iter()
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .collect();
    // Names of tests are sentences; keys of files are shorter.
    let named: Vec<_> = quoted(&page)
        .into_iter()
        .filter(|word| word.matches('_').count() >= 4 && !word.contains([' ', '/']))
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        assert!(
            code.contains(&format!("fn {name}(")),
            "docs/METHOD.md names `{name}`"
        );
    }
}
