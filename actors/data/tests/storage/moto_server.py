"""A store by moto, with a bucket, that tells what it holds.

Prints its port, then answers each line of input, a key, with what it has under it; ends with
its input.
"""

import hashlib
import json
import os
import sys

os.environ.update(AWS_ACCESS_KEY_ID="moto", AWS_SECRET_ACCESS_KEY="moto", AWS_EC2_METADATA_DISABLED="true")

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
port = server.get_host_and_port()[1]
store = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
store.create_bucket(Bucket="bucket")
print(port, flush=True)
for line in sys.stdin:
    try:
        found = store.get_object(Bucket="bucket", Key=line.strip())
        body = found["Body"].read()
        answer = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "marks": sorted(found["Metadata"])}
    except store.exceptions.NoSuchKey:
        answer = None
    print(json.dumps(answer), flush=True)
