//! The programs under test, built once by the cargo that built the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names a directory with binaries that are already built.
const DIRECTORY_VARIABLE: &str = "MOBULA_TEST_BIN_DIR";

/// The program `name` of this workspace (`mobula`, `taxi-etl`).
pub(crate) fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let path = DIRECTORY.get_or_init(build).join(name);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

/// The driver program of these tests.
pub(crate) fn behaviour() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_mobula-behaviour"))
}

/// The folder with the workspace's Cargo.toml.
pub(crate) fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("this package lies in a folder of the workspace")
}

/// The folder in which cargo builds: `target`, unless the user told it otherwise.
pub(crate) fn target() -> PathBuf {
    let profile = profile_directory();
    profile.parent().expect("a profile's folder lies in the target folder").to_owned()
}

/// `target/debug` and the like: the tests' own binary is in `deps` there.
fn profile_directory() -> PathBuf {
    let tests = std::env::current_exe().expect("a process has a binary");
    let deps = tests.parent().expect("a file lies in a folder");
    deps.parent().expect("cargo builds tests in PROFILE/deps").to_owned()
}

fn build() -> PathBuf {
    if let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) {
        return directory.into();
    }
    let directory = profile_directory();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(workspace()).args(["build", "--quiet", "-p", "mobula-cli", "-p", "taxi-etl", "--target-dir"]);
    cargo.arg(target());
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => {}
        Some("release") => {
            cargo.arg("--release");
        }
        profile => {
            cargo.args(["--profile", profile.expect("a profile's name is text")]);
        }
    }
    // The lock on the target folder is cargo's own, so several tests may ask at once.
    let built = cargo.status().expect("cargo runs");
    assert!(built.success(), "cargo could not build the programs under test: {cargo:?}");
    directory
}
