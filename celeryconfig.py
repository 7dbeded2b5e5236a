"""
Celery's settings, all of them, read from the environment.

Settings only: nothing here imports anything of ours, so that every process (web, worker, beat, Flower) and any
``celery`` command typed by hand in this folder reads the same ones.

Environment: ``REDIS_URL``, ``BROKER_URL`` and ``RESULT_BACKEND`` (default: ``REDIS_URL``), ``DATA_DIR``
(default: ``.data``), ``JOB_STORE_URL`` (default: a folder in ``DATA_DIR``). With no ``REDIS_URL`` at all they point at
the embedded server's Unix socket in ``DATA_DIR``. ``STOCK_TRANSPORT``, when set, keeps kombu's own Redis transport.
``SENTINEL_MASTER`` (default: ``mymaster``) is what Sentinels know a ``sentinel://`` one by.

Names and meanings: https://docs.celeryq.dev/en/stable/userguide/configuration.html
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from celery.schedules import crontab

_data_dir = Path(os.environ.get("DATA_DIR") or ".data").resolve()
_redis_url = os.environ.get("REDIS_URL") or f"redis+socket://{_data_dir}/redis.sock?virtual_host=0"

broker_url = os.environ.get("BROKER_URL") or _redis_url
result_backend = os.environ.get("RESULT_BACKEND") or _redis_url
# kombu's own Redis transport, not ours, which loses nothing when a worker is killed: docs/design/0007.
stock_transport = bool(os.environ.get("STOCK_TRANSPORT"))
job_ledger_url = _redis_url  # where tornado_celery_bridge.ledger keeps the jobs
# Where it keeps large inputs and results, as fsspec spells it; with workers on other machines, what all of them reach.
job_store_url = os.environ.get("JOB_STORE_URL") or f"file://{_data_dir}/blobs"

imports = ["tasks.text", "tasks.data", "tasks.housekeeping"]
if find_spec("PIL"):  # thumbnails need Pillow; the other tasks run without it
    imports += ["tasks.images"]

# What may not be otherwise, `tcb check` says, and the processes as they start (docs/operations.md has more).

# JSON only: a pickle in a queue is code that its writer runs in our workers.
task_serializer = result_serializer = "json"
accept_content = ["json"]
timezone = "UTC"

# Queues: a misspelt queue is an error at dispatch, not a queue that nobody consumes.
task_default_queue = "celery"
task_create_missing_queues = False

# A message is acknowledged after its task, so a killed worker's tasks run again.
task_acks_late = True
# A killed process' message goes back; of a job it is a copy, dropped, and the ledger publishes it again: 5 s, measured.
task_reject_on_worker_lost = True
# Instead of that Celery would retry it after 180 s, and after three of them end it as a FAILURE.
task_retry_on_worker_lost = False
# A task that raised or timed out has ended: its message does not come again.
task_acks_on_failure = task_acks_on_timeout = True
# Who has one task at a time has none waiting in its hands while others are idle.
worker_prefetch_multiplier = 1
# What a worker runs when it loses its broker comes again, and would run twice.
worker_cancel_long_running_tasks_on_connection_loss = True

# A task that hangs gives its slot back: an exception at 570 s, a kill at 600 s.
task_soft_time_limit = 570
task_time_limit = 600
worker_max_tasks_per_child = 1000  # bounds what a leaking task can take
worker_soft_shutdown_timeout = 30.0  # seconds for running tasks to end after QUIT; then their messages go back
worker_enable_soft_shutdown_on_idle = True  # a task with an eta counts as idle, and its message goes back, too

# What a caller and Flower can see of a task: STARTED, its name, arguments and worker, and events.
task_track_started = True
result_extended = True
worker_send_task_events = True
task_send_sent_event = True
result_expires = 86_400  # seconds; a job's result is kept for JOB_TTL in the ledger, whatever this is
# A result that can't be stored now is stored later: a task without one would run again.
result_backend_always_retry = True
result_backend_max_retries = 20  # else a worker retries a lost backend for ever, deaf to TERM

# A broker that is away is waited for, by workers for ever, by a publisher for at most 2 s.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_connection_timeout = 2.0
broker_pool_acquire_timeout = 2.0
task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.1, "interval_step": 0.0, "interval_max": 0.1}

# Redis by Sentinels, sentinel://host:26379;sentinel://other:26379: which master, and that a frozen one is noticed.
_sentinels: dict[str, Any] = {
    "master_name": os.environ.get("SENTINEL_MASTER") or "mymaster",
    "sentinel_kwargs": {"socket_timeout": 2.0, "socket_connect_timeout": 2.0},
}

broker_transport_options: dict[str, Any] = {}
if broker_url.startswith(("redis", "rediss", "sentinel")):
    broker_transport_options = {
        # Jobs have a lease of 10 s in the ledger and need no redelivery. This is for tasks that are none, and it must
        # be longer than they are held: a countdown or a retry's wait of up to 10 min, then a run of up to 10 min.
        # Shorter, they run twice without any fault (20 s at a timeout of 5 s: four starts; a job: one); longer, a
        # killed worker's wait for longer.
        "visibility_timeout": 2 * task_time_limit + 60,
        # What is due for redelivery is looked for every 5 s, not every 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # A worker that is killed while it looks keeps the others from looking for so long (kombu's default: 300 s).
        "unacked_mutex_expire": 10,
        # A server that is frozen, or gone without a word, is noticed.
        "socket_timeout": 5.0,
        "socket_connect_timeout": 2.0,
        "socket_keepalive": True,
        "health_check_interval": 5,
        **_sentinels,
    }
if broker_url.startswith(("amqp", "pyamqp")):
    task_default_exchange_type = "topic"  # what delays by the server need of a quorum queue
    task_queues = {
        task_default_queue: {
            "queue_arguments": {
                "x-queue-type": "quorum",  # on disk, and on several nodes where there are
                # A message that 20 workers did not survive (a job's is published again by the ledger, and ends after
                # three) is put aside, as what no worker could read is. Nobody consumes that queue: look into it.
                "x-delivery-limit": 20,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": f"{task_default_queue}.dead",
            }
        }
    }
    broker_heartbeat = 6.0  # seconds; after two without a sign a server is gone, and to it, we are
    broker_transport_options = {
        # A message counts as published when the server has it: without, 3 of 2,966 were lost as it was killed.
        "confirm_publish": True,
        # Seconds; after them a message is in doubt, and what else a server does not answer is an error.
        "confirm_timeout": 2.0,
        "answer_timeout": 10.0,
    }
if broker_url.startswith("kafka"):
    # docs/brokers/kafka.md has all of them. Each may be in BROKER_URL instead: kafka://host/?partitions=12
    broker_transport_options = {
        "publish_timeout": 2.0,  # seconds; after them a message is in doubt
        # What has an eta waits in the ledger's Redis, and not in Kafka, where it would hold up what comes after it.
        # (By Sentinel there is none, and it waits in workers.)
        "later_url": None if _redis_url.startswith("sentinel") else _redis_url,
    }
if broker_url.startswith("activemq"):
    broker_transport_options = {
        "heartbeat": 4.0,  # seconds: a server that is gone without a word is noticed within 2.5 times that
        "confirm_timeout": 2.0,  # seconds for it to say that it has a message, which is in doubt after that
    }

# The same of the result backend.
redis_socket_timeout = 10.0
redis_socket_connect_timeout = 2.0
# A Unix socket has no keepalive, and redis-py refuses to be given one.
redis_socket_keepalive = not result_backend.startswith(("redis+socket", "socket"))
redis_backend_health_check_interval = 5
result_backend_transport_options = {"retry_policy": {"timeout": 2.0, "max_retries": 1}, **_sentinels}

# Entries can be made and changed while beat runs, and a second beat stands by: docs/schedules.md.
beat_scheduler = "tornado_celery_bridge.schedules:Scheduler"
beat_schedule = {
    "housekeeping": {
        "task": "tasks.housekeeping.remove_old_files",
        "schedule": crontab(minute="17", hour="*"),
    },
}
