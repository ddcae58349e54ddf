"""Cleans the trips of a directory with Polars: python polars_clean.py INPUT OUTPUT"""
import glob, json, os, sys, time
import polars as pl

source, target = sys.argv[1:3]
os.makedirs(target)
started = time.time()
trips = pl.scan_parquet(sorted(glob.glob(f"{source}/*.parquet")))
minutes = (pl.col("tpep_dropoff_datetime") - pl.col("tpep_pickup_datetime")).dt.total_microseconds() / 60e6
trips = trips.filter((pl.col("fare_amount") >= 2.5) & (pl.col("trip_distance") > 0)).with_columns(trip_duration_min=minutes)
trips.sink_parquet(f"{target}/part.parquet", compression="snappy")
seconds = time.time() - started
rows = pl.scan_parquet(f"{target}/part.parquet").select(pl.len()).collect().item()
print(json.dumps({"seconds": seconds, "rows_written": rows}))
