"""One operation over the trips of a directory: python operations.py ENGINE OPERATION TRIPS ZONES OUTPUT"""
import glob, json, os, sys, time

engine, operation, trips, zones, out = sys.argv[1:6]
files = sorted(glob.glob(f"{trips}/*.parquet"))
os.makedirs(out)
target = f"{out}/part.parquet"
if engine == "Polars":
    import polars as pl

    rows = lambda: pl.scan_parquet(files)
    write = lambda query: query.sink_parquet(target, compression="snappy")
    fare = pl.col("fare_amount")
    run = {
        "group_by": lambda: write(rows().group_by("PULocationID").agg(
            pl.len().alias("n"), fare.sum().alias("sum"), fare.mean().alias("mean"), fare.min().alias("min"),
            fare.max().alias("max"), fare.std().alias("std"), fare.median().alias("median"))),
        "sort": lambda: write(rows().sort("fare_amount")),
        "shuffle": lambda: rows().collect().sample(fraction=1, shuffle=True, seed=1).write_parquet(target, compression="snappy"),
        "join": lambda: write(rows().join(pl.scan_parquet(zones), left_on="PULocationID", right_on="LocationID")),
    }[operation]
else:
    import duckdb

    connection = duckdb.connect()
    rows = f"read_parquet({files!r})"
    write = lambda query: connection.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet, COMPRESSION snappy)")
    run = {
        "group_by": lambda: write(
            "SELECT PULocationID, count(*), sum(fare_amount), avg(fare_amount), min(fare_amount), max(fare_amount), "
            f"stddev_samp(fare_amount), median(fare_amount) FROM {rows} GROUP BY 1"),
        "sort": lambda: write(f"SELECT * FROM {rows} ORDER BY fare_amount"),
        "shuffle": lambda: write(f"SELECT * FROM {rows} ORDER BY random()"),
        "join": lambda: write(f"SELECT * FROM {rows} t JOIN read_parquet('{zones}') z ON t.PULocationID = z.LocationID"),
    }[operation]
started = time.time()
run()
print(json.dumps({"seconds": time.time() - started}))
