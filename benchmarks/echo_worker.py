"""A worker that does as little as possible: it takes messages from Redis in batches and stores each result."""

import base64
import json
import os

import redis

client = redis.Redis.from_url(os.environ["BENCH_REDIS"])
print("ready", flush=True)
while True:
    _, first = client.blpop(["celery"])  # type: ignore[misc]
    messages = [first, *(client.lpop("celery", 100) or ())]
    pipe = client.pipeline(transaction=False)
    for raw in messages:
        message = json.loads(raw)
        task_id = message["headers"]["id"]
        args = json.loads(base64.b64decode(message["body"]))[0]
        meta = {"status": "SUCCESS", "result": sum(args), "traceback": None, "children": [], "task_id": task_id}
        payload = json.dumps(meta)
        pipe.set(f"celery-task-meta-{task_id}", payload, ex=600)
        pipe.publish(f"celery-task-meta-{task_id}", payload)
    pipe.execute()
