//! Amounts of resources, as exact integers.
//!
//! A resource is counted in ten-thousandths of a unit, so `0.1 + 0.2` of a CPU is `0.3` of a CPU
//! and nothing is lost to rounding however often a fraction is taken and given back. Memory is
//! counted the same way, its unit being one byte.

pub mod group;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Ten-thousandths in one unit.
pub const FRACTIONS_PER_UNIT: i64 = 10_000;

/// The name of the processor resource.
pub const CPU: &str = "CPU";
/// The name of the accelerator resource.
pub const GPU: &str = "GPU";
/// The name of the heap memory resource, in bytes.
pub const MEMORY: &str = "memory";
/// The name of the object store's memory, in bytes.
pub const OBJECT_STORE_MEMORY: &str = "object_store_memory";

/// An amount that cannot be a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{name} = {amount}: a resource is a finite number from 0 to 10^14 with at most four decimals")]
pub struct InvalidAmount {
    /// The resource's name.
    pub name: String,
    /// What was asked for.
    pub amount: String,
}

/// A set of resource amounts: what a node has, what a task asks for.
///
/// Amounts of zero are not kept, so two sets are equal exactly when they mean the same. In the
/// view of a node's free resources an amount may be negative: work that waits in `get` lends its
/// CPU and takes it back without waiting.
///
/// ```
/// use mobula_core::resources::{Resources, CPU};
/// let mut free = Resources::new().with(CPU, 2.0).unwrap();
/// let tenth = Resources::new().with(CPU, 0.1).unwrap();
/// for _ in 0..20 {
///     free.subtract(&tenth);
/// }
/// assert!(free.is_empty());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Resources(BTreeMap<String, i64>);

impl Resources {
    /// No resources.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same set with `amount` units of `name`.
    ///
    /// # Errors
    /// [`InvalidAmount`] when the amount is negative, not finite, too large, or finer than a
    /// ten-thousandth.
    pub fn with(mut self, name: &str, amount: f64) -> Result<Self, InvalidAmount> {
        let scaled = amount * FRACTIONS_PER_UNIT as f64;
        let whole = scaled.round();
        if !(0.0..=1e18).contains(&scaled) || (scaled - whole).abs() > 1e-6 * scaled.max(1.0) {
            return Err(InvalidAmount { name: name.to_owned(), amount: amount.to_string() });
        }
        self.set(name, whole as i64);
        Ok(self)
    }

    /// Sets `name` to so many ten-thousandths.
    pub fn set(&mut self, name: &str, fractions: i64) {
        if fractions == 0 {
            self.0.remove(name);
        } else {
            self.0.insert(name.to_owned(), fractions);
        }
    }

    /// How many ten-thousandths of `name` there are.
    pub fn fractions(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How many units of `name` there are.
    pub fn units(&self, name: &str) -> f64 {
        self.fractions(name) as f64 / FRACTIONS_PER_UNIT as f64
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and ten-thousandths, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, fractions)| (name.as_str(), *fractions))
    }

    /// Names and units, in the order of the names.
    pub fn to_units(&self) -> BTreeMap<String, f64> {
        self.iter().map(|(name, _)| (name.to_owned(), self.units(name))).collect()
    }

    /// Whether `demand` fits into this set.
    pub fn covers(&self, demand: &Resources) -> bool {
        demand.0.iter().all(|(name, fractions)| self.fractions(name) >= *fractions)
    }

    /// The first resource of `demand` of which this set has too little.
    pub fn first_missing<'a>(&self, demand: &'a Resources) -> Option<&'a str> {
        demand.0.iter().find(|(name, fractions)| self.fractions(name) < **fractions).map(|(name, _)| name.as_str())
    }

    /// Takes `demand` away; amounts may become negative.
    pub fn subtract(&mut self, demand: &Resources) {
        for (name, fractions) in &demand.0 {
            let left = self.fractions(name).saturating_sub(*fractions);
            self.set(name, left);
        }
    }

    /// So many times as much.
    pub fn times(&self, count: u64) -> Self {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        Self(self.0.iter().map(|(name, fractions)| (name.clone(), fractions.saturating_mul(count))).collect())
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Resources) {
        for (name, fractions) in &other.0 {
            let sum = self.fractions(name).saturating_add(*fractions);
            self.set(name, sum);
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("{}");
        }
        for (i, (name, _)) in self.0.iter().enumerate() {
            write!(f, "{}{name} {}", if i == 0 { "{" } else { ", " }, self.units(name))?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
