//! What this machine has.

use std::path::Path;

use super::NodeError;
use crate::memory::Usage;
use crate::resources::{CPU, FRACTIONS_PER_UNIT, GPU, InvalidAmount, MEMORY, Resources};
use crate::worker::VISIBLE_GPUS_VARIABLE;

/// Of the memory that is available besides the store, so much is offered; the rest is for the raylet
/// and the system.
const MEMORY_PERCENT: u64 = 70;

/// What a node is to offer; what is not given is detected.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// CPUs; those this process may use unless given.
    pub num_cpus: Option<f64>,
    /// GPUs; unless given, those of `CUDA_VISIBLE_DEVICES`, or where that is not set the devices
    /// `/dev/nvidia*`.
    pub num_gpus: Option<f64>,
    /// Heap memory in bytes; seven tenths of what is available besides the store unless given.
    pub memory_bytes: Option<u64>,
    /// Resources of the user's own.
    pub custom: Vec<(String, f64)>,
}

impl Offer {
    /// The amounts. The object store's memory, and what is left beside it, are added when the store
    /// has been started.
    ///
    /// # Errors
    /// [`InvalidAmount`] when an amount is negative, too large or too fine.
    pub fn resources(&self) -> Result<Resources, InvalidAmount> {
        let cpus =
            self.num_cpus.unwrap_or_else(|| std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64));
        let mut resources = Resources::new().with(CPU, cpus)?;
        resources = resources.with(GPU, self.num_gpus.unwrap_or_else(|| detect_gpus() as f64))?;
        if let Some(memory) = self.memory_bytes {
            resources.set(MEMORY, bytes_as_fractions(memory));
        }
        for (name, amount) in &self.custom {
            resources = resources.with(name, *amount)?;
        }
        Ok(resources)
    }
}

/// Bytes as an amount of a resource whose unit is one byte.
pub(super) fn bytes_as_fractions(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(FRACTIONS_PER_UNIT)
}

/// The GPUs that this process may use.
fn detect_gpus() -> usize {
    match std::env::var(VISIBLE_GPUS_VARIABLE) {
        Ok(visible) => visible_ids(&visible).len(),
        Err(_) => count_gpus(Path::new("/dev")),
    }
}

/// The ids of so many GPUs: those that `CUDA_VISIBLE_DEVICES` names, or numbers where it is not set.
pub(super) fn gpu_ids(gpus: f64, visible: Option<&str>) -> Result<Vec<String>, NodeError> {
    let devices = gpus.ceil() as usize;
    let ids = match visible {
        Some(visible) if devices > 0 => visible_ids(visible),
        _ => (0..devices).map(|number| number.to_string()).collect(),
    };
    if ids.len() < devices {
        return Err(NodeError::Gpus { asked: gpus, visible: ids });
    }
    Ok(ids.into_iter().take(devices).collect())
}

/// As CUDA reads it: up to the first that can be no device (`-1` hides all that follow). One that is
/// named twice counts once.
fn visible_ids(visible: &str) -> Vec<String> {
    let is_device = |id: &&str| {
        let is_number = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        is_number || id.starts_with("GPU-") || id.starts_with("MIG-")
    };
    let mut ids: Vec<String> = Vec::new();
    for id in visible.split(',').map(str::trim).take_while(is_device) {
        if !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    ids
}

/// The devices `nvidia0`, `nvidia1`, ...; `nvidiactl` and its like are not GPUs.
fn count_gpus(devices: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(devices) else { return 0 };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix("nvidia").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
        .count()
}

/// What work may ask for where nobody has said it: a part of what is available, less the store's.
pub(super) fn default_memory_bytes(usage: Option<Usage>, store_bytes: u64) -> u64 {
    let available = usage.map_or(0, |usage| usage.available_bytes());
    available.saturating_sub(store_bytes) / 100 * MEMORY_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_counts() {
        let offer = Offer {
            num_cpus: Some(2.5),
            num_gpus: Some(0.0),
            memory_bytes: Some(7),
            custom: vec![("tape".to_owned(), 3.0)],
        };
        let resources = offer.resources().unwrap();
        assert_eq!(resources.to_string(), "{CPU 2.5, memory 7, tape 3}");
        assert!(Offer { num_cpus: Some(-1.0), ..Offer::default() }.resources().is_err());
    }

    #[test]
    fn a_machine_is_detected() {
        let resources = Offer::default().resources().unwrap();
        assert!(resources.units(CPU) >= 1.0, "{resources}");
        let usage = Usage { used_bytes: 400, limit_bytes: 1_500 };
        assert_eq!(default_memory_bytes(Some(usage), 100), 700);
        assert_eq!(default_memory_bytes(Some(usage), 2_000), 0);
    }

    #[test]
    fn gpus_have_the_ids_that_are_visible() {
        assert_eq!(gpu_ids(1.5, None).unwrap(), ["0", "1"]);
        assert_eq!(gpu_ids(2.0, Some("3, GPU-abc,7")).unwrap(), ["3", "GPU-abc"]);
        assert!(gpu_ids(0.0, Some("")).unwrap().is_empty());
        assert_eq!(visible_ids("-1"), [""; 0]);
        assert_eq!(visible_ids("2,0,2,x,5"), ["2", "0"]);
        let error = gpu_ids(2.0, Some("5")).unwrap_err().to_string();
        assert!(error.contains("2 GPUs") && error.contains("CUDA_VISIBLE_DEVICES") && error.contains("5"), "{error}");
    }

    #[test]
    fn only_numbered_devices_are_gpus() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "sda"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(count_gpus(dir.path()), 2);
    }
}
