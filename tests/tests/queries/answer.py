"""Answers SQL queries over Arrow files: a JSON file of cases in, an Arrow file or an error for each out."""
import json, sys
import duckdb
import pyarrow as pa

cases = json.load(open(sys.argv[1]))
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
connection.execute("SET threads = 1")
errors = []
for case in cases:
    for name, path in case["tables"].items():
        connection.register(name, pa.ipc.open_file(path).read_all())
    try:
        answer = connection.sql(case["sql"]).to_arrow_table()
        with pa.OSFile(case["answer"], "wb") as file, pa.ipc.new_file(file, answer.schema) as writer:
            writer.write_table(answer)
        errors.append(None)
    except Exception as error:
        errors.append(str(error))
    for name in case["tables"]:
        connection.unregister(name)
print(json.dumps(errors))
