//! Rules about the source itself that no compiler keeps.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::repository;

/// What the engine must not name: it is fed with events and the time, and touches nothing else.
const ENGINE_FENCE: [&str; 13] = [
    "tokio",
    "tonic",
    "prost",
    "opentelemetry",
    "rand::",
    "std::env",
    "std::fs",
    "std::net",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "crate::receiver",
    "crate::exporter",
];

/// Files are meant to be read in one sitting; beyond this one is two.
const MOST_LINES: usize = 600;

/// Folders that are not ours or not source.
const NOT_SOURCE: [&str; 6] = ["target", ".git", ".venv", "__pycache__", ".ruff_cache", "node_modules"];

#[test]
fn the_engine_touches_nothing_but_its_inputs() {
    let engine = files("src").into_iter().filter(|path| {
        let inside = path.strip_prefix(repository("src")).unwrap();
        inside == Path::new("engine.rs") || inside.starts_with("engine")
    });
    let mut breaches = Vec::new();
    for path in engine {
        for (number, line) in code(&read(&path)).enumerate() {
            for word in ENGINE_FENCE.iter().filter(|word| names(&line, word)) {
                breaches.push(format!("{}:{}: {word}", shown(&path), number + 1));
            }
        }
    }
    assert!(breaches.is_empty(), "the engine's fence is broken:\n{}", breaches.join("\n"));
}

#[test]
fn files_stay_readable_in_one_sitting() {
    let long: Vec<_> = ["src", "tests", "benches", "scripts"]
        .into_iter()
        .flat_map(files)
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "rs" || extension == "py" || extension == "sh")
        })
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > MOST_LINES)
        .map(|(lines, path)| format!("{}: {lines} lines", shown(&path)))
        .collect();
    assert!(long.is_empty(), "longer than {MOST_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn the_changelog_speaks_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(read(&repository("CHANGELOG.md")).contains(version), "CHANGELOG.md says nothing of {version}");
}

/// The repository is read without what lies beside it; only CI's entry may look for material there.
#[test]
fn nothing_points_beside_the_repository() {
    let word = ["sha", "red/"].concat();
    let pointing: Vec<_> = files("")
        .into_iter()
        .filter(|path| path != &repository(".ci/run"))
        .filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains(&word)))
        .map(|path| shown(&path))
        .collect();
    assert!(pointing.is_empty(), "{word} is named in:\n{}", pointing.join("\n"));
}

/// The images that the compose file runs are those of fixed versions.
#[test]
fn compose_pins_its_images() {
    let loose: Vec<_> = read(&repository("docker-compose.yml"))
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image: ").map(str::to_owned))
        .filter(|image| !image.contains(':') || image.ends_with(":latest"))
        .collect();
    assert!(loose.is_empty(), "images without a version: {loose:?}");
}

/// Whether the line has the word, and not only as the end of a longer one (`monotonic` is no `tonic`).
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|character| character.is_alphanumeric() || character == '_')
    })
}

/// The lines of a file with comments blanked, so that prose may name what code may not.
fn code(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(repository("")).unwrap_or(path).display().to_string()
}

/// All files below a folder of the repository; none if there is no such folder.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![repository(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a folder that can be opened can be read").path();
            if path.file_name().is_some_and(|name| NOT_SOURCE.iter().any(|&not| name == not)) {
                continue;
            }
            if path.is_dir() && !path.is_symlink() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
