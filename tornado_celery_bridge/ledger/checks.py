"""
Finds what is unsafe in an app's settings, and in the servers that they name, as these run now.

What is *unsafe* breaks the promise that an accepted job is never lost. No process starts with it, unless its name is in
``ALLOW_UNSAFE``. That is for the operator of the processes to decide, so it is a variable of their environment and not
a setting of the app. What is *unwise* is only logged. So is what can't be found out: a server that is away must not
keep a process from starting.

Each function below is one rule. The servers are asked by ``INFO``, which managed servers answer even if they forbid
``CONFIG``. ``CONFIG`` is only needed to see whether Redis lets the network in.
"""

import ipaddress
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from celery import Celery
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url
from redis.exceptions import RedisError

from tornado_celery_bridge.base.redis import blocking_client
from tornado_celery_bridge.ledger.connection import ledger_backend

log = logging.getLogger(__name__)

#: The names of what is unsafe, which may be allowed.
NAMES = ("no-aof", "eviction", "no-password", "no-install", "early-acks", "lost-fails", "no-confirms", "pickle")

#: Seconds that a server has for an answer.
TIMEOUT = 2


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
        return self.name in NAMES and not self.allowed

    @property
    def verdict(self) -> Literal["unsafe", "allowed", "unwise"]:
        """How bad it is."""
        return "unsafe" if self.is_unsafe else "allowed" if self.allowed else "unwise"

    def __str__(self) -> str:
        text = f"{self.name}: {self.what}. Remedy: {self.remedy}"
        return f"{text}; or ALLOW_UNSAFE={self.name}" if self.is_unsafe else text


def is_installed(app: Celery) -> bool:
    """Return whether *app*'s workers keep the ledger: whether ``worker.install(app)`` was called."""
    return bool(getattr(app.backend, "keeps_the_ledger", False))


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


# Rules for a Redis.


