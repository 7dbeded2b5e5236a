"""
All of Celery's settings. They are read from the environment.

This file holds settings only, and imports nothing of ours. So every process (web, worker, beat, Flower) and every
``celery`` command that is typed in this folder reads the same ones.

Environment: ``REDIS_URL``, ``BROKER_URL`` and ``RESULT_BACKEND`` (default: ``REDIS_URL``), ``DATA_DIR``
(default: ``.data``), ``JOB_STORE_URL`` (default: a folder in ``DATA_DIR``). Without ``REDIS_URL`` they point at the
Unix socket of the embedded server in ``DATA_DIR``. If ``STOCK_TRANSPORT`` is set, kombu's own Redis
transport is used. ``SENTINEL_MASTER`` (default: ``mymaster``) is the name of the master, for ``sentinel://`` URLs;
``SENTINEL_USER`` and ``SENTINEL_PASSWORD`` are the Sentinels' own; ``SENTINEL_CA`` is the file with their authority, if
they speak TLS. ``REDIS_CLUSTER`` has servers of a Redis Cluster, as in ``host:6379,other:6379``: those URLs that name
one of them are of the cluster.

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
# Whether to use kombu's own Redis transport. Ours loses nothing when a worker is killed: docs/design/0007.
stock_transport = bool(os.environ.get("STOCK_TRANSPORT"))
job_ledger_url = _redis_url  # where tornado_celery_bridge.ledger keeps the jobs
# Where large inputs and results are kept, as a URL for fsspec. Workers on other machines must reach it too.
job_store_url = os.environ.get("JOB_STORE_URL") or f"file://{_data_dir}/blobs"

imports = ["tasks.text", "tasks.data", "tasks.pages", "tasks.housekeeping"]
if find_spec("PIL"):  # thumbnails need Pillow; the other tasks run without it
    imports += ["tasks.images"]

# `tcb check`, and each process as it starts, says which of these settings must not be changed (docs/operations.md).

# JSON only: whoever can put a pickle into a queue can run code in our workers.
task_serializer = result_serializer = "json"
accept_content = ["json"]
timezone = "UTC"

# With this, a misspelt queue is an error at dispatch, and not a new queue that nobody consumes.
task_default_queue = "celery"
task_create_missing_queues = False

# A message is acknowledged after its task has ended, so the tasks of a killed worker run again.
task_acks_late = True
# The message of a killed process goes back to its queue. If it is a job's, it is dropped as a copy there, because the
# ledger publishes the job again: after 5 s, measured.
task_reject_on_worker_lost = True
# With True, Celery would instead retry the task after 180 s, and end it as a FAILURE after three retries.
task_retry_on_worker_lost = False
# A task that raised an exception or timed out has ended, so its message does not come again.
task_acks_on_failure = task_acks_on_timeout = True
# A worker process holds one task at a time. With more, tasks would wait for it while other workers are idle.
worker_prefetch_multiplier = 1
# When a worker loses its broker, the broker delivers the worker's tasks again. They would run twice otherwise.
worker_cancel_long_running_tasks_on_connection_loss = True

# A task that hangs must not keep its process: an exception is raised in it after 570 s, and it is killed after 600 s.
task_soft_time_limit = 570
task_time_limit = 600
worker_max_tasks_per_child = 1000  # limits the memory that a leaking task can take
worker_soft_shutdown_timeout = 30.0  # seconds in which running tasks may end after QUIT; then their messages go back

# What callers and Flower can see of a task: the state STARTED, its name, arguments and worker, and events.
task_track_started = True
result_extended = True
worker_send_task_events = True
task_send_sent_event = True
result_expires = 86_400  # seconds, for Celery's results. The ledger keeps a job's result for JOB_TTL, whatever this is
# A result that cannot be stored now is stored later. Without a result the task would run again.
result_backend_always_retry = True
result_backend_max_retries = 20  # without a limit, a worker retries for ever, and does not react to TERM meanwhile

# If the broker is away, workers wait for ever, and a publisher waits for 2 s at most.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_connection_timeout = 2.0
broker_pool_acquire_timeout = 2.0
task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.1, "interval_step": 0.0, "interval_max": 0.1}

# For the URLs that name a server of a Redis Cluster: which servers it has, and one hash tag for all keys.
_cluster: dict[str, Any] = {}
if _servers := os.environ.get("REDIS_CLUSTER"):
    _cluster = {"cluster": _servers.split(","), "global_keyprefix": "{tcb}."}


def _of_cluster(url: str) -> dict[str, Any]:
    server = url.partition("://")[2].rpartition("@")[2].partition("/")[0]  # also of a URL that can't be read
    return _cluster if server in _cluster.get("cluster", ()) else {}


# For Redis with Sentinels (sentinel://host:26379;sentinel://other:26379): the name of the master, and timeouts, so that
# a frozen Sentinel is noticed.
_sentinels: dict[str, Any] = {
    "master_name": os.environ.get("SENTINEL_MASTER") or "mymaster",
    "sentinel_kwargs": {
        "socket_timeout": 2.0,
        "socket_connect_timeout": 2.0,
        # Their own, where they have one: the one in the URL is the master's.
        "username": os.environ.get("SENTINEL_USER") or None,
        "password": os.environ.get("SENTINEL_PASSWORD") or None,
        # With the authority that signed their certificates, they are spoken to by TLS.
        **({"ssl": True, "ssl_ca_certs": _authority} if (_authority := os.environ.get("SENTINEL_CA")) else {}),
    },
}

broker_transport_options: dict[str, Any] = {}
if broker_url.startswith(("redis", "rediss", "sentinel")):
    broker_transport_options = {
        # Jobs have a lease of 10 s in the ledger, and need no redelivery. This timeout is for tasks that are not jobs.
        # It must be longer than a worker holds such a task: a countdown or a retry's wait of up to 10 min, then a run
        # of up to 10 min. If it is too short, tasks run twice without any fault (a run of 20 s at a timeout of 5 s:
        # four starts; a job: one). If it is longer, the tasks of a killed worker wait longer.
        "visibility_timeout": 2 * task_time_limit + 60,
        # Seconds between two searches for messages to deliver again; kombu's default comes to 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # If a worker is killed during such a search, the others cannot search for this long (kombu's default: 300 s).
        "unacked_mutex_expire": 10,
        # With these, a server that is frozen or unreachable is noticed.
        "socket_timeout": 5.0,
        "socket_connect_timeout": 2.0,
        "socket_keepalive": True,
        "health_check_interval": 5,
        **_sentinels,
        **_of_cluster(broker_url),
    }
if broker_url.startswith(("amqp", "pyamqp")):
    task_default_exchange_type = "topic"  # with quorum queues, delays by the server need a topic exchange
    task_queues = {
        task_default_queue: {
            "queue_arguments": {
                "x-queue-type": "quorum",  # on disk, and on several nodes if the cluster has them
                # A message is put aside after 20 deliveries that ended with a lost worker, and so is a message that no
                # worker can read. (A job is given up after three lost workers.) Nobody consumes the queue of these
                # messages: look into it.
                "x-delivery-limit": 20,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": f"{task_default_queue}.dead",
            }
        }
    }
    broker_heartbeat = 6.0  # seconds; after two of them without a sign of life, each side takes the other for lost
    broker_transport_options = {
        # A message counts as published when the server has it. Without this, 3 of 2,966 were lost when it was killed.
        "confirm_publish": True,
        # Seconds: after the first, an unconfirmed message is in doubt. The second is for all other answers.
        "confirm_timeout": 2.0,
        "answer_timeout": 10.0,
    }
if broker_url.startswith("kafka"):
    # docs/brokers/kafka.md has all options. Each may stand in BROKER_URL instead: kafka://host/?partitions=12
    broker_transport_options = {
        "publish_timeout": 2.0,  # seconds; after that a message is in doubt
        # Messages with an eta wait in the ledger's Redis. In Kafka they would hold up the messages behind them.
        # (With Sentinel or a cluster this is not possible, so they wait in workers.)
        "later_url": None if _of_cluster(_redis_url) or _redis_url.startswith("sentinel") else _redis_url,
    }
if broker_url.startswith("activemq"):
    broker_transport_options = {
        "heartbeat": 4.0,  # seconds; a server that disappears is noticed within 2.5 times that
        "confirm_timeout": 2.0,  # seconds to wait until it confirms a message; after that the message is in doubt
    }

# The same settings for the result backend.
redis_socket_timeout = 10.0
redis_socket_connect_timeout = 2.0
# A Unix socket has no keepalive, and redis-py raises an error if it is given one.
redis_socket_keepalive = not result_backend.startswith(("redis+socket", "socket"))
redis_backend_health_check_interval = 5
result_backend_transport_options = {
    "retry_policy": {"timeout": 2.0, "max_retries": 1},
    **_sentinels,
    **_of_cluster(_redis_url),
}

# Schedules can be made and changed while beat runs, and a second beat can stand by: docs/schedules.md.
beat_scheduler = "tornado_celery_bridge.schedules:Scheduler"
beat_schedule = {
    "housekeeping": {
        "task": "tasks.housekeeping.remove_old_files",
        "schedule": crontab(minute="17", hour="*"),
    },
}
