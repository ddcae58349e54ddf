//! mobula-cli
fn main() {}
