"""
Finds what is unsafe in an app's settings, and in the servers that they name, as these run now.

What is *unsafe* breaks the promise that an accepted job is never lost. No process starts with it, unless its name is in
``ALLOW_UNSAFE``. That is for the operator of the processes to decide, so it is a variable of their environment and not
a setting of the app. What is *impossible* can't be allowed: nothing could run. What is *unwise* is only logged. So is
what can't be found out: a server that is away must not keep a process from starting.

Each function below is one rule. A remedy is a line in the app's own spelling. The servers are asked by ``INFO``, which
managed servers answer even if they forbid ``CONFIG``. ``CONFIG`` is only needed to see whether Redis lets the network
in.
"""

import ipaddress
import logging
import os
import re
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from celery import Celery
from celery.backends.base import DisabledBackend
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import RedisError, ResponseError

from tornado_celery_bridge.base.app import is_exposed, own_tasks
from tornado_celery_bridge.base.redis import asked_once, blocking_client
from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.base.spelling import Spelling
from tornado_celery_bridge.base.versions import has_login, lacking
from tornado_celery_bridge.ledger.connection import BlockingConnection, ledger_backend
from tornado_celery_bridge.ledger.permissions import PROCESSES, Needs, missing_of, needs_of
from tornado_celery_bridge.ledger.schema import AnotherSchema, compare
from tornado_celery_bridge.transports import TRANSPORTS
from tornado_celery_bridge.transports.core import WrongOption
from tornado_celery_bridge.transports.servers import KINDS, RabbitMQ, server_of

log = logging.getLogger(__name__)

#: The names of what is unsafe, which may be allowed.
NAMES = (
    *("no-aof", "eviction", "full", "no-permission", "no-login", "no-password", "unverified-tls", "no-certificate"),
    "unserved-slots",
    *("no-install", "early-acks", "lost-fails", "eager", "no-confirms", "no-dead-letters"),
    *("consumer-timeout", "pickle", "no-topic", "short-retention", "offsets-expire"),
)

#: What a server has to be asked for.
OF_SERVERS = (
    *("no-aof", "eviction", "full", "no-permission", "no-login", "consumer-timeout", "other-schema", "cluster"),
    *("unserved-slots", "no-topic", "short-retention", "offsets-expire"),
)

#: The names of what can't be allowed.
IMPOSSIBLE = ("no-transport", "no-results", "no-ledger", "other-schema", "cluster")

#: The argument by which a queue of RabbitMQ says where dead letters go.
DEAD_LETTERS = "x-dead-letter-exchange"

#: Seconds after which RabbitMQ takes back a message that is not acknowledged, unless it is told otherwise.
CONSUMER_TIMEOUT = 1800

#: Seconds that a server has for an answer.
TIMEOUT = 2

#: What Redis says to whom it does not let log in.
_LOGIN = re.compile(r"NOAUTH|WRONGPASS|[Aa]uthentication|AUTH .*called|invalid username-password")

#: What is said of a Redis Cluster in which nobody has our keys, or some.
_UNSERVED = re.compile("cluster is down|slot not served|served by no server", re.IGNORECASE)

#: What a remedy says where the app names no Redis.
A_REDIS = "redis://localhost:6379/0"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is unsafe or unwise."""

    #: The rule's name. Several servers may break the same rule.
    name: str
    #: What was found, and what may happen because of it.
    what: str
    #: What to do about it.
    remedy: str
    #: Whether ``ALLOW_UNSAFE`` names it.
    allowed: bool = False

    @property
    def is_unsafe(self) -> bool:
        """Whether no process should start with it."""
        return self.name in IMPOSSIBLE or (self.name in NAMES and not self.allowed)

    @property
    def verdict(self) -> Literal["unsafe", "allowed", "unwise"]:
        """How bad it is."""
        return "unsafe" if self.is_unsafe else "allowed" if self.allowed else "unwise"

    @property
    def code(self) -> tuple[str, str]:
        """The line of code in the remedy, and where it is to stand; both empty if there is none."""
        found = re.fullmatch("`([^`]+)` (.+)", self.remedy)
        return (found[1], found[2]) if found else ("", "")

    def __str__(self) -> str:
        text = f"{self.name}: {self.what.rstrip('.')}. Remedy: {self.remedy}"
        return f"{text}; or ALLOW_UNSAFE={self.name}" if self.may_be_allowed else text

    @property
    def may_be_allowed(self) -> bool:
        """Whether ``ALLOW_UNSAFE`` would help."""
        return self.is_unsafe and self.name in NAMES


def is_installed(app: Celery) -> bool:
    """Return whether *app*'s workers keep the ledger: whether ``worker.install(app)`` was called."""
    try:
        return bool(getattr(app.backend, "keeps_the_ledger", False))
    except Exception:  # of a result backend that can't be used: no-results says why
        steps: Any = app.steps["worker"]
        return any(step.__module__.startswith("tornado_celery_bridge.worker.") for step in steps)