def no_aof(server: Server) -> Finding | None:
    if server.info.get("aof_enabled") != 0:
        return None
    return Finding(
        "no-aof",
        f"{server.role} keeps no append-only file: what it had is lost when it ends",
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


def no_password(server: Server) -> Finding | None:
    """Whoever can reach the server can run tasks and remove jobs."""
    config = server.config
    lets_all_in = config.get("requirepass") == "" and config.get("protected-mode") == "no" and config.get("port") != "0"
    is_open = lets_all_in and not all(map(_is_loopback, config.get("bind", "").split() or ["*"]))
    if not (is_open or (server.host and not server.has_password and not _is_loopback(server.host))):
        return None
    return Finding(
        "no-password",
        f"{server.role} can be reached over the network without a password: whoever does can run tasks and drop jobs",
        "`requirepass`, and the password in its URL; or let it listen on loopback or a Unix socket alone",
    )


def unknown(server: Server) -> Finding | None:
    known = {"aof_enabled", "maxmemory_policy"} <= server.info.keys()
    if known and (server.config or server.has_password or not server.host):
        return None
    unseen = "whether it lets the network in" if known else "whether it keeps jobs over a crash"
    return Finding(
        "unknown",
        f"{server.role} does not say {unseen} ({server.trouble or 'INFO does not have it'})",
        "look at its appendonly, maxmemory-policy and requirepass yourself",
    )


# Rules for settings.


def early_acks(conf: Any) -> Finding | None:
    if conf.task_acks_late:
        return None
    return Finding(
        "early-acks",
        "task_acks_late is off: a job whose process is killed ends as a FAILURE",
        "task_acks_late = True",
    )


def lost_fails(conf: Any) -> Finding | None:
    if conf.task_reject_on_worker_lost and not conf.task_retry_on_worker_lost:
        return None
    return Finding(
        "lost-fails",
        "task_reject_on_worker_lost is off, or task_retry_on_worker_lost on: a job whose process is killed ends as a "
        "FAILURE, at once or when its retries are used up",
        "task_reject_on_worker_lost = True, task_retry_on_worker_lost = False",
    )


def no_confirms(conf: Any) -> Finding | None:
    if not _broker(conf).startswith(("amqp", "pyamqp")) or conf.broker_transport_options.get("confirm_publish"):
        return None
    return Finding(
        "no-confirms",
        "RabbitMQ is not asked to confirm: a message that it lost counts as published",
        'broker_transport_options = {"confirm_publish": True, "confirm_timeout": 2.0}',
    )


def pickle(conf: Any) -> Finding | None:
    accepted = {*conf.accept_content, *(conf.result_accept_content or ())}
    executable = sorted(name for name in accepted if any(word in name for word in ("pickle", "python", "yaml")))
    if not executable:
        return None
    return Finding(
        "pickle",
        f"accept_content has {', '.join(executable)}: whoever can write to the broker runs code in every worker",
        'accept_content = ["json"]',
    )


def no_time_limit(conf: Any) -> Finding | None:
    if conf.task_time_limit:
        return None
    return Finding(
        "no-time-limit",
        "there is no task_time_limit: a task that hangs has its process for ever, and its job never ends",
        "task_time_limit = 600, and task_soft_time_limit below it; a task may have its own",
    )


def visibility(conf: Any) -> Finding | None:
    timeout, limit = conf.broker_transport_options.get("visibility_timeout", 3600), conf.task_time_limit or 0
    if not _broker(conf).startswith(("redis", "sentinel")) or timeout > limit:
        return None
    return Finding(
        "visibility",
        f"Redis delivers a message again after {timeout:g} s and a task may run for {limit:g} s: tasks that are no "
        "jobs run twice (jobs do not: their lease is renewed)",
        "broker_transport_options with a visibility_timeout above task_time_limit and the longest countdown",
    )


def prefetch(conf: Any) -> Finding | None:
    if conf.worker_prefetch_multiplier == 1:
        return None
    return Finding(
        "prefetch",
        f"worker_prefetch_multiplier is {conf.worker_prefetch_multiplier}: jobs wait in the hands of busy workers",
        "worker_prefetch_multiplier = 1",
    )


def failover(conf: Any) -> Finding | None:
    if not _ledger(conf).startswith("sentinel"):
        return None
    return Finding(
        "failover",
        "the ledger is by Sentinel: what its master has confirmed and no copy has yet is lost when the master is",
        "`min-replicas-to-write 1` and a short `min-replicas-max-lag` on each server bound that; nothing ends it",
    )


NO_INSTALL = Finding(
    "no-install",
    "the app's workers would not say what becomes of jobs, nor look for lost ones",
    "beside the app, call tornado_celery_bridge.worker.install(app)",
)
SERVER_RULES = (no_aof, eviction, no_password, unknown)
SETTINGS_RULES = (early_acks, lost_fails, no_confirms, pickle, no_time_limit, visibility, prefetch, failover)


def check(app: Celery, *, installed: bool = True, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """
    Return what is unsafe or unwise about *app*, what is unsafe first. Blocks; for some seconds if a server is away.

    Args:
        app: The Celery app.
        installed: Whether its workers keep the ledger.
        environment: Where ALLOW_UNSAFE is read.

    Raises:
        ImproperlyConfigured: ALLOW_UNSAFE has an unknown name, or the ledger is not a Redis.
    """
    allowed = _allowed(environment)
    found = [rule(server) for server in _servers(app) for rule in SERVER_RULES]
    found += [rule(app.conf) for rule in SETTINGS_RULES]
    if not installed:
        found.append(NO_INSTALL)
    findings = [replace(each, allowed=each.name in allowed) for each in found if each is not None]
    return sorted(findings, key=lambda each: not each.is_unsafe)


def refuse_unsafe(app: Celery) -> None:
    """
    Log what :func:`check` finds in an app whose worker or beat starts, and end the process if it is unsafe.

    Raises:
        SystemExit: Something is unsafe. The status is EX_CONFIG (78): to start it again would not help.
    """
    try:
        findings = check(app)
    except ImproperlyConfigured as exc:
        log.critical("%s", exc)
        raise SystemExit(os.EX_CONFIG) from exc
    for finding in findings:
        log.log(logging.CRITICAL if finding.is_unsafe else logging.WARNING, "%s", finding)
    if any(finding.is_unsafe for finding in findings):
        raise SystemExit(os.EX_CONFIG)


def _allowed(environment: Mapping[str, str]) -> set[str]:
    names = {name.strip() for name in (environment.get("ALLOW_UNSAFE") or "").split(",")} - {""}
    if strangers := sorted(names - {*NAMES}):
        raise ImproperlyConfigured(f"ALLOW_UNSAFE={','.join(strangers)}: there is only {', '.join(NAMES)}")
    return names


# The servers.


def _servers(app: Celery) -> list[Server]:
    ledger_url, broker_url = _ledger(app.conf), _broker(app.conf)
    shown = ";".join(map(maybe_sanitize_url, ledger_url.split(";")))  # of Sentinels there may be several
    is_both = ledger_url in (broker_url, app.conf.broker_url)
    client = blocking_client(ledger_backend(app), socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    servers = [_ask(client, f"Redis ({shown})" if is_both else f"the ledger's Redis ({shown})")]
    if not is_both and broker_url.startswith(("redis", "sentinel")):
        servers.append(_broker_server(app, f"the broker's Redis ({maybe_sanitize_url(broker_url)})"))
    return servers


def _broker_server(app: Celery, role: str) -> Server:
    options = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
    connection: Any
    with app.connection_for_write(transport_options=options) as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
            return _ask(connection.default_channel.client, role)
        except (OperationalError, RedisError, OSError) as exc:
            has_password = bool(connection.password or connection.credential_provider)
            return Server(role, connection.hostname, has_password, trouble=str(exc))


def _ask(client: Any, role: str) -> Server:
    arguments = client.connection_pool.connection_kwargs
    host = None if "path" in arguments else arguments.get("host")
    has_password = bool(arguments.get("password") or arguments.get("credential_provider"))
    info: dict[str, Any] = {}
    config: dict[str, str] = {}
    trouble = ""
    try:
        info = client.info()
        for name in ("requirepass", "protected-mode", "bind", "port"):  # Redis 6 takes one at a time
            config |= client.config_get(name)
    except (RedisError, OSError) as exc:
        trouble = str(exc)
    finally:
        client.close()
    return Server(role, host, has_password, info, config, trouble)


def _ledger(conf: Any) -> str:
    return str(conf.get("job_ledger_url") or conf.result_backend)


def _broker(conf: Any) -> str:
    url = conf.broker_write_url or conf.broker_url or "amqp://"
    return str(url if isinstance(url, str) else url[0]).split(";")[0]


def _is_loopback(host: str) -> bool:
    """Return whether *host*, which may be spelt as Redis' ``bind`` spells it, is of this machine alone."""
    host = host.removeprefix("-")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
