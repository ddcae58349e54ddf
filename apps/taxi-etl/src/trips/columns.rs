//! The columns of a chunk, row by row, as the TLC's files have them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use super::Trip;

/// The columns of a chunk while it grows.
pub(super) struct Columns {
    vendor: Vec<i64>,
    pickup_us: Vec<i64>,
    dropoff_us: Vec<i64>,
    passengers: Vec<f64>,
    miles: Vec<f64>,
    rate: Vec<f64>,
    stored: Vec<u8>,
    stored_ends: Vec<i32>,
    pickup: Vec<i64>,
    dropoff: Vec<i64>,
    payment: Vec<i64>,
    money: [Vec<f64>; 9],
    metered: Vec<bool>,
}

impl Columns {
    pub(super) fn with_capacity(rows: usize) -> Columns {
        let (whole, real) = (|| Vec::with_capacity(rows), || Vec::with_capacity(rows));
        let mut stored_ends = Vec::with_capacity(rows + 1);
        stored_ends.push(0);
        Columns {
            vendor: whole(),
            pickup_us: whole(),
            dropoff_us: whole(),
            passengers: real(),
            miles: real(),
            rate: real(),
            stored: Vec::with_capacity(rows),
            stored_ends,
            pickup: whole(),
            dropoff: whole(),
            payment: whole(),
            money: std::array::from_fn(|_| real()),
            metered: Vec::with_capacity(rows),
        }
    }

    pub(super) fn push(&mut self, trip: &Trip) {
        self.vendor.push(trip.vendor);
        self.pickup_us.push(trip.pickup_us);
        self.dropoff_us.push(trip.dropoff_us);
        self.passengers.push(trip.passengers as f64);
        self.miles.push(trip.hundredths_mile as f64 / 100.0);
        self.rate.push(f64::from(trip.rate as u8));
        if !trip.flex {
            self.stored.push(if trip.stored { b'Y' } else { b'N' });
        }
        // At most CHUNK_ROWS letters.
        self.stored_ends.push(self.stored.len() as i32);
        self.pickup.push(trip.pickup as i64);
        self.dropoff.push(trip.dropoff as i64);
        self.payment.push(trip.payment as i64);
        // One vendor counts the surcharges among the extras as well as in their own columns.
        let doubled = if trip.vendor == 1 && !trip.flex { trip.congestion + trip.airport } else { 0 };
        let cents = [
            trip.fare,
            trip.extra + doubled,
            trip.mta_tax,
            trip.tip,
            trip.tolls,
            trip.improvement,
            trip.total(),
            trip.congestion,
            trip.airport,
        ];
        for (column, cents) in self.money.iter_mut().zip(cents) {
            column.push((trip.sign * cents) as f64 / 100.0);
        }
        self.metered.push(!trip.flex);
    }

    pub(super) fn finish(self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let metered = Some(NullBuffer::from(self.metered)).filter(|nulls| nulls.null_count() > 0);
        let whole = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let time = |values: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(values)) as ArrayRef;
        let real = |values: Vec<f64>| Arc::new(Float64Array::from(values)) as ArrayRef;
        let partial = |values: Vec<f64>| Arc::new(Float64Array::new(values.into(), metered.clone())) as ArrayRef;
        let stored = StringArray::try_new(
            OffsetBuffer::new(self.stored_ends.into()),
            Buffer::from_vec(self.stored),
            metered.clone(),
        )?;
        let [fare, extra, mta_tax, tip, tolls, improvement, total, congestion, airport] = self.money;
        let columns = vec![
            whole(self.vendor),
            time(self.pickup_us),
            time(self.dropoff_us),
            partial(self.passengers),
            real(self.miles),
            partial(self.rate),
            Arc::new(stored) as ArrayRef,
            whole(self.pickup),
            whole(self.dropoff),
            whole(self.payment),
            real(fare),
            real(extra),
            real(mta_tax),
            real(tip),
            real(tolls),
            real(improvement),
            real(total),
            partial(congestion),
            partial(airport),
        ];
        RecordBatch::try_new(Arc::clone(schema), columns)
    }
}
