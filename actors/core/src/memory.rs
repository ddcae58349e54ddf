//! How much memory there is, and who uses it: [`machine`], [`private_bytes`].
//!
//! What counts is what the system cannot take back: the files that it has cached are free.

use std::path::Path;

/// Memory of a machine, or of the control group that this process is in, where that has less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What is in use and cannot be taken back.
    pub used_bytes: u64,
    /// How much there is.
    pub limit_bytes: u64,
}

impl Usage {
    /// What is not in use.
    pub fn available_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }

    /// Whether more than this part of it is in use.
    pub fn is_above(&self, threshold: f64) -> bool {
        self.used_bytes as f64 > self.limit_bytes as f64 * threshold
    }
}

/// The usage now; nothing where the system does not say.
pub fn machine() -> Option<Usage> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let machine = read("/proc/meminfo").and_then(|text| of_meminfo(&text));
    let two = |name: &str| read(&format!("/sys/fs/cgroup/{name}"));
    let one = |name: &str| read(&format!("/sys/fs/cgroup/memory/memory.{name}"));
    let group = of_group(two("memory.max"), two("memory.current"), two("memory.stat"), "inactive_file")
        .or_else(|| of_group(one("limit_in_bytes"), one("usage_in_bytes"), one("stat"), "total_inactive_file"));
    match (machine, group) {
        // A group without a limit of its own says one that no machine has.
        (Some(machine), Some(group)) if machine.limit_bytes <= group.limit_bytes => Some(machine),
        (machine, group) => group.or(machine),
    }
}

/// The private memory of a process: what it shares with others belongs to nobody alone. Nothing of
/// one that is gone.
pub fn private_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "RssAnon:").unwrap_or(0)
}

fn of_meminfo(text: &str) -> Option<Usage> {
    let limit_bytes = field(text, "MemTotal:")?;
    Some(Usage { used_bytes: limit_bytes.saturating_sub(field(text, "MemAvailable:")?), limit_bytes })
}

fn of_group(limit: Option<String>, used: Option<String>, stat: Option<String>, cached: &str) -> Option<Usage> {
    // "max" is no number: the group has no limit.
    let limit_bytes = limit?.trim().parse().ok()?;
    let used: u64 = used?.trim().parse().ok()?;
    let stat = stat.unwrap_or_default();
    let lines = stat.lines().filter_map(|line| line.split_once(' '));
    let cached = lines.filter(|(name, _)| *name == cached).find_map(|(_, bytes)| bytes.trim().parse().ok());
    Some(Usage { used_bytes: used.saturating_sub(cached.unwrap_or(0)), limit_bytes })
}

/// A line such as `MemTotal:  16 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_taken_back_is_free() {
        let usage = of_meminfo("MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable: 6 kB\n").unwrap();
        assert_eq!(usage, Usage { used_bytes: 10 * 1024, limit_bytes: 16 * 1024 });
        assert_eq!(usage.available_bytes(), 6 * 1024);
        assert!(usage.is_above(0.6) && !usage.is_above(0.7) && !usage.is_above(1.0));

        let text = |text: &str| Some(text.to_owned());
        let stat = || text("anon 5\ninactive_file 300\nfile 900\n");
        let usage = of_group(text("1000\n"), text("700\n"), stat(), "inactive_file");
        assert_eq!(usage, Some(Usage { used_bytes: 400, limit_bytes: 1000 }));
        assert_eq!(of_group(text("max\n"), text("700\n"), stat(), "inactive_file"), None);
    }

    #[test]
    fn a_machine_says_something_and_so_does_this_process() {
        let usage = machine().expect("Linux says it");
        assert!(usage.used_bytes > 0 && usage.used_bytes <= usage.limit_bytes, "{usage:?}");
        assert!(private_bytes(std::process::id()) > 0);
        assert_eq!(private_bytes(u32::MAX), 0);
    }
}
