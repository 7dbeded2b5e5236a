"""``tcb schedules``: what it prints, what it does, and how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery
from celery.schedules import crontab

from tests.schedules.beats import ROOT, Do
from tests.schedules.entries import entry
from tests.servers import Database, free_port
from tornado_celery_bridge.cli.main import main
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.schedules import Schedules
from tornado_celery_bridge.worker import install

#: What the command finds as its app.
current: Celery

REPORT = {"name": "report", "task": "t.report", "crontab": "0 6 * * *", "timezone": "Europe/Paris"}


@pytest.fixture
def app(database: Database) -> Iterator[Celery]:
    global current
    current = Celery("command", broker=database.url, backend=database.url, set_as_current=False)
    current.conf.update(task_default_queue="q", task_create_missing_queues=False, redbeat_key_prefix="my[rb]:")
    current.conf.beat_scheduler = "tornado_celery_bridge.schedules:Scheduler"
    install(current)

    @current.task(name="t.report", shared=False)
    def report(day: str = "") -> None:
        pass

    yield current
    current.close()


@pytest.fixture
def schedules(app: Celery, do: Do) -> Iterator[Schedules]:
    ledger = Ledger(app)
    yield Schedules(ledger, app)
    do(ledger.close())


class Said(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def command(app: Celery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("CELERY_APP", "")  # -A sets it

    def run(*arguments: object) -> Said:
        status = main(["schedules", "-A", f"{__name__}:current", *map(str, arguments)])
        return Said(status, *capsys.readouterr())

    return run


def test_looking(schedules: Schedules, do: Do, command: Command, app: Celery) -> None:
    do(schedules.create(entry(**REPORT, tags=["x"])))
    do(schedules.create(entry(name="poll", task="t.poll", interval=90.0, enabled=False)))
    said = command("list")
    assert (said.status, said.err) == (0, "No beat leads: nothing is run. To start one: tcb beat\n")
    heading, poll, report = said.out.splitlines()
    assert heading.split("  ")[0] == "name"
    assert poll.split() == ["poll", "t.poll", "every", "90", "s", "-", "0", "paused"]
    assert report.startswith("report  t.report  0 6 * * * Europe/Paris  20")
    assert "on" in report

    job_id = command("run", "report").out.strip()
    shown = command("show", "report").out
    assert 'tags      ["x"]\n' in shown
    assert job_id in shown
    assert "run time" in shown

    zones, first, *more = command("next", "report", "-n", 3).out.splitlines()
    assert zones.split() == ["UTC", "Europe/Paris"]
    assert " 06:00:00+0" in first
    assert len(more) == 2

    do(schedules._redis.call("HSET", "{tcb}schedule:poll", "entry", "{", "quarantined", "it is\n\x1b[2Jno more"))
    do(schedules._redis.call("SADD", "{tcb}schedules:quarantined", "poll"))
    assert r"set aside: it is\n\u001b[2Jno more" in command("list").out
    assert command("show", "poll").status == 2


def test_changing(schedules: Schedules, do: Do, command: Command) -> None:
    do(schedules.create(entry(**REPORT)))
    assert command("pause", "report").err == "report is paused.\n"
    assert not do(schedules.get("report")).entry.enabled
    assert command("pause", "report", "--until", "2126-07-01").err == "report is paused until 2126-06-30T22:00:00Z.\n"
    assert "its next run: 20" in command("resume", "report").err
    assert do(schedules.get("report")).next_run < datetime.now(UTC) + timedelta(days=2)
    assert command("delete", "report") == (0, "", "report is deleted.\n")
    for action in ("show", "next", "run", "pause", "resume", "delete"):
        assert command(action, "report") == (1, "", "tcb: there is no schedule entry 'report'\n")


def test_backfill(schedules: Schedules, do: Do, command: Command, app: Celery) -> None:
    do(schedules.create(entry(**REPORT)))
    past = ("backfill", "report", "--since", "2026-03-28", "--until", "2026-03-30T07:00")
    dry = command(*past, "--dry-run")
    slots = ["2026-03-28T05:00:00Z", "2026-03-29T04:00:00Z", "2026-03-30T04:00:00Z"]
    assert [line.split() for line in dry.out.splitlines()] == [["slot", "job"], *([slot, "-"] for slot in slots)]
    assert dry.err == "3 runs would begin: this was a dry run.\n"
    made = command(*past)
    assert made.err == "3 runs begin.\n"
    assert [line.split()[1] for line in made.out.splitlines()[1:]] == [
        run.job_id for run in reversed(do(schedules.runs("report")))
    ]
    assert command(*past).err == "0 runs begin.\n"
    assert command("backfill", "report", "--since", "2000-01-01").status == 2  # more than 1,000
    assert command("backfill", "report", "--since", "yesterday").status == 2
    task = app.tasks.pop("t.report")
    do(schedules.replace(entry(**REPORT, input={"no": 1})))  # by a process that does not know the task
    app.tasks["t.report"] = task
    told = command(*past)
    assert (told.status, "unexpected keyword argument 'no'" in told.err) == (2, True)


def test_a_round_trip_changes_nothing(schedules: Schedules, do: Do, command: Command, tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    do(schedules.create(entry(**REPORT, input={"day": "*:1.5"}, options={"expires": 60}, note="ä: on\n- 07:30")))
    do(schedules.create(entry(name="poll", task="t.poll", interval=90.0, start=soon, jitter=2, overlap="skip")))
    do(schedules.create(entry(name="1", task="t", input=[soon, None], once=soon, enabled=False)))
    before = do(schedules.find()).schedules
    file = tmp_path / "schedules.yaml"
    assert command("export", file).status == 0
    assert command("export").out == file.read_text("utf-8")
    again = command("import", file)
    assert (again.status, again.out) == (0, "")
    assert again.err.splitlines()[-1] == "0 created, 0 changed, 3 unchanged, 0 deleted, 0 left out."
    assert do(schedules.find()).schedules == before

    for one in before:
        do(schedules.delete(one.entry.name))
    assert command("import", file).status == 0
    assert [one.entry for one in do(schedules.find()).schedules] == [one.entry for one in before]


def test_import(schedules: Schedules, do: Do, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "schedules.yaml"
    do(schedules.create(entry(**REPORT)))
    do(schedules.create(entry(name="poll", task="t.report", interval=90.0)))
    do(schedules.create(entry(name="old", task="t.report", interval=90.0)))
    file.write_text(
        """schedules:
