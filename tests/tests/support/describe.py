"""Reads every Parquet file of a directory with pyarrow and with DuckDB and prints one JSON object:
rows as each of them counts, columns and types, and for every numeric column sum, minimum, maximum
and nulls (by DuckDB), plus an order-independent digest of all rows."""
import glob
import json
import os
import sys

import duckdb
import pyarrow.parquet as pq

files = sorted(glob.glob(os.path.join(sys.argv[1], "*.parquet")))
tables = [pq.read_table(file) for file in files]
schemas = {str(table.schema.remove_metadata()) for table in tables}
relation = f"read_parquet({files!r})"
answer = {
    "files": len(files),
    "hidden": sorted(name for name in os.listdir(sys.argv[1]) if not name.endswith(".parquet")),
    "schemas": len(schemas),
    "pyarrow_rows": sum(table.num_rows for table in tables),
    "columns": {field.name: str(field.type) for field in tables[0].schema} if tables else {},
}
if files:
    connection = duckdb.connect()

    def ask(question):
        return connection.execute(question).fetchall()

    answer["duckdb_rows"] = ask(f"select count(*) from {relation}")[0][0]
    numeric = {}
    for name, kind, *_ in ask(f"describe select * from {relation}"):
        if kind in ("DOUBLE", "FLOAT", "INTEGER", "BIGINT", "SMALLINT", "TINYINT", "UBIGINT", "UINTEGER"):
            q = '"' + name + '"'
            row = ask(f"select sum({q})::double, min({q})::double, max({q})::double, count(*) - count({q}) from {relation}")[0]
            numeric[name] = dict(zip(("sum", "min", "max", "nulls"), row))
    answer["numeric"] = numeric
    answer["digest"] = str(ask(f"select sum(hash(t)::hugeint) from {relation} t")[0][0])
print(json.dumps(answer))
