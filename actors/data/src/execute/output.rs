//! What becomes of the rows of a task.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::with_columns;
use crate::block_writer::{BlockFile, BlockWriter};
use crate::error::DataError;
use crate::exchange::keys::nullable;
use crate::exchange::partition::{KeySample, Partitioner, Sampler};
use crate::stage::StageSink;

/// Takes the rows of a task.
pub(super) struct Output<'a> {
    ordinal: u64,
    sink: &'a StageSink,
    attempt: &'a str,
    rows: u64,
    schema: Option<SchemaRef>,
    writer: Option<BlockWriter>,
    partitioner: Option<Partitioner<'a>>,
    sampler: Option<Sampler<'a>>,
    objects: Vec<Vec<RecordBatch>>,
    /// Bytes of the rows in `objects`.
    object_bytes: u64,
}

/// What was made of the rows.
pub(super) struct Given {
    pub(super) files: Vec<BlockFile>,
    pub(super) schema: Option<SchemaRef>,
    pub(super) objects: Vec<Vec<RecordBatch>>,
    pub(super) sample: Option<KeySample>,
}

impl<'a> Output<'a> {
    pub(super) fn new(ordinal: u64, sink: &'a StageSink, attempt: &'a str) -> Self {
        let mut output = Self {
            ordinal,
            sink,
            attempt,
            rows: 0,
            schema: None,
            writer: None,
            partitioner: None,
            sampler: None,
            objects: Vec::new(),
            object_bytes: 0,
        };
        match sink {
            StageSink::Blocks => output.objects = vec![Vec::new()],
            StageSink::Parts { by, parts } => {
                output.partitioner = Some(Partitioner::new(by, *parts, ordinal, sink.name()));
                output.objects = vec![Vec::new(); *parts as usize];
            }
            StageSink::KeySample { keys } => output.sampler = Some(Sampler::new(keys, ordinal, sink.name())),
            StageSink::Write { .. } | StageSink::Count => {}
        }
        output
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    pub(super) fn set_schema(&mut self, schema: SchemaRef) {
        self.schema = Some(schema);
    }

    /// Whether the columns of no rows need not be asked for.
    pub(super) fn knows_its_columns(&self) -> bool {
        matches!(self.sink, StageSink::Write { schema: Some(_), .. } | StageSink::Count | StageSink::KeySample { .. })
    }

    /// About how many bytes it holds: of the rows of objects, or of files that are being written.
    pub(super) fn held_bytes(&self) -> u64 {
        self.object_bytes + self.writer.as_ref().map_or(0, BlockWriter::memory_bytes)
    }

    /// Takes a batch whose values are so many bytes.
    pub(super) fn take(&mut self, batch: RecordBatch, bytes: u64) -> Result<(), DataError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        if matches!(self.sink, StageSink::Count) {
            return Ok(());
        }
        let batch = self.check(batch)?;
        if let Some(sampler) = &mut self.sampler {
            return sampler.add(&batch);
        }
        if !self.objects.is_empty() {
            self.object_bytes += bytes;
        }
        if let Some(partitioner) = &mut self.partitioner {
            for (part, rows) in partitioner.split(&batch)? {
                self.objects[part].push(rows);
            }
            return Ok(());
        }
        match self.objects.first_mut() {
            Some(object) => object.push(batch),
            None => self.writer(batch.schema())?.write(&batch)?,
        }
        Ok(())
    }

    /// Every batch of a block must have the columns of the first.
    fn check(&mut self, batch: RecordBatch) -> Result<RecordBatch, DataError> {
        let expected = self.schema.get_or_insert_with(|| match self.sink {
            StageSink::Write { schema: Some(schema), .. } => Arc::clone(&schema.0),
            _ => nullable(&batch.schema()),
        });
        with_columns(self.sink.name(), expected, batch)
    }

    fn writer(&mut self, schema: SchemaRef) -> Result<&mut BlockWriter, DataError> {
        let StageSink::Write { staging, first_ordinal, options, .. } = self.sink else {
            return Err(DataError::InvalidPlan {
                operator: self.sink.name().into(),
                cause: "only a write has a file".into(),
            });
        };
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => BlockWriter::create(staging, first_ordinal + self.ordinal, self.attempt, schema, options)?,
        };
        Ok(self.writer.insert(writer))
    }

    /// A block without rows writes no file, but for the first one: a result without rows is
    /// still one file with its columns.
    pub(super) fn finish(mut self) -> Result<Given, DataError> {
        if let StageSink::Write { schema, .. } = self.sink {
            if let Some(schema) = schema {
                self.schema.get_or_insert_with(|| Arc::clone(&schema.0));
            }
            if let (None, 0, Some(schema)) = (&self.writer, self.ordinal, self.schema.clone()) {
                self.writer(schema)?;
            }
        }
        let files = self.writer.take().map(BlockWriter::finish).transpose()?.unwrap_or_default();
        let sample = self.sampler.map(Sampler::finish);
        Ok(Given { files, schema: self.schema, objects: self.objects, sample })
    }
}