- {name: report, task: t.report, crontab: 0 7 * * *, timezone: Europe/Paris}
- {name: poll, task: t.report, interval: 90}
- {name: new, task: t.elsewhere, once: 2126-01-01T00:00:00Z}
- {name: late, task: t.report, once: 2026-01-01T00:00:00Z}
"""
    )
    before = do(schedules.find()).schedules
    dry = command("import", file, "--prune", "--dry-run")
    assert dry.out.splitlines() == [
        "changed   report: crontab",
        "created   new",
        "left out  late: it is never due again",
        "deleted   old",
    ]
    assert dry.err.splitlines() == [
        "new: the app has no task 't.elsewhere'",
        "1 created, 1 changed, 1 unchanged, 1 deleted, 1 left out.",
        "This was a dry run: nothing is written.",
    ]
    assert do(schedules.find()).schedules == before
    real = command("import", file, "--prune")
    assert (real.status, real.out) == (1, dry.out)
    assert [(one.entry.name, one.version) for one in do(schedules.find()).schedules] == [
        ("new", 1),
        ("poll", 1),
        ("report", 2),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("schedules:\n- name: a\n  task: t\n  crontab: 61 * * * *\n", "a: crontab: 61 is not within"),
        ("schedules:\n- name: a\n  task: t\n  interval: 1\n  color: red\n", "a: color: an entry has no such field"),
        ("schedules:\n- {name: a, task: t, interval: 1}\n- {name: a, task: t, interval: 2}\n", "a: name: there are 2"),
        (
            "schedules:\n- {name: a, task: t, interval: 1, options: {queue: x}}\n",
            "a: options.queue: the app has no queue 'x'",
        ),
        ("schedules:\n- {name: a, task: t, once: 2126-01-01}\n", "a: once: this should be a time with its zone"),
        ("schedules:\n- {name: a, task: t.report, interval: 1, input: {no: 1}}\n", "a: input: "),
        ("schedules:\n- text\n", "number 2: entry: this should be an object"),
        ("schedules: {}\n", "'schedules', a list of entries"),
        ("- a\n", "'schedules', a list of entries"),
        ("schedules: [\n", "not YAML"),
        ("schedules: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_of_a_wrong_file_nothing_is_imported(
    schedules: Schedules, do: Do, command: Command, tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "schedules.yaml"
    file.write_text(text.replace("schedules:\n", "schedules:\n- {name: good, task: t, interval: 1}\n"))
    said = command("import", file)
    assert said.status == 2
    assert told in said.err
    assert do(schedules.count()) == 0


def test_from_beat_schedule(schedules: Schedules, do: Do, command: Command, app: Celery) -> None:
    app.conf.beat_schedule = {
        "nightly": {"task": "t.report", "schedule": crontab(hour="3", minute="0"), "args": ("x",)},
        "odd": {"task": "t.report", "schedule": object()},
    }
    said = command("import", "--from-app", f"{__name__}:current")
    assert said.status == 1
    assert "left out  odd: schedule: not one of Celery's own" in said.out
    [nightly] = do(schedules.find()).schedules
    assert (nightly.entry.crontab, nightly.entry.input, nightly.static) == ("0 3 * * *", ["x"], False)
    # Where beat has loaded it, it is there already.
    do(schedules._redis.call("SADD", "{tcb}schedules:static", "-", "nightly"))
    assert "left out  nightly: it is beat_schedule's" in command("import", "--from-app", f"{__name__}:current").out
    assert command("export").out.endswith("schedules: []\n")


#: As celery-redbeat 2.4.2 has written them, by name: the definition, and the time that its last run has.
EVERY = {"__type__": "interval", "every": 90.0, "relative": False}
CRONTAB = {"__type__": "crontab", "minute": 30, "hour": "2,3", "day_of_week": "mon-fri", "day_of_month": "*"}
LAST = {"year": 2026, "month": 11, "day": 25, "hour": 10, "minute": 0, "second": 7, "microsecond": 250000}
REDBEAT: dict[str, dict[str, Any]] = {
    "nightly": {
        "schedule": {**CRONTAB, "month_of_year": "*"},
        "kwargs": {"day": {"__type__": "datetime", **LAST, "timezone": "Europe/Paris"}},
        "options": {"queue": "q", "expires": 60},
    },
    "poll": {"schedule": EVERY, "args": ["x"]},
    "aligned": {"schedule": {**EVERY, "every": 3600.0, "relative": True}},
    "off": {"schedule": EVERY, "enabled": False},
    "rule": {"schedule": {"__type__": "rrule", "freq": 3, "interval": 1, "dtstart": 1793491200, "dtstart_tz": 60.0}},
    "later": {"schedule": EVERY, "options": {"eta": 5}},
    "configured": {"schedule": EVERY},
}


def test_from_redbeat(schedules: Schedules, do: Do, command: Command, database: Database) -> None:
    with database.client() as client:
        for name, fields in REDBEAT.items():
            definition: dict[str, Any] = {
                "name": name,
                "task": "t.report",
                "args": None,
                "kwargs": {},
                "options": {},
                "enabled": True,
            }
            last = {"last_run_at": {"__type__": "datetime", **LAST, "timezone": 0.0}}
            found = {"definition": json.dumps(definition | fields), "meta": json.dumps(last)}
            client.hset(f"my[rb]:{name}", mapping=found)
        client.hset("my[rb]:broken", "definition", "{")
        client.hset("myr:other", "definition", json.dumps({}))
        client.sadd("my[rb]::statics", "configured")
        client.zadd("my[rb]::schedule", {"my[rb]:poll": 1})
    said = command("import", "--from-redbeat")
    assert said.status == 1
    assert [line.partition(": ")[0] for line in said.out.splitlines()] == [
        *("created   aligned", "created   nightly", "created   off", "created   poll"),
        *("left out  broken", "left out  later", "left out  rule"),
    ]
    assert "rule: schedule: there is nothing here that is like RedBeat's rrule" in said.out
    made = {one.entry.name: one for one in do(schedules.find()).schedules}
    nightly = made["nightly"].entry
    assert (nightly.crontab, nightly.timezone) == ("30 2,3 * * mon-fri", "UTC")
    assert nightly.options == {"queue": "q", "expires": 60}
    assert nightly.input == {"day": datetime.fromisoformat("2026-11-25T10:00:07.250+01:00")}
    last_run = datetime.fromisoformat("2026-11-25T10:00:07.250Z")
    poll = made["poll"]
    assert (poll.entry.input, poll.entry.interval, poll.entry.anchor) == (["x"], 90.0, last_run)
    assert poll.next_run is not None
    assert (poll.next_run - last_run) % timedelta(seconds=90) == timedelta(0)
    assert made["aligned"].entry.anchor == datetime.fromtimestamp(0, UTC)
    assert (made["off"].entry.enabled, made["off"].next_run) == (False, None)
    assert "4 unchanged" in command("import", "--from-redbeat").err


def test_where_nothing_is_found_nothing_is_deleted(
    schedules: Schedules, do: Do, command: Command, app: Celery, database: Database
) -> None:
    do(schedules.create(entry(**REPORT)))
    said = command("import", "--from-redbeat", "--prune")
    assert (said.status, said.out) == (1, "")
    assert "has no entry of RedBeat's with the redbeat_key_prefix 'my[rb]:'\n" in said.err
    with database.client() as client:
        client.zadd("theirs::schedule", {"theirs:poll": 1})
    assert "it has 'theirs:': which of them is the app's?" in command("import", "--from-redbeat").err
    said = command("import", "--from-app", f"{__name__}:current", "--prune")
    assert (said.status, "nothing is imported: the beat_schedule of" in said.err) == (1, True)
    assert do(schedules.count()) == 1


def test_all_that_is_wrong_is_said_at_once(schedules: Schedules, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "schedules.yaml"
    file.write_text(
        """schedules:
