"""
What ``tcb up`` learns of an app, in a process of its own: ``python -m tornado_celery_bridge.cli.survey DESCRIPTOR``.

It reads what it is asked from the environment, writes a JSON object to the file descriptor, and ends with 78 if the app
can't be imported or can't run. So whatever an app does while it is imported, ``tcb up`` goes on.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from celery import Celery
from celery.backends.rpc import RPCBackend
from kombu.utils.url import maybe_sanitize_url

from tornado_celery_bridge.base.app import cause, forget_backend, is_exposed, load_celery_app, own_tasks
from tornado_celery_bridge.base.redis import asked_once, blocking_client
from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.base.spelling import Spelling
from tornado_celery_bridge.cli.trial import Trial, url_of, why_not_sent
from tornado_celery_bridge.ledger.checks import A_REDIS, IMPOSSIBLE, Unsafe, check, is_loopback
from tornado_celery_bridge.ledger.connection import ledger_backend
from tornado_celery_bridge.ledger.destinations import queues_named, routers
from tornado_celery_bridge.schedules.schedules import OURS
from tornado_celery_bridge.transports import TRANSPORTS, depth, transport_of

#: Seconds that an import may take, and that a server has for an answer.
LONGEST_IMPORT, TIMEOUT = 60, 3

#: What is set in the app's place, by the name of the finding.
SETTINGS: dict[str, dict[str, Any]] = {
    "early-acks": {"task_acks_late": True},
    "lost-fails": {"task_reject_on_worker_lost": True},
    "eager": {"task_always_eager": False},
    "no-confirms": {"broker_transport_options": {"confirm_publish": True, "confirm_timeout": 2.0}},
}
INSTALL = "from tornado_celery_bridge.worker import install; install(app)"
REGISTER = "from tornado_celery_bridge.transports import register; register({!r})"

#: Schemes of brokers on this machine, and of those whose URL without a host means this machine.
LOCAL = ("filesystem", "memory", "socket", "sqla+sqlite", "sqlalchemy+sqlite", "redis+socket")
LOCAL_WITHOUT_HOST = (*TRANSPORTS, "sentinel", "mongodb", "stomp")


def survey(app: Celery, *, expose: Sequence[str], starts: Sequence[str], is_allowed: bool) -> dict[str, Any]:
    """
    Return what ``tcb up`` needs to know about an app, which is then as its processes will have it.

    Args:
        app: The app, just loaded.
        expose: Patterns of names of tasks.
        starts: The URLs of the servers that ``tcb up`` starts. They do not run yet.
        is_allowed: Whether servers on other machines may be used.

    Raises:
        SettingsError: Something is unsafe that nobody can mend from outside.
    """
    conf: Any = app.conf
    redis = os.environ["REDIS_URL"]
    spelling = Spelling.of(app)
    own_broker = url_of(conf.get("broker_write_url") or conf.first("broker_url", "broker_host"))
    found = {finding.name: finding for finding in check(app, servers=False, environment={})}
    settings = {key: value for name in found for key, value in SETTINGS.get(name, {}).items()}
    if conf.get("task_retry_on_worker_lost"):
        settings["task_retry_on_worker_lost"] = False
    permanent = dict(settings)
    notes = []
    if no_results := _results_trouble(app, starts, is_allowed):
        os.environ["CELERY_RESULT_BACKEND"] = os.environ["RESULT_BACKEND"] = redis
        forget_backend(app)
        permanent["result_backend"] = A_REDIS
        notes.append(f"Results and the jobs' ledger are in {_place(redis, starts)}: {no_results.rstrip('.')}.")
        settings["job_ledger_url"] = redis
    elif not _is_usable_ledger(app, starts, is_allowed):
        permanent["job_ledger_url"] = A_REDIS
        notes.append(f"The jobs' ledger is in {_place(redis, starts)}: it needs a Redis.")
        settings["job_ledger_url"] = redis
    if conf.beat_scheduler in (None, "celery.beat:PersistentScheduler"):
        settings["beat_scheduler"] = permanent["beat_scheduler"] = OURS
    elif conf.beat_scheduler != OURS:
        notes.append(f"Beat runs {conf.beat_scheduler}, as the app says: schedules over HTTP are not run.")
    if "task_acks_late" in settings:
        notes.append("Every delay() that these processes run is acknowledged after its task has run, and not before.")
    elif early := [name for name, task in own_tasks(app) if not task.acks_late]:
        notes.append(f"Late acknowledgement is set for {_some(early)} as well, which have another setting.")
    transport = None if "no-transport" in found else transport_of(app)
    declared = set(app.amqp.queues)
    already_exposed = {name for name, task in own_tasks(app) if is_exposed(task)}
    trial = Trial(settings=settings, expose=expose)
    try:
        trial.apply(app)
    except Exception as exc:
        raise SettingsError(f"CELERY_APP={os.environ['CELERY_APP']}: {cause(exc)}") from exc
    lines: list[tuple[str, list[str]]] = []
    if permanent:
        lines.append((spelling.where, spelling.block(**permanent)))
    beside = [INSTALL] if "no-install" in found else []
    unsafe = [finding for finding in check(app, environment={}) if finding.is_unsafe]
    if impossible := [finding for finding in unsafe if finding.name in IMPOSSIBLE]:
        raise Unsafe(impossible)
    if transport is not transport_of(app):
        beside.append(REGISTER.format(urlsplit(own_broker).scheme))
    if beside:
        lines.append(("beside the app, after its settings", beside))
    queues = sorted(queues_named(app))
    if set(queues) - declared:
        lines.append(("in the worker's command line", [f"-Q {','.join(queues)}"]))
    exposed = [name for name, task in own_tasks(app) if is_exposed(task)]
    for name, task in own_tasks(app):
        if (name in already_exposed or expose) and (why := why_not_sent(app, task)):
            notes.append(f"{name} is not served: {why}.")
    if any(name not in already_exposed for name in exposed):
        lines.append(("in the options of each task that is served", ["exposed=True"]))
    broker = url_of(conf.broker_read_url)
    return {
        "trial": trial.to_environment(),
        "result_backend": redis if no_results else "",
        "lines": lines,
        "notes": notes,
        "unsafe": [[finding.name, finding.what] for finding in unsafe],
        "queues": queues,
        "routers": list(routers(app)),
        "tasks": [name for name, _ in own_tasks(app)],
        "exposed": exposed,
        "broker": {
            "url": _place(broker, starts),
            "of_the_app": "" if own_broker in (broker, url_of(conf.broker_write_url)) else _shown(own_broker),
            **({} if broker in starts else _ask_broker(app, queues)),
        },
    }


def _place(url: str, starts: Sequence[str]) -> str:
    """Return where a server is, for people."""
    return "the embedded server" if url in starts and url.startswith("redis+socket:") else _shown(url)


def _results_trouble(app: Celery, starts: Sequence[str], is_allowed: bool) -> str:
    """Return why the app's own results can't be used; empty if they can."""
    conf: Any = app.conf
    url = str(conf.result_backend or "")
    try:
        backend: Any = app.backend
    except ValueError:
        return "the URL of the app's own can't be read"
    except Exception as exc:
        return f"the app's own ({_shown(url)}) can't be used: {' '.join(str(exc).split())}"
    if not url or url.startswith("disabled"):
        return "the app has no result backend"
    if isinstance(backend, RPCBackend):
        return "the app's own (rpc) keeps none, and others than the sender can't read them"
    if url.startswith(("cache+memory", "cache")) and "memory" in url:
        return "the app's own are in the memory of one process"
    return _redis_trouble(url, backend, starts, is_allowed) if hasattr(backend, "connparams") else ""


def _is_usable_ledger(app: Celery, starts: Sequence[str], is_allowed: bool) -> bool:
    conf: Any = app.conf
    try:
        backend = ledger_backend(app)
    except Exception:  # it is none
        return False
    url = str(conf.get("job_ledger_url") or conf.result_backend)
    return not _redis_trouble(url, backend, starts, is_allowed)


def _redis_trouble(url: str, backend: Any, starts: Sequence[str], is_allowed: bool) -> str:
    """Return why a Redis of the app's can't be used; empty if it can. One that ``tcb up`` starts can be."""
    if url in starts:
        return ""
    if not (is_allowed or is_local(url)):
        return f"the app's own ({_shown(url)}) are not on this machine, and --yes would use them"
    client = blocking_client(backend, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    try:
        client.ping()
    except Exception as exc:  # of any client's
        return f"the app's own ({_shown(url)}) do not answer: {exc}"
    finally:
        client.close()
    return ""


def _ask_broker(app: Celery, queues: list[str]) -> dict[str, Any]:
    """Return where the broker is, why it does not answer, and how many messages its queues hold."""
    url: Any = app.conf.broker_read_url
    urls = ([url] if isinstance(url, str) else list(url or [])) or ["amqp://"]
    found: dict[str, Any] = {"is_local": all(is_local(each) for one in urls for each in one.split(";"))}
    if urls[0].startswith("memory:"):
        return found | {"trouble": "it keeps messages in the memory of one process"}
    try:
        with app.connection_for_read(connect_timeout=TIMEOUT, transport_options=asked_once(app, TIMEOUT)) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=TIMEOUT)
            counts = {queue: depth(connection, queue) for queue in queues}
    except Exception as exc:  # of any broker's client
        return found | {"trouble": " ".join(str(exc).split()) or type(exc).__name__}
    return found | {"messages": {queue: count for queue, count in counts.items() if count}}


def is_local(url: str) -> bool:
    """Return whether a server is on this machine, as far as its URL says."""
    parts = urlsplit(url)
    if parts.scheme in LOCAL:
        return True
    return is_loopback(parts.hostname) if parts.hostname else parts.scheme in LOCAL_WITHOUT_HOST


def _shown(url: str) -> str:
    return ";".join(map(maybe_sanitize_url, url.split(";")))  # of Sentinels there may be several


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def _too_long(_number: int, frame: FrameType | None) -> NoReturn:
    place = f" ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})" if frame else ""
    raise TimeoutError(f"it was not done after {LONGEST_IMPORT} s{place}")


def main(descriptor: int) -> int:
    """Write what is found to *descriptor*; return the exit status."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST_IMPORT)
    asked = json.loads(os.environ.pop("TCB_SURVEY"))
    try:
        app = load_celery_app(Settings.from_environment().celery_app)
        found = survey(app, **asked)
    except SettingsError as exc:
        print(f"tcb: {exc}", file=sys.stderr)
        return os.EX_CONFIG
    except KeyboardInterrupt:
        return 130  # Ctrl-C, as a shell says it
    with os.fdopen(descriptor, "w") as file:
        json.dump(found, file)
    return 0


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # whatever threads the app has started
