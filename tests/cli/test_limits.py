"""``tcb limits``: what it prints, what it does, and how it ends."""

from collections.abc import Callable, Iterator

import pytest
from celery import Celery

from tests.schedules.beats import Do
from tests.servers import Database
from tornado_celery_bridge.cli.main import main
from tornado_celery_bridge.ledger import Ledger
from tornado_celery_bridge.ledger.limits import AllLimits
from tornado_celery_bridge.worker import install

#: What the command finds as its app.
current: Celery

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def app(database: Database) -> Iterator[Celery]:
    global current
    current = Celery("command", broker=database.url, backend=database.url, set_as_current=False)
    install(current)
    yield current
    current.close()


@pytest.fixture
def command(app: Celery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("CELERY_APP", "")  # -A sets it

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["limits", "-A", f"{__name__}:current", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def limits_of(app: Celery, do: Do) -> AllLimits:
    ledger = Ledger(app)
    found: AllLimits = do(ledger.limits.all())
    do(ledger.close())
    return found


def test_changing_and_looking(app: Celery, do: Do, command: Command) -> None:
    assert command("task", "t.a", "--max-concurrency", 2, "--max-rate", "10/m")[0] == 0
    assert command("task", "t.a", "--max-rate", "none")[0] == 0, "the other one stays"
    assert command("share", "heavy", "t.a", "t.b", "--max-concurrency", 3)[0] == 0
    assert command("off", "t.b", "--reason", "closed")[0] == 0
    status, out, _ = command("list")
    assert status == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["t.a", "all", "2", "-", "0", "0", "under", "heavy"],
        ["t.b", "all", "-", "-", "0", "0", "off:", "closed"],
        ["heavy", "t.a,", "t.b", "3", "-", "0", "0", "shared"],
    ]
    assert command("on", "t.b")[0] == command("remove", "heavy")[0] == 0
    assert command("task", "t.a", "--max-concurrency", "none")[0] == 0
    assert limits_of(app, do) == AllLimits({}, [])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("task", "t.a"), "nothing to change"),
        (("task", "t.a", "--max-rate", "often"), "10/s, 30/m"),
        (("task", "t.a", "--max-concurrency", "-1"), "not a number"),
        (("off", "t.a"), "--reason"),
        (("remove", "heavy"), "there is no limit"),
    ],
)
def test_what_is_wrong(command: Command, given: tuple[str, ...], says: str) -> None:
    status, _, err = command(*given)
    assert status == 2
    assert says in err


def test_a_task_is_under_one_limit(command: Command) -> None:
    command("share", "heavy", "t.a")
    status, _, err = command("share", "light", "t.b", "t.a")
    assert (status, err) == (2, "tcb: t.a is under the limit heavy, and a task can be under one named limit only\n")