@dataclass(frozen=True, slots=True)
class Server:
    """A Redis server as it runs now."""

    #: What it is used for: "the ledger's Redis", "the broker's Redis".
    role: str
    #: The host in its URL; None for a Unix socket.
    host: str | None
    #: Whether we log in to it, by a password or in another way.
    has_password: bool
    #: What it answers to INFO; empty if it does not answer.
    info: Mapping[str, Any] = field(default_factory=dict)
    #: What it answers to CONFIG GET; empty if it does not answer.
    config: Mapping[str, str] = field(default_factory=dict)
    #: Why it did not answer.
    trouble: str = ""
    #: Whether nothing answers there: it is no matter of what it permits.
    is_away: bool = False
    #: The user that we log in as.
    user: str = ""
    #: What this user lacks, as a rule of an ACL, by the process that needs it.
    lacks: Mapping[str, str] = field(default_factory=dict)
    #: Whether the settings say that it is a Redis Cluster.
    is_cluster: bool = False
    #: What it answers to CLUSTER INFO; empty if it is none.
    cluster: Mapping[str, Any] = field(default_factory=dict)
    #: The settings of TLS, by redis-py's names; empty without TLS.
    tls: Mapping[str, Any] = field(default_factory=dict)


# Rules for a Redis.


def no_aof(server: Server) -> Finding | None:
    if server.info.get("aof_enabled") != 0:
        return None
    copies = server.info.get("connected_slaves", 0)
    and_copies = f", and its {copies} replicas then forget it as well, as they copy the empty one" if copies else ""
    return Finding(
        "no-aof",
        f"{server.role} keeps no append-only file: what it had is lost when it ends{and_copies}",
        "`appendonly yes` in its configuration (now: redis-cli CONFIG SET appendonly yes)",
    )


def eviction(server: Server) -> Finding | None:
    policy = server.info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return None
    return Finding(
        "eviction",
        f"{server.role} forgets keys when its memory is full ({policy}): jobs among them",
        "`maxmemory-policy noeviction` in its configuration (now: redis-cli CONFIG SET maxmemory-policy noeviction)",
    )


def full(server: Server) -> Finding | None:
    """What it forgets to have room, it does not refuse: see `eviction`."""
    used, most = server.info.get("used_memory", 0), server.info.get("maxmemory", 0)
    if not most or used < most or server.info.get("maxmemory_policy") != "noeviction":
        return None
    return Finding(
        "full",
        f"{server.role} is full: it uses {used:,} of at most {most:,} bytes, and takes no job, state or result",
        "more `maxmemory`; or a shorter JOB_TTL, and a job_store_url for large values",
    )


def no_permission(server: Server) -> Finding | None:
    lacks = {process: rule for process, rule in server.lacks.items() if rule}
    if not lacks:
        return None
    parts = dict.fromkeys(part for rule in lacks.values() for part in rule.split())
    return Finding(
        "no-permission",
        f"{server.role} does not let the user {server.user} do what {_named(lacks)} does: jobs would be refused, or "
        "would not run or end",
        f"`ACL SETUSER {server.user} {' '.join(parts)}` on the server; docs/brokers/redis.md has the whole rule",
    )


def cluster(server: Server) -> Finding | None:
    is_one = server.info.get("cluster_enabled")
    if is_one is None or bool(is_one) is server.is_cluster:
        return None
    if server.is_cluster:
        return Finding(
            "cluster", f"{server.role} is no Redis Cluster, and the settings say so", "without REDIS_CLUSTER"
        )
    return Finding(
        "cluster",
        f"{server.role} is a Redis Cluster, and the settings do not say so: each of its servers refuses keys of others",
        "REDIS_CLUSTER=HOST:PORT in the environment; in an app of your own, `cluster` and a `global_keyprefix` with a "
        "hash tag among the transport options of broker and result backend (docs/brokers/redis.md)",
    )


