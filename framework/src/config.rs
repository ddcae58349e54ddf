//! How a session is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mobula_core::error::Error;
use mobula_core::node::RuntimeEnv;
use mobula_core::resources::{CPU, GPU, MEMORY};
use mobula_core::store::StoreConfig;

/// How [`init`](crate::init) sets a session up.
///
/// `Config::default()` is a cluster of one inside this process, with the machine's CPUs.
/// `Config::default().address("10.0.0.1:6380")` joins a running cluster.
///
/// ```
/// use mobula::Config;
/// let config = Config::default().num_cpus(2).resource("trips", 1).namespace("taxi");
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Config {
    pub(crate) address: Option<String>,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) resources: BTreeMap<String, f64>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) object_store_memory_bytes: Option<u64>,
    pub(crate) spill_dir: Option<PathBuf>,
    pub(crate) spill_limit_bytes: Option<u64>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) ignore_reinit_error: bool,
    pub(crate) worker_binary: Option<PathBuf>,
    pub(crate) silence_workers: bool,
    pub(crate) runtime_env: RuntimeEnv,
}

impl Config {
    /// The default, changed by the environment:
    ///
    /// | variable | is |
    /// |---|---|
    /// | `MOBULA_ADDRESS` | [`address`](Self::address) |
    /// | `MOBULA_CREDENTIALS` | [`credentials`](Self::credentials) |
    /// | `MOBULA_NAMESPACE` | [`namespace`](Self::namespace) |
    /// | `MOBULA_NUM_CPUS`, `MOBULA_NUM_GPUS` | [`num_cpus`](Self::num_cpus), [`num_gpus`](Self::num_gpus) |
    /// | `MOBULA_OBJECT_STORE_MEMORY` | [`object_store_memory`](Self::object_store_memory), in bytes |
    /// | `MOBULA_SPILL_DIR` | [`spill_dir`](Self::spill_dir) |
    /// | `MOBULA_SPILL_LIMIT` | [`spill_limit`](Self::spill_limit), in bytes |
    ///
    /// # Errors
    /// [`Error::Invalid`] when one that should be a number is none.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let mut config = Self {
            address: variable("MOBULA_ADDRESS"),
            credentials: variable("MOBULA_CREDENTIALS").map(PathBuf::from),
            namespace: variable("MOBULA_NAMESPACE"),
            spill_dir: variable("MOBULA_SPILL_DIR").map(PathBuf::from),
            ..Self::default()
        };
        for (name, resource) in [("MOBULA_NUM_CPUS", CPU), ("MOBULA_NUM_GPUS", GPU)] {
            if let Some(amount) = variable(name) {
                config = config.resource(resource, parse::<f64>(name, &amount)?);
            }
        }
        if let Some(bytes) = variable("MOBULA_OBJECT_STORE_MEMORY") {
            config = config.object_store_memory(parse("MOBULA_OBJECT_STORE_MEMORY", &bytes)?);
        }
        if let Some(bytes) = variable("MOBULA_SPILL_LIMIT") {
            config = config.spill_limit(parse("MOBULA_SPILL_LIMIT", &bytes)?);
        }
        Ok(config)
    }

    /// The cluster to join, `host:port` or `mobula://host:port`, instead of starting one in this
    /// process.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The directory with the credentials for the cluster; by default those that
    /// `mobula start --head` wrote on this machine.
    pub fn credentials(mut self, directory: impl Into<PathBuf>) -> Self {
        self.credentials = Some(directory.into());
        self
    }

    /// How many CPUs the local cluster has; those of the machine by default.
    pub fn num_cpus(self, cpus: impl Into<f64>) -> Self {
        self.resource(CPU, cpus)
    }

    /// How many GPUs the local cluster has.
    pub fn num_gpus(self, gpus: impl Into<f64>) -> Self {
        self.resource(GPU, gpus)
    }

    /// How much heap memory, in bytes, tasks of the local cluster may ask for.
    pub fn memory(self, bytes: u64) -> Self {
        self.resource(MEMORY, bytes as f64)
    }

    /// An amount of any resource of the local cluster, for tasks and actors to ask for by name.
    pub fn resource(mut self, name: impl Into<String>, amount: impl Into<f64>) -> Self {
        self.resources.insert(name.into(), amount.into());
        self
    }

    /// A label of the local cluster's node, for tasks and actors to ask for.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// The size of the local cluster's object store; 30 % of the machine's memory by default. When
    /// it is nearly full, objects that nobody reads are written to disk, and read back when they are
    /// wanted.
    pub fn object_store_memory(mut self, bytes: u64) -> Self {
        self.object_store_memory_bytes = Some(bytes);
        self
    }

    /// Where the local cluster's object store writes what has no room in memory, in a directory of
    /// its own that goes with the session; the system's directory for temporary files by default.
    ///
    /// ```
    /// # fn main() -> Result<(), mobula::Error> {
    /// use mobula::{Bytes, Config, get, put};
    ///
    /// # let disk = std::env::temp_dir();
    /// let small = Config::default().object_store_memory(8 << 20);
    /// let session = mobula::init(small.spill_dir(disk).spill_limit(1 << 30))?;
    /// let all: Vec<_> = (0..10u8).map(|n| put(Bytes::from(vec![n; 2 << 20]))).collect::<Result<_, _>>()?;
    /// assert_eq!(get(&all[0])?, vec![0; 2 << 20]);
    /// session.shutdown();
    /// # Ok(())
    /// # }
    /// ```
    pub fn spill_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spill_dir = Some(directory.into());
        self
    }

    /// How much of the disk spilled objects may take, in bytes; 80 % of what is free there at the
    /// start by default. With 0 nothing is spilled, and a full store is an error to the writer.
    pub fn spill_limit(mut self, bytes: u64) -> Self {
        self.spill_limit_bytes = Some(bytes);
        self
    }

    /// The object store that this asks for.
    pub(crate) fn store(&self) -> StoreConfig {
        StoreConfig {
            capacity_bytes: self.object_store_memory_bytes,
            spill_dir: self.spill_dir.clone(),
            spill_limit_bytes: self.spill_limit_bytes,
            ..StoreConfig::default()
        }
    }

    /// Where actors are named and looked up; programs that share a namespace share its actors.
    /// By default every program has its own.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The program's name in lists; that of its binary by default.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Let a second [`init`](crate::init) return the running session instead of failing.
    pub fn ignore_reinit_error(mut self) -> Self {
        self.ignore_reinit_error = true;
        self
    }

    /// The binary that workers on a cluster run; this program's own by default. It must have been
    /// built from the same functions, and its entry must be `#[mobula::main]`.
    pub fn worker_binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.worker_binary = Some(path.into());
        self
    }

    /// What workers on a cluster find around them: a working directory, files, variables. Sent to each
    /// node once. In a session inside this process it is checked, and changes nothing: tasks see the
    /// process's own environment and directory.
    ///
    /// ```
    /// use mobula::{Config, RuntimeEnv};
    /// let env = RuntimeEnv::default().working_dir("assets").env_var("MODE", "fast");
    /// let config = Config::default().address("10.0.0.1:6380").runtime_env(env);
    /// ```
    pub fn runtime_env(mut self, env: RuntimeEnv) -> Self {
        self.runtime_env = env;
        self
    }

    /// Whether what worker processes print is printed here too, with their node named; it is by
    /// default.
    pub fn log_to_driver(mut self, print: bool) -> Self {
        self.silence_workers = !print;
        self
    }
}

fn parse<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, Error>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| Error::Invalid { what: format!("the environment variable {name} is {text:?}: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_changes_the_default() {
        let variable = |name: &str| match name {
            "MOBULA_ADDRESS" => Some("mobula://head:1".to_owned()),
            "MOBULA_NUM_CPUS" => Some("1.5".to_owned()),
            "MOBULA_OBJECT_STORE_MEMORY" => Some("1048576".to_owned()),
            "MOBULA_SPILL_DIR" => Some("/disk".to_owned()),
            "MOBULA_SPILL_LIMIT" => Some("7".to_owned()),
            _ => None,
        };
        let config = Config::from_variables(variable).unwrap();
        assert_eq!(config.address.as_deref(), Some("mobula://head:1"));
        assert_eq!(config.resources[CPU], 1.5);
        let store = config.store();
        assert_eq!((store.capacity_bytes, store.spill_limit_bytes), (Some(1 << 20), Some(7)));
        assert_eq!(store.spill_dir, Some(PathBuf::from("/disk")));

        let error = Config::from_variables(|name| name.ends_with("CPUS").then(|| "two".to_owned())).unwrap_err();
        assert!(error.to_string().contains("MOBULA_NUM_CPUS is \"two\""), "{error}");
    }
}
