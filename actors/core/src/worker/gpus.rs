//! The GPUs of what the thread runs: [`gpu_ids`].
//!
//! A process worker has the devices of its lease and sees no others (`CUDA_VISIBLE_DEVICES`). Where
//! all work runs in one process, each lease's are told to the worker, and known by the thread alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ids::LeaseId;
use crate::messages::LeaseGpus;

/// The variable by which CUDA is told which devices a process may use.
pub const VISIBLE_GPUS_VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

thread_local! {
    static GPUS: RefCell<Option<Ids>> = const { RefCell::new(None) };
}

/// The ids of devices.
pub(super) type Ids = Arc<[String]>;

/// The ids of the GPUs that the calling task or actor has, in order; none outside of one, or if it
/// asked for none. In a process of its own only these are visible to CUDA, which numbers them from 0.
///
/// ```
/// assert!(mobula_core::worker::gpu_ids().is_empty());
/// ```
pub fn gpu_ids() -> Vec<String> {
    match GPUS.with_borrow(Clone::clone) {
        Some(ids) => ids.to_vec(),
        None => PROCESS.lock().to_vec(),
    }
}

/// Those of a process worker, for all of its threads.
static PROCESS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// This process has these GPUs as long as it lives.
pub(crate) fn set_process_gpus(ids: Vec<String>) {
    *PROCESS.lock() = ids;
}

/// Until it is dropped, the thread runs work that has these devices.
pub(super) struct Holding(Option<Ids>);

/// See [`Holding`]; nothing for work without devices.
pub(super) fn hold(ids: &Option<Ids>) -> Option<Holding> {
    let ids = ids.clone()?;
    Some(Holding(GPUS.replace(Some(ids))))
}

impl Drop for Holding {
    fn drop(&mut self) {
        GPUS.set(self.0.take());
    }
}

/// The devices of leases, where several share a process.
#[derive(Default)]
pub(super) struct LeasedGpus(Mutex<BTreeMap<LeaseId, Ids>>);

impl LeasedGpus {
    /// The raylet says what a lease has; nothing any more when it is over.
    pub(super) fn told(&self, told: LeaseGpus) {
        if told.ids.is_empty() {
            self.0.lock().remove(&told.lease);
        } else {
            self.0.lock().insert(told.lease, told.ids.into());
        }
    }

    pub(super) fn of(&self, lease: LeaseId) -> Option<Ids> {
        self.0.lock().get(&lease).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_inside_of_other_work_has_its_own_devices() {
        let ids = |ids: &[&str]| -> Option<Ids> { Some(ids.iter().map(ToString::to_string).collect()) };
        let outer = hold(&ids(&["0", "1"]));
        let inner = hold(&ids(&["7"]));
        assert_eq!(gpu_ids(), ["7"]);
        drop(inner);
        assert!(hold(&None).is_none());
        assert_eq!(gpu_ids(), ["0", "1"]);
        drop(outer);
        assert!(gpu_ids().is_empty());
    }
}
