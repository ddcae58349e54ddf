//! Arrow batches as a table that people can read.

use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{Table, presets};

/// The rows of all batches under their column names. A value that cannot be shown says why.
pub(crate) fn of_batches(batches: &[RecordBatch]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let Some(first) = batches.first() else {
        return table;
    };
    let schema = first.schema();
    table.set_header(schema.fields().iter().map(|field| field.name().clone()));
    let options = FormatOptions::default().with_null("null");
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options)).collect();
        for row in 0..batch.num_rows() {
            table.add_row(columns.iter().map(|column| match column {
                Ok(column) => column.value(row).to_string(),
                Err(error) => error.to_string(),
            }));
        }
    }
    table
}