- {name: a, task: t.report, interval: 0, crontab: 61 * * * *, colour: red, input: {no: 1}}
- {name: late, task: t.report, once: 2026-01-01T00:00:00Z}
"""
    )
    said = command("import", file)
    assert said.status == 2
    lines = said.err.splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == ["late", "a"]
    for told in (
        "colour: an entry has no such field",
        "interval: this should be a number of seconds",
        "crontab: 61 is",
    ):
        assert told in lines[1]


def test_wrong_apps_and_servers(command: Command, app: Celery) -> None:
    assert main(["schedules", "-A", "no.such.app", "list"]) == 78
    assert main(["schedules", "list", "-A", "json:dumps"]) == 78
    assert command().status == command("explode").status == 2
    app.conf.redbeat_redis_url = f"redis://127.0.0.1:{free_port()}/0"
    assert command("import", "--from-redbeat").status == 1
    app.conf.redbeat_redis_url = "sentinel://127.0.0.1"
    assert command("import", "--from-redbeat").status == 78
    global current
    current = Celery("other", broker=app.conf.broker_url, backend=app.conf.result_backend, set_as_current=False)
    said = command("list")
    assert (said.status, "install(app)" in said.err) == (78, True)


def test_without_redis_it_says_so(app: Celery) -> None:
    environment = {"SAMPLE_BROKER": f"redis://127.0.0.1:{free_port()}/0", "PYTHONPATH": str(ROOT)}
    shell = [sys.executable, "-m", "tornado_celery_bridge", "schedules"]
    environment["CELERY_APP"] = "tests.schedules.sample"
    done = subprocess.run(
        [*shell, "list"], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tcb: the job ledger is not reachable")
    assert done.stderr.count("\n") == 1
