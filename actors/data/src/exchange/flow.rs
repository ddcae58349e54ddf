//! A DataFusion plan that batches are pushed through.
//!
//! Entry type: [`Flow`]. DataFusion's operators pull; those of a stage are pushed. A flow is a
//! plan over [`Feed`]s: what is pushed waits there until the plan asks for it, and the plan is
//! asked for what it has to give after every push. All of it runs in the thread that pushes. Its
//! operators say what they hold; it is counted, and nothing is refused.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion_common::DataFusionError;
use datafusion_execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};
use datafusion_execution::runtime_env::RuntimeEnvBuilder;
use datafusion_execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use crate::error::DataError;
use crate::words::plain;

/// Where batches wait to be pulled.
#[derive(Clone)]
pub struct Feed {
    schema: SchemaRef,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<RecordBatch>,
    ended: bool,
}

impl Feed {
    /// A feed of batches with these columns.
    #[must_use]
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema, waiting: Arc::default() }
    }

    /// The columns of its batches.
    #[must_use]
    pub fn columns(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// One more batch.
    pub fn push(&self, batch: RecordBatch) {
        self.waiting.lock().batches.push_back(batch);
    }

    /// There are no more.
    pub fn end(&self) {
        self.waiting.lock().ended = true;
    }

    /// The leaf of a plan that reads it.
    pub fn plan(&self) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let stream = Arc::new(self.clone()) as Arc<dyn PartitionStream>;
        let plan = StreamingTableExec::try_new(Arc::clone(&self.schema), vec![stream], None, [], false, None)?;
        Ok(Arc::new(plan))
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Feed")
    }
}

impl PartitionStream for Feed {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        Box::pin(self.clone())
    }
}

impl Stream for Feed {
    type Item = Result<RecordBatch, DataFusionError>;

    fn poll_next(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut waiting = self.waiting.lock();
        match waiting.batches.pop_front() {
            Some(batch) => Poll::Ready(Some(Ok(batch))),
            None if waiting.ended => Poll::Ready(None),
            // Nobody need be woken: the next push polls again.
            None => Poll::Pending,
        }
    }
}

impl RecordBatchStream for Feed {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// A plan that runs as batches are pushed into its feeds.
pub struct Flow {
    stream: SendableRecordBatchStream,
    memory: Arc<Memory>,
    operator: String,
}

impl Flow {
    /// Starts `plan`, whose leaves are feeds; `operator` is named in errors.
    pub fn start(plan: &Arc<dyn ExecutionPlan>, operator: &str) -> Result<Self, DataError> {
        let fail = |e: DataFusionError| flow_error(operator, &e);
        let memory = Arc::new(Memory::default());
        let pool = Arc::clone(&memory) as Arc<dyn MemoryPool>;
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().map_err(fail)?;
        let context = TaskContext::default().with_runtime(runtime);
        let stream = plan.execute(0, Arc::new(context)).map_err(fail)?;
        Ok(Self { stream, memory, operator: operator.into() })
    }

    /// The most bytes that its operators have held at once.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.most.load(Ordering::Relaxed) as u64
    }

    /// The columns of what it gives.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// What the plan gives by now.
    pub fn drain(&mut self) -> Result<Vec<RecordBatch>, DataError> {
        let mut context = Context::from_waker(futures::task::noop_waker_ref());
        let mut given = Vec::new();
        while let Poll::Ready(Some(batch)) = self.stream.poll_next_unpin(&mut context) {
            given.push(batch.map_err(|e| flow_error(&self.operator, &e))?);
        }
        Ok(given)
    }

    /// The next of what the plan still gives once its feeds have ended.
    pub fn rest(&mut self) -> Result<Option<RecordBatch>, DataError> {
        let next = futures::executor::block_on(self.stream.next());
        next.transpose().map_err(|e| flow_error(&self.operator, &e))
    }
}

/// What the operators of a flow hold, by their own account.
#[derive(Debug, Default)]
struct Memory {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl MemoryPool for Memory {
    fn name(&self) -> &str {
        "counted"
    }

    fn grow(&self, _reservation: &MemoryReservation, additional: usize) {
        let now = self.now.fetch_add(additional, Ordering::Relaxed) + additional;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    fn shrink(&self, _reservation: &MemoryReservation, shrink: usize) {
        self.now.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<(), DataFusionError> {
        self.grow(reservation, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Infinite
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name(), self.reserved())
    }
}

/// An error of DataFusion while `operator` ran or was made ready.
pub fn flow_error(operator: &str, error: &DataFusionError) -> DataError {
    DataError::Compute { operator: operator.into(), path: String::new(), cause: plain(error) }
}
