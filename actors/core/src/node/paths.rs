//! Where a cluster's files are, and how its address is written.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::NodeError;

/// The port of a head that was not given another one.
pub const DEFAULT_PORT: u16 = 6380;
/// Names the directory of the operator's credentials.
pub const CREDENTIALS_VARIABLE: &str = "MOBULA_CREDENTIALS";
/// In the directory of the credentials: where the head they belong to answers.
const ADDRESS_FILE: &str = "address";

/// Where a head of this name keeps its state.
pub fn state_dir(cluster: &str) -> PathBuf {
    base("XDG_STATE_HOME", ".local/state").join("mobula").join(cluster)
}

/// Where the operator's credentials are: `MOBULA_CREDENTIALS`, else the user's configuration.
pub fn credentials_dir() -> PathBuf {
    match std::env::var_os(CREDENTIALS_VARIABLE).filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => base("XDG_CONFIG_HOME", ".config").join("mobula"),
    }
}

fn base(variable: &str, below_home: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os(variable).filter(|dir| !dir.is_empty()) {
        return PathBuf::from(dir);
    }
    match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Path::new(&home).join(below_home),
        None => std::env::temp_dir().join("mobula-home").join(below_home),
    }
}

/// The address of the head that wrote these credentials, if one did.
pub fn known_address(credentials: &Path) -> Option<String> {
    let text = std::fs::read_to_string(credentials.join(ADDRESS_FILE)).ok()?;
    Some(text.trim().to_owned())
}

pub(super) fn write_address(credentials: &Path, address: SocketAddr) -> std::io::Result<()> {
    std::fs::write(credentials.join(ADDRESS_FILE), format!("{address}\n"))
}

/// Reads `host:port`, `host`, or either with `mobula://` before it.
///
/// # Errors
/// [`NodeError::Address`] when it is none of these, or the host is not known.
pub fn parse_address(text: &str) -> Result<SocketAddr, NodeError> {
    let failed = |why: String| NodeError::Address { address: text.to_owned(), why };
    let place = text.strip_prefix("mobula://").unwrap_or(text).trim_end_matches('/');
    let has_port = match place.strip_prefix('[') {
        Some(six) => six.contains("]:"),
        None => place.contains(':'),
    };
    let with_port = if has_port { place.to_owned() } else { format!("{place}:{DEFAULT_PORT}") };
    let mut found = with_port.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    found.next().ok_or_else(|| failed("the host has no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme_and_port() {
        let expected: SocketAddr = "127.0.0.1:7000".parse().unwrap();
        for text in ["127.0.0.1:7000", "mobula://127.0.0.1:7000", "mobula://127.0.0.1:7000/"] {
            assert_eq!(parse_address(text).unwrap(), expected, "{text}");
        }
        assert_eq!(parse_address("127.0.0.1").unwrap().port(), DEFAULT_PORT);
        assert_eq!(parse_address("[::1]:7000").unwrap().port(), 7000);
        let error = parse_address("127.0.0.1:port").unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:port") && error.contains("host:port"), "{error}");
    }
}
