"""``tcb check`` over apps that are spelt in every way, and what is said of one that can't be imported."""

import itertools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from unittest import mock

import pytest
from celery import Celery, _state
from celery.bin.celery import celery as celerys_command

from tornado_celery_bridge.base import versions
from tornado_celery_bridge.base.app import load_celery_app
from tornado_celery_bridge.base.versions import LACKS
from tornado_celery_bridge.cli import doctor
from tornado_celery_bridge.cli.main import main

#: Where nothing listens: `tcb check` asks no server.
URL = "redis://127.0.0.1:1/0"
INSTALL = "from tornado_celery_bridge.worker import install; install(app)"

Check = Callable[..., tuple[int, str, str]]
_numbers = itertools.count()


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Write modules, of which the first has the app, and run `tcb check` over it in their folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("CELERY_APP", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "BROKER_URL", "ALLOW_UNSAFE"):
        monkeypatch.setenv(name, "")

    def run(text: str, *, name: str = "", **modules: str) -> tuple[int, str, str]:
        folder = tmp_path / f"{next(_numbers)}"
        folder.mkdir()
        monkeypatch.syspath_prepend(str(folder))
        own = f"checked{next(_numbers)}"
        for each, code in {own: text, **modules}.items():
            path = folder / f"{each.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(dedent(code))
            sys.modules.pop(each, None)
        monkeypatch.setenv("COLUMNS", "999")
        monkeypatch.setattr(doctor, "WIDEST", 999)
        status = main(["check", "-A", name or own])
        return status, *capsys.readouterr()

    return run


def remedies(said: str) -> dict[str, str]:
    """Return the line of Python of each remedy, by the name of what it is for."""
    found = re.findall(r"^UNSAFE +(\S+) .*\n +remedy, .*:\n +(.*)$", said, re.MULTILINE)
    return dict(found)


#: An app, its module of settings (if it has one) and how early-acks is mended in it. %s is where lines are added.
SPELLINGS = {
    "new names beside the app": (
        f"""
        from celery import Celery
        app = Celery("x", broker="{URL}", backend="{URL}")
        app.conf.update(accept_content=["json"])
        %s
        """,
        "",
        "app.conf.update(task_acks_late=True)",
    ),
    "old names beside the app": (
        f"""
        from celery import Celery
        app = Celery("x", broker="{URL}")
        app.conf.update({{"CELERY_RESULT_BACKEND": "{URL}", "CELERY_ACCEPT_CONTENT": ["json"]}})
        %s
        """,
        "",
        "app.conf.update(CELERY_ACKS_LATE=True)",
    ),
    "a namespace, as Django projects have it": (
        """
        from celery import Celery
        app = Celery("x")
        app.config_from_object("named_settings", namespace="CELERY")
        %s
        """,
        f'CELERY_BROKER_URL = CELERY_RESULT_BACKEND = "{URL}"',
        "CELERY_TASK_ACKS_LATE = True",
    ),
    "a module": (
        """
        from celery import Celery
        app = Celery("x")
        app.config_from_object("named_settings")
        %s
        """,
        f'broker_url = result_backend = "{URL}"',
        "task_acks_late = True",
    ),
    "a module of old names": (
        """
        from celery import Celery
        app = Celery("x")
        app.config_from_object("named_settings")
        %s
        """,
        f'BROKER_URL = CELERY_RESULT_BACKEND = "{URL}"',
        "CELERY_ACKS_LATE = True",
    ),
}


@pytest.mark.parametrize("style", SPELLINGS)
def test_each_remedy_is_a_line_that_mends_it(check: Check, style: str) -> None:
    app, settings, line = SPELLINGS[style]
    modules = {"named_settings": settings} if settings else {}
    status, said, _ = check(app % "", **modules)
    assert status == 1
    found = remedies(said)
    assert list(found) == ["early-acks", "lost-fails", "no-install"]
    assert found["early-acks"] == line
    lines = [found["early-acks"], found["lost-fails"]]
    if settings:
        modules["named_settings"] = "\n".join([settings, *lines])
    place = "\n        ".join([*([] if settings else lines), found["no-install"]])
    status, said, _ = check(app % place, **modules)
    assert (status, remedies(said)) == (0, {}), said


def test_a_dictionary_has_its_spelling_too(check: Check) -> None:
    _, said, _ = check(f"""
        from celery import Celery
        app = Celery("x")
        app.config_from_object({{"broker_url": "{URL}", "result_backend": "{URL}"}})
        """)
    assert remedies(said)["early-acks"] == "'task_acks_late': True,"


SAFE = f"""
        from celery import Celery
        app = Celery("x", broker="{URL}", backend="{URL}")
        app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
        {INSTALL}
"""


