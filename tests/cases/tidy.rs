//! The borders of `docs/ARCHITECTURE.md`, asserted: which crate may use which, where the outer world may be touched,
//! and what every file must have. Reads `cargo metadata` and the sources; starts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use odradek_tests::cluster::repository;
use odradek_tests::process::run_ok;

// ---------------------------------------------------------------- crates

/// Crate to the names of what it depends on, dev-dependencies left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]).current_dir(repository());
    let text = run_ok(command, Duration::from_secs(60)).expect("cargo metadata runs");
    let json = text.lines().find(|line| line.starts_with('{')).expect("cargo metadata prints JSON");
    let json: serde_json::Value = serde_json::from_str(json).expect("cargo metadata prints JSON");
    let packages = json["packages"].as_array().expect("packages");
    let mut out = BTreeMap::new();
    for package in packages {
        let uses = package["dependencies"].as_array().expect("dependencies").iter();
        let uses = uses.filter(|used| used["kind"].as_str() != Some("dev"));
        let names = uses.filter_map(|used| Some(used["name"].as_str()?.to_owned())).collect();
        out.insert(package["name"].as_str().expect("a name").to_owned(), names);
    }
    out
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    // Every crate of the project with those of the project that it may use.
    let allowed: BTreeMap<&str, &[&str]> = [
        ("odradek-proto", &[][..]),
        ("odradek-common", &[]),
        ("odradek-records", &["odradek-common"]),
        ("odradek-wire", &["odradek-common"]),
        ("odradek-metadata", &["odradek-common", "odradek-proto"]),
        ("odradek-node", &["odradek-common", "odradek-proto", "odradek-records", "odradek-wire", "odradek-metadata"]),
        ("odradek-controller-core", &["odradek-common", "odradek-records", "odradek-wire", "odradek-metadata"]),
        ("odradek-broker-core", &["odradek-common", "odradek-records", "odradek-wire", "odradek-metadata"]),
        ("odradek-broker-storage", &["odradek-common", "odradek-records"]),
        (
            "odradek-controller",
            &[
                "odradek-proto",
                "odradek-common",
                "odradek-records",
                "odradek-wire",
                "odradek-metadata",
                "odradek-node",
                "odradek-controller-core",
            ],
        ),
        (
            "odradek-broker",
            &[
                "odradek-proto",
                "odradek-common",
                "odradek-records",
                "odradek-wire",
                "odradek-metadata",
                "odradek-node",
                "odradek-broker-core",
                "odradek-broker-storage",
            ],
        ),
        (
            "odradek-cli",
            &[
                "odradek-proto",
                "odradek-common",
                "odradek-records",
                "odradek-wire",
                "odradek-metadata",
                "odradek-node",
                // For the files of a log that no broker has open.
                "odradek-broker-storage",
            ],
        ),
        ("odradek-tests", &["odradek-proto", "odradek-common", "odradek-records", "odradek-wire", "odradek-node"]),
        // For batches that are packed.
        ("sat", &["odradek-common", "odradek-records"]),
        // Its models use the pure cores, and nothing else.
        ("odradek-models", &[]),
        // Stands in for a dependency of openraft.
        ("base2histogram", &[]),
    ]
    .into();
    let mut problems = Vec::new();
    for (name, uses) in dependencies() {
        // The simulation boots everything, and the fuzzer calls every decoder.
        if ["odradek-sim", "odradek-fuzz"].contains(&name.as_str()) {
            continue;
        }
        let Some(allowed) = allowed.get(name.as_str()) else {
            problems.push(format!("{name} is a new crate: say in tidy.rs and ARCHITECTURE.md what it may use"));
            continue;
        };
        for used in uses.iter().filter(|used| used.starts_with("odradek") || *used == "sat") {
            if !allowed.contains(&used.as_str()) {
                problems.push(format!("{name} must not use {used}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn outer_libraries_stay_in_their_rooms() {
    let runtimes: &[&str] = &["tokio", "tokio-stream", "tonic", "hyper-util", "tower", "futures", "axum", "mio"];
    let disks: &[&str] = &["sled", "openraft"];
    // (crate, what it must not use)
    let rules: [(&str, Vec<&str>); 11] = [
        ("odradek-common", [runtimes, disks, &["rand"]].concat()),
        ("odradek-records", [runtimes, disks, &["rand"]].concat()),
        ("odradek-wire", [runtimes, disks, &["rand"]].concat()),
        ("odradek-metadata", [&runtimes[..2], disks, &["rand"]].concat()),
        ("odradek-controller-core", [runtimes, disks, &["rand", "rustix", "libc"]].concat()),
        ("odradek-broker-core", [runtimes, disks, &["rand", "rustix", "libc"]].concat()),
        ("odradek-broker-storage", [runtimes, disks].concat()),
        ("odradek-proto", disks.to_vec()),
        ("odradek-node", disks.to_vec()),
        ("odradek-broker", disks.to_vec()),
        ("odradek-cli", disks.to_vec()),
    ];
    let dependencies = dependencies();
    let mut problems = Vec::new();
    for (name, banned) in rules {
        let uses = dependencies.get(name).unwrap_or_else(|| panic!("the crate {name} is gone"));
        problems.extend(
            uses.iter().filter(|used| banned.contains(&used.as_str())).map(|used| format!("{name} uses {used}")),
        );
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

// ---------------------------------------------------------------- sources

/// Files under version control, relative to the repository.
fn files() -> Vec<PathBuf> {
    let mut command = Command::new("git");
    command.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(repository());
    let text = run_ok(command, Duration::from_secs(30)).expect("git ls-files runs");
    text.lines().map(PathBuf::from).filter(|path| repository().join(path).is_file()).collect()
}

fn rust_sources(under: &str) -> Vec<(PathBuf, String)> {
    let paths =
        files().into_iter().filter(|path| path.starts_with(under) && path.extension().is_some_and(|e| e == "rs"));
    paths.map(|path| (path.clone(), read(&path))).collect()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(repository().join(path)).unwrap_or_default()).into_owned()
}

/// The lines that are compiled into the product: without comments, and without a `#[cfg(test)]` module, which by habit
/// stands at the end of its file.
fn product_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.lines().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(usize::MAX);
    let lines = text.lines().enumerate().take(end);
    lines.map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.to_string_lossy().ends_with("tests.rs")
}

/// Every place in the product under `under` where one of `words` occurs, except in the files that `exempt` names.
fn occurrences(under: &str, words: &[&str], exempt: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    for (path, text) in rust_sources(under) {
        if is_test(&path) || exempt.iter().any(|exempt| path.starts_with(exempt)) {
            continue;
        }
        for (number, line) in product_lines(&text) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                out.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    out
}

#[test]
fn shells_reach_the_world_only_through_its_seam() {
    let banned = [
        "tokio::net",
        "tokio::time",
        "tokio::fs",
        "std::fs",
        "std::thread",
        "spawn_blocking",
        "TcpListener",
        "TcpStream",
        "Instant::now",
        "SystemTime::now",
        "rand::rng",
        "rand::thread_rng",
    ];
    let mut problems = Vec::new();
    for (under, exempt) in
        [("controller/src", &[][..]), ("broker/src", &[]), ("common/node/src", &["common/node/src/world"])]
    {
        problems.extend(occurrences(under, &banned, exempt));
    }
    assert!(problems.is_empty(), "these belong behind common/node::world:\n{}", problems.join("\n"));
}

#[test]
fn cores_are_pure() {
    let banned = [
        "Instant::now",
        "SystemTime::now",
        "rand::",
        "std::fs",
        "std::net::Tcp",
        "std::thread",
        "tokio::",
        "async fn",
        "Mutex",
    ];
    let mut problems = occurrences("controller/core/src", &banned, &[]);
    problems.extend(occurrences("broker/core/src", &banned, &[]));
    problems.extend(occurrences("broker/storage/src", &["tokio::", "async fn", "std::net", "SystemTime::now"], &[]));
    problems.extend(occurrences("common/wire/src", &["tokio::", "std::fs", "std::net::", "Instant::now"], &[]));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    for core in ["controller/core", "broker/core"] {
        let text = read(Path::new(&format!("{core}/clippy.toml")));
        for word in ["Instant::now", "SystemTime::now", "std::fs", "std::net", "HashMap"] {
            assert!(text.contains(word), "{core}/clippy.toml does not ban {word}");
        }
    }
}

#[test]
fn modules_look_only_downwards() {
    let raft_only = ["controller/src/raft", "controller/src/decider", "controller/src/decider.rs"];
    let mut problems = occurrences("controller/src", &["openraft::"], &raft_only);
    problems.extend(occurrences("controller/src", &["sled::"], &["controller/src/raft"]));
    // network -> api -> {replica, coordinators, metadata} -> core, storage.
    for lower in ["replica", "coordinators", "metadata"] {
        let under = format!("broker/src/{lower}");
        problems.extend(occurrences(&under, &["crate::network", "crate::api"], &[]));
    }
    problems.extend(occurrences("broker/src/api", &["crate::network"], &[]));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

// ---------------------------------------------------------------- files

#[test]
fn only_known_things_stand_at_the_top() {
    let known = [
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "broker",
        "cli",
        "common",
        "controller",
        "deny.toml",
        "deploy",
        "docs",
        "proto",
        "rustfmt.toml",
        "tests",
    ];
    let top: BTreeSet<String> = files()
        .iter()
        .filter_map(|path| Some(path.components().next()?.as_os_str().to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    let unknown: Vec<&String> = top.iter().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "at the top of the repository: {unknown:?}");
}

#[test]
fn every_module_says_what_it_is() {
    let mut problems = Vec::new();
    for (path, text) in
        ["broker", "cli", "common", "controller", "proto", "tests"].iter().flat_map(|top| rust_sources(top))
    {
        if !text.trim_start().starts_with("//!") && !is_test(&path) {
            problems.push(format!("{} does not open with `//!`", path.display()));
        }
        if text.lines().count() > 1_000 {
            problems.push(format!("{} has more than 1,000 lines: which second idea has moved in?", path.display()));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// tokio's draw of the branch to begin with depends on how many runtimes the process has made: a simulation would not be
/// the same twice.
#[test]
fn what_is_simulated_selects_in_order() {
    let simulated = ["broker/src", "controller/src", "tests/sim/src"];
    let mut problems = Vec::new();
    for (path, text) in simulated.iter().flat_map(|top| rust_sources(top)) {
        for branches in text.split("select! {").skip(1) {
            if !branches.split(" = ").next().is_some_and(|head| head.contains("biased;")) {
                problems.push(format!("{}: `select!` without `biased;`", path.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn nothing_is_left_for_later_and_nothing_points_outside() {
    // Written in two halves so that this file does not contain them.
    let banned = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
        concat!("XX", "X "),
        concat!("TO", "DO"),
        concat!("/wo", "rk/"),
        concat!("../sha", "red"),
        concat!("dbg", "!("),
        concat!("#[ig", "nore"),
    ];
    let mut problems = Vec::new();
    for path in files() {
        let is_text = path.extension().is_none_or(|extension| {
            ["rs", "md", "toml", "proto", "sh", "java", "js", "py", "yml", "yaml", "properties", "xml"]
                .iter()
                .any(|known| extension == *known)
        });
        if !is_text || path.starts_with("common/wire/schema") || path.ends_with("Cargo.lock") {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn unsafe_code_is_named_and_explained() {
    let mut problems = Vec::new();
    for (path, text) in
        ["broker", "cli", "common", "controller", "proto", "tests"].iter().flat_map(|top| rust_sources(top))
    {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains(concat!("unsafe", " {")) {
                let before = lines[index.saturating_sub(6)..index].join("\n");
                if !before.contains("// SAFETY:") {
                    problems.push(format!("{}:{}", path.display(), index + 1));
                }
            }
        }
    }
    assert!(problems.is_empty(), "without a SAFETY comment:\n{}", problems.join("\n"));
}