def unserved_slots(server: Server) -> Finding | None:
    """A cluster whose servers answer nothing, or not for all keys, as some of its slots are nobody's."""
    served = int(server.cluster.get("cluster_slots_ok", REDIS_CLUSTER_HASH_SLOTS))
    if served == REDIS_CLUSTER_HASH_SLOTS and not _UNSERVED.search(server.trouble):
        return None
    which = f"{served} of its {REDIS_CLUSTER_HASH_SLOTS} slots are served" if server.cluster else server.trouble
    return Finding(
        "unserved-slots",
        f"{server.role}, a Redis Cluster, refuses commands: {which}",
        "`redis-cli --cluster check` says which slots nobody has, and `redis-cli --cluster fix` mends what it can",
    )


def no_login(server: Server) -> Finding | None:
    if not _LOGIN.search(server.trouble):
        return None
    return Finding(
        "no-login",
        f"{server.role} does not let us log in: {server.trouble}",
        "user and password in its URL; of Sentinels with a password of their own, SENTINEL_PASSWORD, or `password` in "
        "sentinel_kwargs among the transport options of broker and result backend",
    )


def unverified_tls(server: Server) -> Finding | None:
    if server.tls.get("ssl_cert_reqs") not in (ssl.CERT_NONE, "none", "CERT_NONE"):
        return None
    return Finding(
        "unverified-tls",
        f"{server.role} may be anybody: its certificate is not looked at, and whoever is between gets the password",
        "`ssl_cert_reqs=required` in its URL, and `ssl_ca_certs=FILE` if its authority is none of the system's",
    )