def test_no_server_is_asked(check: Check) -> None:
    assert check(SAFE)[0] == 0  # it would be unknown, and tcb doctor says so


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("app.conf.task_always_eager = True", "eager"),
        ("@app.task(shared=False, exposed=True, acks_late=False)\n        def f(): pass", "early-acks"),
        ("@app.task(shared=False, exposed=True, reject_on_worker_lost=False)\n        def f(): pass", "lost-fails"),
        ("app.conf.job_ledger_url = 'memcached://x'", "no-ledger"),
    ],
)
def test_what_the_settings_alone_do_not_show(check: Check, code: str, name: str) -> None:
    status, said, _ = check(f"{SAFE}        {code}\n")
    assert status == 1
    assert [line.split()[1] for line in said.splitlines() if line.startswith("UNSAFE")] == [name]


def test_what_is_served_and_who_runs_the_schedules(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else an app has the shared tasks of each test that ran before.
    celerys = {each for each in vars(_state)["_on_app_finalizers"] if each.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", celerys)
    app = f"{SAFE}        @app.task(shared=False, name='proj.add'%s)\n        def f(): pass\n"
    _, said, _ = check(app % "")
    assert "to serve proj.add, write @app.task(exposed=True) above it\n" in said
    assert "beat has the scheduler celery.beat:PersistentScheduler\n" in said
    assert "app.conf.update(beat_scheduler='tornado_celery_bridge.schedules:Scheduler')\n" in said
    ours = "        app.conf.beat_scheduler = 'tornado_celery_bridge.schedules:Scheduler'\n"
    _, said, _ = check(app % ", exposed=True" + ours)
    assert re.search(r"tasks +1 of \d+ served over HTTP\n", said)
    assert "it runs none of" not in said


def test_a_task_that_was_used_before_the_settings_keeps_its_own(check: Check) -> None:
    status, said, _ = check(f"""
        from celery import Celery
        app = Celery("x", broker="{URL}", backend="{URL}")
        @app.task(shared=False, exposed=True, name="early")
        def f(): pass
        f.delay  # Celery makes the task now
        app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
        {INSTALL}
        """)
    assert status == 1
    assert "early has acks_late = False, whatever the app's settings say" in said
    assert "early-acks" in said
    assert "lost-fails" in said


def test_without_a_result_backend_or_a_ledger(check: Check) -> None:
    status, said, _ = check(f"""
        from celery import Celery
        app = Celery("x", broker="{URL}")
        app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, job_ledger_url="{URL}")
        {INSTALL}
        """)
    assert status == 1
    assert remedies(said) == {"no-results": "app.conf.update(result_backend='redis://localhost:6379/0')"}
    assert "ALLOW_UNSAFE" not in said  # nothing could run


def test_a_result_backend_that_there_is_not(check: Check) -> None:
    _, said, _ = check(f"from celery import Celery\napp = Celery('x', broker='{URL}', backend='no-such-thing://')")
    assert "no-results      the result backend can't be used: No module named 'no-such-thing'\n" in said


@pytest.mark.parametrize(("broker", "remedy"), [("activemq", "register('activemq')"), ("nats", "a broker_url with")])
def test_a_broker_that_nothing_here_can_use(
    check: Check, broker: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = sys.modules["kombu.transport"]
    monkeypatch.delitem(transport.TRANSPORT_ALIASES, "activemq", raising=False)
    monkeypatch.setattr(transport, "_transport_cache", {})
    _, said, _ = check(f"from celery import Celery\napp = Celery('x', broker='{broker}://x', backend='{URL}')")
    assert f"no-transport    the broker can't be used: No such transport: {broker}\n" in said
    assert remedy in said


def test_a_url_that_can_not_be_read_is_said_without_its_password(check: Check) -> None:
    url = "redis://:secret@127.0.0.1:port/0"
    _, said, _ = check(f"from celery import Celery\napp = Celery('x', broker='{url}', backend='{url}')")
    assert "no-transport    the broker can't be used: its URL can't be read: the port and" in said
    assert "no-install " in said  # all at once
    assert "secret" not in said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os\nos.environ['NO_SUCH_KEY']", "the environment variable NO_SUCH_KEY is not set ({}, line 2)"),
        ("import no_such_module", "No module named 'no_such_module' ({}, line 1)"),
        ("x = 1\n1/0", "ZeroDivisionError: division by zero ({}, line 2)"),
        ("import sys\nsys.exit(3)", "it ends the process, with status 3 ({}, line 2)"),
        ("def f(:\n", "SyntaxError: invalid syntax ({}, line 1)"),
        (
            f"from celery import Celery\nCelery(broker='{URL}').connection().ensure_connection(max_retries=1)",
            "OperationalError: Error 111 connecting to 127.0.0.1:1. Connection refused. ({}, line 2)",
        ),
    ],
)
def test_an_app_that_can_not_be_imported_is_one_sentence(check: Check, code: str, said: str) -> None:
    status, _, complaint = check(code)
    name = os.environ["CELERY_APP"]
    (path,) = Path.cwd().rglob(f"{name}.py")
    assert status == os.EX_CONFIG
    expected = f"tcb: CELERY_APP={name}: it can't be imported: {said.format(path.relative_to(Path.cwd()))}\n"
    assert complaint == expected


def test_an_error_within_proj_celery_is_told(check: Check) -> None:
    code = {"packaged__celery": "import no_such_module", "packaged__unused": ""}
    status, _, complaint = check("", name="packaged", **code)
    assert status == os.EX_CONFIG
    assert "no Celery app was found there: No module named 'no_such_module' (" in complaint


def test_settings_that_celery_refuses(check: Check) -> None:
    status, _, complaint = check("""
        from celery import Celery
        app = Celery("x")
        app.conf.update(task_acks_late=True, CELERY_RESULT_BACKEND="redis://")
        """)
    assert status == os.EX_CONFIG
    assert "its settings or tasks can't be read: ImproperlyConfigured: Cannot mix new" in complaint
    assert complaint.count("\n") == 1


def test_something_else_than_a_celery_app(check: Check) -> None:
    status, _, complaint = check("""
        from types import SimpleNamespace
        from celery import Celery
        app = SimpleNamespace(extensions={})
        queue = Celery("x")
        """)
    assert status == os.EX_CONFIG
    name = os.environ["CELERY_APP"]
    assert f"that is no Celery app but a types.SimpleNamespace; did you mean -A {name}:queue?" in complaint
    _, _, complaint = check("""
        from types import SimpleNamespace
        def create_app():
            from celery import Celery
            return SimpleNamespace(extensions={"celery": Celery("x")})
        app = create_app()
        """)
    assert 'write `celery_app = app.extensions["celery"]` there, and name that' in complaint


def test_a_broker_in_the_environment_counts_for_the_check(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", "amqp://elsewhere")
    status, said, _ = check(SAFE)
    assert status == 1
    assert list(remedies(said)) == ["no-confirms", "no-dead-letters"]


@pytest.mark.parametrize("kind", ["BROKER", "RESULT"])
@pytest.mark.parametrize("given", [(), ("first",), ("second",), ("first", "second")], ids=" and ".join)
@pytest.mark.parametrize("loader", ["", ", loader='celery.loaders.default:Loader'"], ids=["", "a loader of its own"])
def test_every_process_reads_the_environment_as_the_command_celery_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, given: tuple[str, ...], loader: str
) -> None:
    """Web, worker, beat, Flower, `check`, `up` and the commands for jobs have their app by `load_celery_app`."""
    variables = {"BROKER": ("BROKER_URL", "CELERY_BROKER_URL"), "RESULT": ("RESULT_BACKEND", "CELERY_RESULT_BACKEND")}
    setting = {"BROKER": "broker_url", "RESULT": "result_backend"}[kind]
    name = f"read{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(
        f"from celery import Celery\napp = Celery('x', broker='memory://app', backend='redis://app'{loader})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    read = []
    for load in (by_the_command_celery, load_celery_app):
        with mock.patch.dict(os.environ):
            for each in itertools.chain(*variables.values()):
                os.environ.pop(each, None)
            for each, url in zip(variables[kind], ("redis://one", "redis://other"), strict=True):
                if ("first" if each == variables[kind][0] else "second") in given:
                    os.environ[each] = url
            sys.modules.pop(name, None)
            read.append(getattr(load(name).conf, setting))
    assert read[0] == read[1]


def by_the_command_celery(name: str) -> Celery:
    """Return the app as the command `celery` of stock Celery has it when it begins to do something."""
    with celerys_command.make_context("celery", ["-A", name, "report"]) as context:
        context.invoked_subcommand = "report"
        assert celerys_command.callback
        celerys_command.callback(**context.params)
        app: Celery = context.obj.app
    return app


def test_what_old_versions_lack_is_told_as_on_the_page(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "versions.md").read_text("utf-8")
    rows = re.findall(r"^\| (\S+) ([\d.]+) \| (.*) \|$", page.partition("| below |")[2], re.MULTILINE)
    assert [(package.lower(), since, what) for package, since, what in rows] == [lack[:3] for lack in LACKS]
    monkeypatch.setattr(versions, "version", {"kombu": "5.4.0", "celery": "5.4.0"}.get)
    apps = [SAFE.replace('broker="redis:', f'broker="{scheme}:') for scheme in ("redis", "amqp", "kafka")]
    said = [" ".join(check(app)[1].split()) for app in apps]  # in lines
    assert [lack.what for lack in LACKS if not any(lack.what in each for each in said)] == []


def test_no_process_finds_its_app_in_another_way() -> None:
    package = Path(doctor.__file__).parent.parent
    found = [path.name for path in package.rglob("*.py") if re.search(r"\bfind_app\b", path.read_text())]
    assert found == ["app.py"]
