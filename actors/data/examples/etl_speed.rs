//! proto
use std::{fs::File, sync::Mutex, time::Instant};
use arrow::array::*; use arrow::datatypes::*; use arrow::compute::*;
use parquet::arrow::{ArrowWriter, arrow_reader::*};
use parquet::file::properties::*; use parquet::basic::Compression;
use std::sync::Arc;
fn main() {
    let mode = std::env::args().nth(1).unwrap();
    let batch: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let mut tasks = vec![];
    for m in 1..=3 { let p = format!("/tmp/nine/yellow_tripdata_2023-0{m}.parquet");
        let md = ArrowReaderMetadata::load(&File::open(&p).unwrap(), ArrowReaderOptions::new()).unwrap();
        for g in 0..md.metadata().num_row_groups() { tasks.push((p.clone(), md.clone(), g)); } }
    let n = tasks.len(); let q = Mutex::new(tasks.into_iter().enumerate());
    let _ = std::fs::create_dir("/tmp/protoout");
    let t = Instant::now();
    std::thread::scope(|s| { for _ in 0..2 { s.spawn(|| loop {
        let Some((i, (p, md, g))) = q.lock().unwrap().next() else { break };
        let r = ParquetRecordBatchReaderBuilder::new_with_metadata(File::open(&p).unwrap(), md).with_row_groups(vec![g]).with_batch_size(batch).build().unwrap();
        let mut w: Option<ArrowWriter<File>> = None;
        for b in r { let b = b.unwrap();
            if mode == "read" { continue; }
            let c = |n: &str| b.column_by_name(n).unwrap().clone();
            let m = and(&cmp(&c("fare_amount"), |x| x >= 2.5), &cmp(&c("trip_distance"), |x| x > 0.0)).unwrap();
            let f = filter_record_batch(&b, &m).unwrap();
            let a = f.column_by_name("tpep_pickup_datetime").unwrap().as_primitive::<TimestampMicrosecondType>().clone();
            let z = f.column_by_name("tpep_dropoff_datetime").unwrap().as_primitive::<TimestampMicrosecondType>().clone();
            let d: Float64Array = arity::binary(&z, &a, |z, a| (z - a) as f64 / 60e6).unwrap();
            let mut cols = f.columns().to_vec(); cols.push(Arc::new(d));
            let mut fs = f.schema().fields().to_vec(); fs.push(Arc::new(Field::new("trip_duration_min", DataType::Float64, true)));
            let o = RecordBatch::try_new(Arc::new(Schema::new(fs)), cols).unwrap();
            if mode == "filter" { continue; }
            let w = w.get_or_insert_with(|| { let mut pb = WriterProperties::builder().set_compression(Compression::SNAPPY);
                if mode == "nodict" { pb = pb.set_dictionary_enabled(false); }
                if mode == "nostat" { pb = pb.set_statistics_enabled(EnabledStatistics::None); }
                if mode == "tuned" { pb = pb.set_statistics_enabled(EnabledStatistics::Chunk);
                    for c in ["tpep_pickup_datetime","tpep_dropoff_datetime","trip_duration_min","total_amount"] { pb = pb.set_column_dictionary_enabled(c.into(), false); } }
                ArrowWriter::try_new(File::create(format!("/tmp/protoout/{i}.parquet")).unwrap(), o.schema(), Some(pb.build())).unwrap() });
            w.write(&o).unwrap();
        }
        if let Some(w) = w { w.close().unwrap(); }
    }); } });
    println!("{mode} {batch} tasks {n} {:.2}s", t.elapsed().as_secs_f64());
}
fn cmp(a: &ArrayRef, f: impl Fn(f64) -> bool) -> BooleanArray { BooleanArray::from_unary(a.as_primitive::<Float64Type>(), f) }