def no_certificate(server: Server) -> Finding | None:
    named = {name: server.tls.get(name) for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path")}
    missing = [f"{name}={path}" for name, path in named.items() if path and not os.access(path, os.R_OK)]
    if not missing:
        return None
    return Finding(
        "no-certificate",
        f"{server.role} can't be reached: there is no file {', '.join(missing)} that this user may read",
        "the right path in its URL, or in redis_backend_use_ssl and broker_use_ssl",
    )


def _named(processes: Iterable[str]) -> str:
    return " and ".join(f"tcb {process}" for process in processes)


def no_password(server: Server) -> Finding | None:
    """Whoever can reach the server can run tasks and remove jobs."""
    config = server.config
    lets_all_in = config.get("requirepass") == "" and config.get("protected-mode") == "no" and config.get("port") != "0"
    is_open = lets_all_in and not all(map(is_loopback, config.get("bind", "").split() or ["*"]))
    if not (is_open or (server.host and not server.has_password and not is_loopback(server.host))):
        return None
    return Finding(
        "no-password",
        f"{server.role} can be reached over the network without a password: whoever does can run tasks and drop jobs",
        "`requirepass`, and the password in its URL; or let it listen on loopback or a Unix socket alone",
    )


def no_answer(server: Server) -> Finding | None:
    if not server.is_away:
        return None
    return Finding("no-answer", f"{server.role} does not answer: {server.trouble}", "start it, or mend its URL")


def unknown(server: Server) -> Finding | None:
    if server.is_away:
        return None
    known = {"aof_enabled", "maxmemory_policy"} <= server.info.keys()
    if known and (server.config or server.has_password or not server.host):
        return None
    unseen = "whether it lets the network in" if known else "whether it keeps jobs over a crash"
    return Finding(
        "unknown",
        f"{server.role} does not say {unseen} ({server.trouble or 'INFO does not have it'})",
        "look at its appendonly, maxmemory-policy and requirepass yourself",
    )


# Rules for an app.


def no_transport(app: Celery) -> Finding | None:
    try:
        with app.connection_for_write() as connection:
            connection.get_transport_cls()
            connection.as_uri()
            if _broker(app.conf).startswith(("redis:", "rediss:")):
                int(str(connection.virtual_host or 0).strip("/") or 0)  # the database
            return None
    except Exception as exc:  # KeyError for a scheme that kombu does not know, ImportError without its client
        why, is_unknown = _why(exc), _NO_SUCH in str(exc)
        if isinstance(exc, WrongOption):
            return Finding("no-transport", f"the broker can't be used: {why}", "another value of this option")
    scheme = _broker(app.conf).partition("://")[0]
    remedy = f"a broker_url with a scheme that kombu knows: {', '.join(TRANSPORTS)}, and others that it lists"
    if is_unknown and scheme in TRANSPORTS:
        remedy = f"`from tornado_celery_bridge.transports import register; register({scheme!r})` beside the app"
    return Finding("no-transport", f"the broker can't be used: {why}", remedy)


def no_results(app: Celery) -> Finding | None:
    try:
        backend: Any = app.backend
        if isinstance(backend, DisabledBackend):
            what = "there is no result backend: whoever runs a job could not get its result"
        elif backend.thread_safe:
            what = "the result backend has thread_safe set: the service's threads each need one of their own"
        else:
            return None
    except Exception as exc:  # of any backend's own client
        what = f"the result backend can't be used: {_why(exc)}"
    return Finding("no-results", what, _line(app, result_backend=A_REDIS))


def no_ledger(app: Celery) -> Finding | None:
    try:
        ledger_backend(app)
    except ImproperlyConfigured as exc:
        return Finding("no-ledger", str(exc), _line(app, job_ledger_url=A_REDIS))
    except ValueError as exc:
        return Finding("no-ledger", f"the jobs' ledger can't be used: {_why(exc)}", _line(app, job_ledger_url=A_REDIS))
    return None


def other_schema(app: Celery) -> Finding | None:
    connection = BlockingConnection(app, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    try:
        compare(connection.client.get(f"{connection.prefix}schema"))
    except AnotherSchema as exc:
        what, _, remedy = str(exc).partition(": ")
        return Finding("other-schema", what, remedy)
    except (RedisError, OSError):  # which other rules say
        pass
    finally:
        connection.client.close()
    return None


#: What a broker that kombu does not know raises.
_NO_SUCH = "No such transport: "


def _why(exc: Exception) -> str:
    """Return why something can't be used, in a line. A URL that can't be read may have a password in it."""
    text = " ".join(str(exc.args[0] if isinstance(exc, KeyError) and exc.args else exc).split())
    if "ssl_cert_reqs" in text or (isinstance(exc, KeyError) and not text.startswith(_NO_SUCH)):
        return "a URL with rediss:// needs ?ssl_cert_reqs=required, or optional, or none"
    if "_init_params" in text:
        return "its URL has a parameter that kombu does not take: such options go into broker_transport_options"
    if isinstance(exc, ValueError) and not isinstance(exc, WrongOption):
        return (
            "its URL can't be read: the port and Redis's database are numbers, and in a password # is written %23, "
            "/ is %2F, ? is %3F, @ is %40, [ is %5B"
        )
    return text


def no_install(app: Celery) -> Finding | None:
    if is_installed(app):
        return None
    return Finding(
        "no-install",
        "the app's workers would not say what becomes of jobs, nor look for lost ones",
        "`from tornado_celery_bridge.worker import install; install(app)` beside the app",
    )


def early_acks(app: Celery) -> Finding | None:
    if not app.conf.task_acks_late:
        return Finding(
            "early-acks",
            f"{_name(app, 'task_acks_late')} is off: a job whose process is killed ends as a FAILURE",
            _line(app, task_acks_late=True),
        )
    return _of_tasks(app, "early-acks", _acks_early, "acks_late = False", "acks_late=True")


def lost_fails(app: Celery) -> Finding | None:
    lost = {"task_reject_on_worker_lost": True}
    if app.conf.get("task_retry_on_worker_lost"):
        lost["task_retry_on_worker_lost"] = False
    if not app.conf.task_reject_on_worker_lost or len(lost) > 1:
        return Finding(
            "lost-fails",
            f"{_name(app, 'task_reject_on_worker_lost')} is off, or {_name(app, 'task_retry_on_worker_lost')} on: a "
            "job whose process is killed ends as a FAILURE, at once or when its retries are used up",
            _line(app, **lost),
        )
    return _of_tasks(app, "lost-fails", _fails_when_lost, "reject_on_worker_lost = False", "reject_on_worker_lost=True")


def own_acks(app: Celery) -> Finding | None:
    """Of tasks that are not exposed, and so may be no jobs."""
    found = [
        name for name, task in own_tasks(app) if not is_exposed(task) and (_acks_early(task) or _fails_when_lost(task))
    ]
    app_is_safe = app.conf.task_acks_late and app.conf.task_reject_on_worker_lost
    if not found or not app_is_safe or app.conf.get("task_retry_on_worker_lost"):
        return None  # The app's own settings are a finding already: it is not the tasks that differ from them.
    return Finding(
        "own-acks",
        f"{_some(found)} acknowledge early, or fail when their process is lost, whatever the app's settings say: a job "
        "of theirs, by the library, whose process is killed ends as a FAILURE",
        "acks_late=True, reject_on_worker_lost=True in the task's options; or set the app's settings before its first "
        "task is used",
    )


def eager(app: Celery) -> Finding | None:
    if not app.conf.task_always_eager:
        return None
    return Finding(
        "eager",
        f"{_name(app, 'task_always_eager')} is on: whoever dispatches a task runs it, no worker sees it, and a job "
        "never ends",
        _line(app, task_always_eager=False),
    )


def no_confirms(app: Celery) -> Finding | None:
    conf: Any = app.conf
    if not _broker(conf).startswith(("amqp", "pyamqp")) or conf.broker_transport_options.get("confirm_publish"):
        return None
    return Finding(
        "no-confirms",
        "RabbitMQ is not asked to confirm: a message that it lost counts as published",
        _line(app, broker_transport_options={"confirm_publish": True, "confirm_timeout": 2.0}),
    )


def consumer_timeout(app: Celery) -> Finding | None:
    """
    Of RabbitMQ, whose own setting no client can read.

    Source: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
    """
    longest = max(
        (task.time_limit or app.conf.task_time_limit or 0 for _, task in own_tasks(app)),
        default=app.conf.task_time_limit or 0,
    )
    if longest < CONSUMER_TIMEOUT or not (server := _rabbitmq(app)) or server.has_consumer_timeout:
        return None  # or our transport tells the server, in each worker, for how long it may have a message
    arguments = [queue.queue_arguments or {} for queue in app.amqp.queues.values()]
    if server.has_queue_timeout and all(each.get("x-consumer-timeout", 0) > longest * 1000 for each in arguments):
        return None
    return Finding(
        "consumer-timeout",
        f"{server} takes a message back after its consumer_timeout, which is {CONSUMER_TIMEOUT} s by default, and a "
        f"task may run for {longest:g} s: it would end as a FAILURE, and what else its worker runs would begin again",
        f"`consumer_timeout = {int(longest * 1000) + 60_000}` in rabbitmq.conf"
        + (", or x-consumer-timeout among the queue_arguments of each queue" if server.has_queue_timeout else "")
        + ", and ALLOW_UNSAFE=consumer-timeout, as it can't be seen from here; or a shorter time limit",
    )


def _rabbitmq(app: Celery) -> RabbitMQ | None:
    """Return what the broker's server says that it is; None for another, or one that is away."""
    if not _broker(app.conf).startswith(("amqp", "pyamqp")):
        return None
    with app.connection_for_write(connect_timeout=TIMEOUT) as connection:
        try:
            connection.ensure_connection(max_retries=max(0, len(connection.alt) - 1), interval_start=0)
            found = server_of(connection)
        except Exception as exc:  # of any kind of connection
            log.debug("the broker does not say what it is: %s", exc)
            return None
    return found if isinstance(found, RabbitMQ) else None


def of_broker(app: Celery, processes: Sequence[str]) -> list[Finding]:
    """What a user may not do at the broker, and what its settings lose or repeat, if its transport can say that."""
    with app.connection_for_write(connect_timeout=TIMEOUT) as connection:
        transport: Any = connection.get_transport_cls()
        if not hasattr(transport, "troubles"):
            return []
        troubles = transport.troubles(connection, app.amqp.queues, consumes="worker" in processes)
    name = KINDS[transport.driver_type].__name__
    return [Finding(each.name, f"{name}: {each.what}", each.remedy) for each in troubles]


def no_dead_letters(app: Celery) -> Finding | None:
    """
    Of RabbitMQ, by the queues as the app declares them. A policy of the server's can't be seen from here.

    Source: https://www.rabbitmq.com/docs/dlx
    """
    if not _broker(app.conf).startswith(("amqp", "pyamqp")):
        return None
    queues = app.amqp.queues
    lacking = [name for name in sorted(queues) if DEAD_LETTERS not in (queues[name].queue_arguments or {})]
    if not lacking:
        return None
    put_aside = {DEAD_LETTERS: "", "x-dead-letter-routing-key": f"{app.conf.task_default_queue}.dead"}
    return Finding(
        "no-dead-letters",
        "RabbitMQ drops what no worker can read, and of a quorum queue what was delivered too often: "
        f"{_some(lacking)} {'has' if len(lacking) == 1 else 'have'} no dead letters",
        f"`{put_aside!r}` among the queue_arguments of each queue in {_name(app, 'task_queues')}; or, for a queue that "
        "is there already, a policy of the server (docs/brokers/rabbitmq.md)",
    )


def pickle(app: Celery) -> Finding | None:
    conf: Any = app.conf
    accepted = {*conf.accept_content, *(conf.result_accept_content or ())}
    executable = sorted(name for name in accepted if any(word in name for word in ("pickle", "python", "yaml")))
    if not executable:
        return None
    return Finding(
        "pickle",
        f"{_name(app, 'accept_content')} has {', '.join(executable)}: whoever can write to the broker runs code in "
        "every worker",
        _line(app, accept_content=["json"]),
    )


def no_time_limit(app: Celery) -> Finding | None:
    if app.conf.task_time_limit:
        return None
    return Finding(
        "no-time-limit",
        f"there is no {_name(app, 'task_time_limit')}: a task that hangs has its process for ever, and its job never "
        "ends",
        f"{_line(app, task_time_limit=600, task_soft_time_limit=570)}; a task may have its own",
    )


def no_ends(app: Celery) -> Finding | None:
    """Of the setting alone: a worker says what pool it was started with."""
    if app.conf.worker_pool not in ("threads", "solo"):
        return None
    return Finding(
        "no-ends",
        f"{_name(app, 'worker_pool')} is {app.conf.worker_pool}, which can end no task: time limits do not hold, and a "
        "cancel with terminate waits for the task's code",
        _line(app, worker_pool="prefork"),
    )


def visibility(app: Celery) -> Finding | None:
    conf: Any = app.conf
    timeout, limit = conf.broker_transport_options.get("visibility_timeout", 3600), conf.task_time_limit or 0
    if not _broker(conf).startswith(("redis", "sentinel")) or timeout > limit:
        return None
    return Finding(
        "visibility",
        f"Redis delivers a message again after {timeout:g} s and a task may run for {limit:g} s: tasks that are no "
        "jobs run twice (jobs do not: their lease is renewed)",
        f"{_name(app, 'broker_transport_options')} with a visibility_timeout above task_time_limit and the longest "
        "countdown",
    )


def prefetch(app: Celery) -> Finding | None:
    if app.conf.worker_prefetch_multiplier == 1:
        return None
    return Finding(
        "prefetch",
        f"{_name(app, 'worker_prefetch_multiplier')} is {app.conf.worker_prefetch_multiplier}: jobs wait in the hands "
        "of busy workers",
        _line(app, worker_prefetch_multiplier=1),
    )


def failover(app: Celery) -> Finding | None:
    options: Mapping[str, Any] = app.conf.result_backend_transport_options or {}
    if not (_ledger(app.conf).startswith("sentinel") or options.get("cluster")):
        return None
    kind = "in a Redis Cluster" if options.get("cluster") else "by Sentinel"
    return Finding(
        "failover",
        f"the ledger is {kind}: what its master has confirmed and no copy has yet is lost when the master is",
        "`min-replicas-to-write 1` and a short `min-replicas-max-lag` on each server bound that; nothing ends it",
    )


def old_versions(app: Celery) -> Finding | None:
    """What the installed versions lack, so that nobody learns it from a traceback."""
    lacks = list(lacking(_broker(app.conf)))
    if not lacks:
        return None
    newest = {lack.package: lack.since for lack, _ in sorted(lacks, key=lambda each: each[0].since)}
    wanted = " ".join(f"'{package}>={since}'" for package, since in newest.items())
    return Finding(
        "old-versions",
        "; ".join(f"with {lack.package} {installed}, {lack.what}" for lack, installed in lacks),
        f"pip install {wanted}; or live with it: no job is lost by it",
    )


SEEN_RULES = (no_password, unverified_tls, no_certificate)
SERVER_RULES = (
    no_aof,
    eviction,
    full,
    no_permission,
    no_login,
    cluster,
    unserved_slots,
    *SEEN_RULES,
    no_answer,
    unknown,
)
APP_RULES = (
    *(no_transport, no_results, no_ledger, early_acks, lost_fails, own_acks, no_install, eager, no_confirms),
    *(no_dead_letters, pickle, no_time_limit, no_ends, visibility, prefetch, failover, old_versions),
)


def check(
    app: Celery,
    *,
    servers: bool = True,
    processes: Sequence[str] = PROCESSES,
    environment: Mapping[str, str] = os.environ,
    is_logged: bool = False,
) -> list[Finding]:
    """
    Return what is unsafe or unwise about *app*, what is unsafe first.

    Args:
        app: The Celery app, with its tasks.
        servers: Whether to ask them. This blocks, and for some seconds if one is away.
        processes: Which of them log in with the app's settings.
        environment: Where ALLOW_UNSAFE is read.
        is_logged: Whether to log what is not unsafe, as a warning.

    Raises:
        SettingsError: ALLOW_UNSAFE has an unknown name.
    """
    allowed = _allowed(environment)
    found = [rule(app) for rule in APP_RULES]
    if not any(each and each.name in IMPOSSIBLE for each in found):
        rules = SERVER_RULES if servers else SEEN_RULES
        found = [rule(server) for server in _servers(app, servers, processes) for rule in rules] + found
        found += [other_schema(app), consumer_timeout(app), *of_broker(app, processes)] if servers else []
    findings = [replace(each, allowed=each.name in allowed) for each in found if each is not None]
    for finding in findings:
        if is_logged and not finding.is_unsafe:
            log.warning("%s", finding)
    return sorted(findings, key=lambda each: not each.is_unsafe)


def refuse_unsafe(app: Celery, *processes: str, is_logged: bool = True) -> None:
    """
    Refuse an app that is unsafe; blocks.

    Args:
        app: The Celery app, with its tasks.
        processes: Which it is that starts: "serve", "worker" or "beat".
        is_logged: Whether to log what is not unsafe, as a warning.

    Raises:
        Unsafe: Something is.
        SettingsError: ALLOW_UNSAFE has an unknown name.
    """
    if unsafe := [each for each in check(app, processes=processes, is_logged=is_logged) if each.is_unsafe]:
        raise Unsafe(unsafe)


def refuse_impossible(app: Celery) -> None:
    """
    Refuse an app that could not run, be it by a broker, a result backend or a ledger that makes no sense. Asks nobody.

    Raises:
        Unsafe: It could not.
    """
    if found := [finding for finding in (no_transport(app), no_results(app), no_ledger(app)) if finding]:
        raise Unsafe(found)


class Unsafe(SettingsError):
    """
    An app or its servers are unsafe. The message is for a terminal, and has all of it, with remedies to copy.

    Args:
        findings: What is unsafe.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__(_refusal(findings))
        #: What is unsafe.
        self.findings = findings


def _refusal(unsafe: Sequence[Finding]) -> str:
    lines = ["this is unsafe, so nothing starts:"]
    for finding in unsafe:
        code, where = finding.code
        lines += [f"  {finding.name}: {finding.what}"]
        lines += [f"    remedy, {where}:", f"        {code}"] if code else [f"    remedy: {finding.remedy}"]
    if names := dict.fromkeys(finding.name for finding in unsafe if finding.may_be_allowed):
        lines += [f"To start all the same, in the environment: ALLOW_UNSAFE={','.join(names)}"]
    return "\n".join(lines)


def _allowed(environment: Mapping[str, str]) -> set[str]:
    names = {name.strip() for name in (environment.get("ALLOW_UNSAFE") or "").split(",")} - {""}
    if strangers := sorted(names - {*NAMES}):
        raise SettingsError(f"ALLOW_UNSAFE={','.join(strangers)}: there is only {', '.join(NAMES)}")
    return names


# The servers.


def _servers(app: Celery, are_asked: bool, processes: Sequence[str]) -> list[Server]:
    ledger_url, broker_url = _ledger(app.conf), _broker(app.conf)
    shown = ";".join(map(maybe_sanitize_url, ledger_url.split(";")))  # of Sentinels there may be several
    is_both = ledger_url in (broker_url, app.conf.broker_url)
    client = blocking_client(ledger_backend(app), socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    role = f"Redis ({shown})" if is_both else f"the ledger's Redis ({shown})"
    needs = {process: needs_of(app, process, broker=is_both) for process in processes}
    servers = [_asked(client, role, needs) if are_asked else _seen(client, role)]
    if not is_both and broker_url.startswith(("redis", "sentinel")):
        needs = {process: needs_of(app, process, ledger=False) for process in processes}
        servers.append(
            _broker_server(app, f"the broker's Redis ({maybe_sanitize_url(broker_url)})", needs if are_asked else None)
        )
    return servers


def _broker_server(app: Celery, role: str, needs: Mapping[str, Needs] | None) -> Server:
    connection: Any
    with app.connection_for_write(transport_options=asked_once(app, TIMEOUT)) as connection:
        trouble, is_away = "", False
        try:
            if needs is not None:
                connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
                return _asked(connection.default_channel.client, role, needs)
        except (OperationalError, RedisError, OSError) as exc:
            trouble, is_away = str(exc), _is_away(exc)
        has_password, tls = has_login(connection), _tls(connection.ssl or {})
        found: dict[str, Any] = {"trouble": trouble, "is_away": is_away, "tls": tls}
        is_cluster = bool(connection.transport_options.get("cluster"))
        return Server(role, connection.hostname, has_password, is_cluster=is_cluster, **found)


def _seen(client: Any, role: str) -> Server:
    """Return what the settings say of a server."""
    arguments = client.connection_pool.connection_kwargs
    host = None if "path" in arguments else arguments.get("host")
    has_password = bool(arguments.get("password") or arguments.get("credential_provider"))
    user, is_cluster = arguments.get("username") or "default", "cluster" in arguments
    return Server(role, host, has_password, user=user, is_cluster=is_cluster, tls=_tls(arguments))


def _tls(arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in dict(arguments).items() if name.startswith("ssl_")}


def _asked(client: Any, role: str, needs: Mapping[str, Needs]) -> Server:
    """Return what the settings say of a server, what it answers, and what it does not let each process do."""
    info: dict[str, Any] = {}
    config: dict[str, str] = {}
    state: dict[str, Any] = {}
    lacks: dict[str, str] = {}
    trouble, is_away = "", False
    try:
        if "cluster" in client.connection_pool.connection_kwargs:
            state = client.execute_command("CLUSTER INFO")
        lacks = {process: missing_of(client, each) for process, each in needs.items()}
        info = client.info()
        for name in ("requirepass", "protected-mode", "bind", "port"):  # Redis 6 takes one at a time
            config |= client.config_get(name)
    except (RedisError, OSError) as exc:
        trouble, is_away = str(exc), _is_away(exc)
    finally:
        client.close()
    seen = _seen(client, role)
    found: dict[str, Any] = {"info": info, "config": config, "cluster": state, "lacks": lacks}
    return replace(seen, trouble=trouble, is_away=is_away, **found)


def _is_away(exc: BaseException) -> bool:
    """Return whether nothing has answered, rather than refused."""
    is_refusal = isinstance(exc, ResponseError) or isinstance(exc.__cause__, ResponseError)
    return not (is_refusal or _LOGIN.search(str(exc)) or _UNSERVED.search(str(exc)))


# What an app says of itself.


def _acks_early(task: Any) -> bool:
    return not task.acks_late


def _fails_when_lost(task: Any) -> bool:
    return not task.reject_on_worker_lost or bool(getattr(task, "retry_on_worker_lost", False))


def _of_tasks(app: Celery, name: str, is_unsafe: Callable[[Any], bool], found: str, remedy: str) -> Finding | None:
    """Return what is unsafe about exposed tasks: one that was used before the app's settings were made has its own."""
    names = [each for each, task in own_tasks(app) if is_exposed(task) and is_unsafe(task)]
    if not names:
        return None
    return Finding(
        name,
        f"{_some(names)} {'has' if len(names) == 1 else 'have'} {found}, whatever the app's settings say: a job whose "
        "process is killed ends as a FAILURE",
        f"{remedy} in the task's options; or set the app's settings before its first task is used",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def _name(app: Celery, setting: str) -> str:
    return Spelling.of(app).name(setting)


def _line(app: Celery, **settings: Any) -> str:
    """Return the line that sets *settings*, and where."""
    spelling = Spelling.of(app)
    return f"`{spelling.line(**settings)}` {spelling.where}"


def _ledger(conf: Any) -> str:
    return str(conf.get("job_ledger_url") or conf.result_backend or "")


def _broker(conf: Any) -> str:
    url = conf.broker_write_url or conf.broker_url or "amqp://"
    return str(url if isinstance(url, str) else url[0]).split(";")[0]


def is_loopback(host: str) -> bool:
    """Return whether *host*, which may be spelt as Redis' ``bind`` spells it, is of this machine alone."""
    host = host.removeprefix("-")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
