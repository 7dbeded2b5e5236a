"""
The supervisor: ``tcb up``, which is what `make up` runs.

It starts the processes that ``up.project`` names. The servers come first (the embedded one, and a private broker if
BROKER names a kind: see ``up.brokers``), and the others when the servers answer.
It starts a process again that dies or hangs. It ends everything at Ctrl-C or TERM, or if a process cannot run with its
settings. The servers end last, because a worker needs them to put its unfinished jobs back.

The children have sessions of their own. So the terminal's Ctrl-C reaches only the supervisor, which then tells each
child once, in order. Each child has a file of its own in HEARTBEAT_FILE. A child that has touched its file once, and
then does not touch it for STALE seconds, hangs and is killed. (A file works even if every server is away.) A line of
the Procfile is one command. It is exec'ed by ``sh``, so ``$VARIABLES`` work and ``&&`` does not.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tornado_celery_bridge.base.settings import Settings, SettingsError, follow_command_line
from tornado_celery_bridge.up.brokers import KINDS
from tornado_celery_bridge.up.brokers.private import free_port

#: Seconds. A process that died is started again after FIRST_DELAY. If it keeps dying, the delay doubles each time, up
#: to LONGEST_DELAY, counted from its last start. After it was up for STEADY, the delay begins anew.
FIRST_DELAY, LONGEST_DELAY, STEADY = 0.25, 30.0, 60.0

#: Seconds between two checks of a heartbeat, and seconds without a change after which it is stale. They are counted by
#: our own clock, because the file's clock may be set. A worker that gets QUIT stands still for
#: worker_soft_shutdown_timeout, 30 s.
LOOK, STALE = 0.5, 45.0

#: The processes that the others need. They are started first and ended last.
SERVERS = ("redis", "broker")

#: How each process is told to end: signals, each with the seconds before the next one. KILL follows the last.
#: After TERM a worker waits until its running tasks have ended, however long they take. After QUIT it waits for
#: worker_soft_shutdown_timeout (30 s) and then puts their messages back. After a KILL, messages come back only after
#: the visibility timeout. Flower sometimes ignores a TERM.
TERM, QUIT = signal.SIGTERM, signal.SIGQUIT
STEPS = {"worker": [(TERM, 10.0), (QUIT, 35.0)], "flower": [(TERM, 3.0), (TERM, 3.0)]}
OTHER_STEPS = [(TERM, 30.0)]
#: The same at a second Ctrl-C. At its second QUIT a worker gives back what it runs at once. A third Ctrl-C kills the
#: others, which lose nothing by that. Each job of a worker would lose one of its three lives.
HURRIED = {"worker": [(QUIT, 1.0), (QUIT, 20.0)], "flower": [(TERM, 3.0)]}

#: This environment's Python: it need not be on PATH, and another environment's is never run.
PYTHON = shlex.quote(sys.executable)

#: What Celery reads the broker from.
BROKER_VARIABLES = ("BROKER_URL", "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")

#: What is started anew, with --reload, when a file changes.
RELOADED = ("web", "worker", "beat")

Print = Callable[[str, str], None]


def back_off(delay: float, lived: float) -> tuple[float, float]:
    """Return how long to wait before a process that *lived* so long is started again, and the delay after that."""
    if lived > STEADY:
        delay = FIRST_DELAY
    return max(FIRST_DELAY, delay - lived), min(2 * delay, LONGEST_DELAY)


class Guardian:
    """The process that ends our process groups if we are killed: see ``up.guardian``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, lock: int) -> "Guardian":
        script = str(Path(__file__).with_name("guardian.py"))
        words = (sys.executable, "-I", "-S", script)
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*words, stdin=pipe, pass_fds=[lock], start_new_session=True))

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line.encode())

    async def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()


class Child:
    """One line of the Procfile, kept running until told to stop."""

    def __init__(
        self, name: str, command: str, data_dir: Path, guardian: Guardian, print_: Print, give_up: Callable[[], None]
    ) -> None:
        self.name = name
        self._command = command
        self._guardian = guardian
        self._print = print_
        self._give_up = give_up
        self._stopping = asyncio.Event()
        self._awake = asyncio.Event()
        self._over = asyncio.Event()
        self._is_restarted = False
        self._spawning = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._heartbeat = data_dir / f"{name}.heartbeat"
        self._task = asyncio.create_task(self._keep_running())

    async def _keep_running(self) -> None:
        delay, has_run = FIRST_DELAY, False
        while not self._stopping.is_set():
            started = time.monotonic()
            self._over.clear()
            code = await self._run_once()
            self._over.set()
            if self._stopping.is_set():
                break
            if self._is_restarted:
                self._is_restarted, has_run, delay = False, True, FIRST_DELAY
                continue
            if code == os.EX_CONFIG and not has_run:  # later, somebody has edited a setting, and may correct it
                self._print("up", f"{self.name} cannot run with these settings (it says why above); ending everything")
                self._give_up()
                break
            has_run = True
            pause, delay = back_off(delay, time.monotonic() - started)
            self._print("up", f"{self.name} {_ending(code)}; starting it again in {pause:.2f} s")
            self._awake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), pause)

    async def _run_once(self) -> int:
        async with self._spawning:
            if self._stopping.is_set():
                return 0
            self._heartbeat.unlink(missing_ok=True)
            reader, write_end = await _pipe()
            try:
                process = await asyncio.create_subprocess_exec(
                    *("/bin/sh", "-c", f"exec {self._command}"),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=write_end,
                    env=os.environ | {"HEARTBEAT_FILE": str(self._heartbeat)},
                    start_new_session=True,
                )
            finally:
                os.close(write_end)
            self._guardian.watch(process.pid)
            self._process = process
        output = asyncio.create_task(self._relay(reader))
        watch = asyncio.create_task(self._kill_when_stale(process))
        code = await process.wait()
        watch.cancel()
        await _end_group(process.pid)  # children that it leaves behind hold ports, locks and our pipe
        self._heartbeat.unlink(missing_ok=True)
        self._guardian.forget(process.pid)
        self._process = None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(output, 1.0)
        return code

    async def _kill_when_stale(self, process: asyncio.subprocess.Process) -> None:
        seen, since = None, time.monotonic()
        while True:
            await asyncio.sleep(LOOK)
            with contextlib.suppress(FileNotFoundError):
                if (touched := self._heartbeat.stat().st_mtime_ns) != seen:
                    seen, since = touched, time.monotonic()
            if seen is not None and time.monotonic() - since > STALE and not self._stopping.is_set():
                self._print("up", f"{self.name} hangs: no heartbeat for {STALE:g} s; killing it")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                return

    async def _relay(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await reader.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > 65536:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._print(self.name, line.decode("utf-8", "replace"))
        if rest:
            self._print(self.name, rest.decode("utf-8", "replace"))

    async def stop(self, hurry: Sequence[asyncio.Event] = ()) -> None:
        """
        End the process, gently at first, and return when it is gone.

        Args:
            hurry: What has it hurry, and what has it killed unless it is a worker.
        """
        self._stopping.set()
        self._awake.set()
        async with self._spawning:  # after this the process either runs or never will
            pass
        await self._end(self._task, hurry)
        await self._task

    async def restart(self) -> None:
        """End the process as :meth:`stop` does, and start it again; at once if it waits to be started."""
        self._awake.set()
        async with self._spawning:
            pass
        if self._process is not None and not self._stopping.is_set():
            self._is_restarted = True
            await self._end(asyncio.ensure_future(self._over.wait()))

    async def _end(self, gone: "asyncio.Future[Any]", hurry: Sequence[asyncio.Event] = ()) -> None:
        """Signal the process, step by step, until *gone* is done; kill it in the end."""
        never = asyncio.Event()
        hurried, killed = hurry or (never, never)
        if self.name == "worker":
            killed = never
        last = None
        for last, patience in STEPS.get(self.name, OTHER_STEPS):
            self._signal(last)
            if await _is_done(gone, patience, hurried):
                return
            if hurried.is_set():
                break
        steps = HURRIED.get(self.name, []) if hurried.is_set() else []
        for number, patience in steps[1:] if last == QUIT else steps:
            self._signal(number)
            if await _is_done(gone, patience, killed):
                return
            if killed.is_set():
                break
        self._print("up", f"{self.name} does not end; killing it")
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.wait([gone])

    def _signal(self, number: signal.Signals) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


async def _is_done(task: "asyncio.Future[Any]", patience: float, hurried: asyncio.Event) -> bool:
    """Wait until *task* is done, for *patience* seconds at most, or until *hurried* is set."""
    hurry = asyncio.create_task(hurried.wait())
    await asyncio.wait({task, hurry}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    return task.done()


async def _pipe() -> tuple[asyncio.StreamReader, int]:
    # Not asyncio's own stdout=PIPE: with that, wait() waits until the pipe is closed (cpython#119710). A grandchild
    # that survives can hold the pipe open, and a dead worker would not be noticed.
    read_end, write_end = os.pipe()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
    )
    return reader, write_end


async def _end_group(group: int) -> None:
    deadline = time.monotonic() + 2.0  # a zombie that nobody reaps counts as alive, so this wait has an end
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS raises the second for a group of zombies
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-group, os.WNOHANG)[0]:  # noqa: ASYNC222 WNOHANG does not wait
                    pass
            await asyncio.sleep(0.02)


def _adopt_orphans() -> None:
    """
    Become the parent of our children's orphans (on Linux), so that :func:`_end_group` can reap them.

    In a container whose first process reaps nothing, they would stay zombies, and look alive for ever.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


class Plan(NamedTuple):
    """What is run."""

    #: By name.
    commands: Mapping[str, str]
    #: What is said before they start.
    opening: Sequence[str] = ()
    #: Whether web, worker and beat start anew when a file of the project changes.
    reloads: bool = False


async def supervise(plan: Plan, settings: Settings, lock: int, broker_port: int = 0) -> int:
    """
    Run a plan until INT, TERM or HUP. At a second signal what is still ending hurries; a third one kills it, but
    workers, which then take 21 s at most.

    Returns:
        The exit status: 1 if a process cannot run with its settings, which ends all.
    """
    stop, *hurry = signals = [asyncio.Event() for _ in range(3)]
    failed = asyncio.Event()

    def give_up() -> None:
        failed.set()
        stop.set()

    def on_signal() -> None:
        if not stop.is_set():
            print_("up", "ending; once more to hurry")
        if more := [event for event in signals if not event.is_set()]:
            more[0].set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores HUP
            loop.add_signal_handler(number, on_signal)

    commands = plan.commands
    _adopt_orphans()
    print_ = _printer(max(map(len, commands), default=2))
    for line in plan.opening:
        print_("up", line)
    guardian = await Guardian.start(lock)
    children: list[Child] = []
    watching: asyncio.Future[None] = loop.create_future()

    def start(names: Iterable[str]) -> None:
        children.extend(Child(name, commands[name], settings.data_dir, guardian, print_, give_up) for name in names)

    try:
        start(name for name in commands if name in SERVERS)
        if "redis" in commands:
            await _first(stop.wait(), _answers(settings.redis_socket))
        if "broker" in commands:
            await _first(stop.wait(), _listens("127.0.0.1", broker_port))
        if not stop.is_set():
            start(name for name in commands if name not in SERVERS)
            if plan.reloads:
                reloaded = [child for child in children if child.name in RELOADED]
                watching = asyncio.create_task(_reload(reloaded, settings.data_dir, print_))
            if "web" in commands and await _first(_listens(_reachable(settings.bind), settings.port), stop.wait()):
                for line in _banner(settings, "flower" in commands):
                    print_("up", line)
        await stop.wait()
    finally:
        watching.cancel()
        await asyncio.gather(*(child.stop(hurry) for child in children if child.name not in SERVERS))
        await asyncio.gather(*(child.stop() for child in children if child.name in SERVERS))
        await guardian.close()
        print_("up", "all ended")
    return 1 if failed.is_set() else 0


async def _reload(children: Sequence[Child], data_dir: Path, print_: Print) -> None:
    """Start *children* anew whenever a Python file below this folder changes."""
    from watchfiles import PythonFilter, awatch

    here, is_told = Path.cwd(), False
    kind = PythonFilter(ignore_paths=[data_dir])
    # With a first answer after a second, even if nothing has changed, it is known that changes are seen from now on.
    async for changes in awatch(
        here, watch_filter=kind, raise_interrupt=False, rust_timeout=1000, yield_on_timeout=True
    ):
        if not is_told:
            print_("up", "watching the Python files of this folder")
            is_told = True
        if changes:
            names = sorted(path.removeprefix(f"{here}/") for _, path in changes)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            print_("up", f"{names[0]}{more} changed; starting {', '.join(child.name for child in children)} anew")
            await asyncio.gather(*(child.restart() for child in children))


async def _first(awaited: Coroutine[Any, Any, object], other: Coroutine[Any, Any, object]) -> bool:
    """Wait until one of the two is done, and return whether it is *awaited*."""
    tasks = [asyncio.create_task(awaited), asyncio.create_task(other)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    return tasks[0].done() and not tasks[0].cancelled()


async def _answers(path: Path) -> None:
    """Return when the embedded server answers, which is after it has read its append-only file."""
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_unix_connection(str(path))
            with contextlib.closing(writer):
                writer.write(b"PING\r\n")
                if await asyncio.wait_for(reader.readline(), 5.0) == b"+PONG\r\n":
                    return
        await asyncio.sleep(0.05)


async def _listens(host: str, port: int) -> None:
    """Return when a process accepts connections there."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(0.1)


def _reachable(bind: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)


def _banner(settings: Settings, with_flower: bool) -> list[str]:
    host = _reachable(settings.bind)
    web = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    lines = [f"web       {web}   (what it can run: {web}/docs)", f"jobs      tcb run --url {web} TASK --wait"]
    if with_flower:
        lines += [f"Flower    {web}/flower/"]
    return ["", *lines, "stop      Ctrl-C", ""]


def _printer(width: int) -> Print:
    """Return a function that writes a line with the name of its process in front, in colour on a terminal."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    colours: dict[str, int] = {}

    def print_(name: str, line: str) -> None:
        prefix = f"{name:<{width}} | "
        if coloured:
            prefix = f"\033[{colours.setdefault(name, 32 + len(colours) % 5)}m{prefix}\033[0m"
        try:
            sys.stdout.buffer.write(f"{prefix}{line}\n".encode(errors="replace"))
            sys.stdout.buffer.flush()
        except OSError:  # `make up | head`, or the terminal is gone: go on without output
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    return print_


def _lock(data_dir: Path) -> int:
    """Lock DATA_DIR for this supervisor. The lock is on the folder itself, so no lock file can be left behind."""
    descriptor = os.open(data_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(
            f"another `tcb up` runs on {data_dir}; give this one its own, as in: "
            "DATA_DIR=.data2 tcb up --port 8889 --flower-port 5556"
        ) from None
    return descriptor


def _check_port(variable: str, host: str, port: int) -> None:
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen()
    except socket.gaierror as exc:
        raise SettingsError(f"BIND={host} is not an address of this machine: {exc.strerror}") from exc
    except OSError as exc:
        raise SettingsError(
            f"port {port} on {host} cannot be used: {exc.strerror}; set {variable} to another, as in: "
            f"{variable}={port + 1} tcb up"
        ) from exc


#: Makes a plan of the settings, the URLs of the servers that are to be started, and the commands.
Prepare = Callable[[Settings, Sequence[str], Mapping[str, str]], Plan]


def main(commands: Mapping[str, str], prepare: Prepare | None = None, *, reloads: bool = False) -> int:
    """
    Run commands by their names, or what *prepare* makes of them; return the exit status.

    Args:
        commands: By name; `redis` is left out if REDIS_URL is set.
        prepare: What is done before they start.
        reloads: Whether web, worker and beat start anew when a file of the project changes.

    Raises:
        SettingsError: A setting is wrong, a port is taken, or another supervisor runs on DATA_DIR.
    """
    if reloads and find_spec("watchfiles") is None:
        raise SettingsError("--reload needs watchfiles: pip install 'tornado-celery-bridge[service]'")
    settings = Settings.from_environment()
    settings.make_data_dir()
    if settings.port == settings.flower_port:
        raise SettingsError(f"PORT and FLOWER_PORT are both {settings.port}: give each its own")
    servers, broker_port = dict[str, str](), free_port()
    if settings.redis_url:
        commands = {name: command for name, command in commands.items() if name != "redis"}
    elif "redis" in commands:
        os.environ["REDIS_URL"] = f"redis+socket://{settings.redis_socket}?virtual_host=0"
        servers["redis"] = os.environ["REDIS_URL"]
    if settings.broker not in ("", "redis"):
        start = f"{PYTHON} -m tornado_celery_bridge.up.brokers {settings.broker} {broker_port}"
        commands = {"broker": start, **commands}
        servers["broker"] = KINDS[settings.broker](settings.data_dir, broker_port).url
    if settings.broker and (url := servers.get("broker") or os.environ.get("REDIS_URL")):
        for name in BROKER_VARIABLES:  # they come before what the app says
            os.environ[name] = url
    os.environ.pop("BROKER", None)  # for the children it is a broker like any other
    follow_command_line(os.environ)
    lock = _lock(settings.data_dir)
    if "web" in commands:
        _check_port("PORT", settings.bind, settings.port)
    if "flower" in commands:
        _check_port("FLOWER_PORT", "127.0.0.1", settings.flower_port)
    # Each child sees the settings that we checked, finds this environment's Python first, and prints without a buffer.
    os.environ["DATA_DIR"] = str(settings.data_dir)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONUNBUFFERED"] = "1"
    plan = prepare(settings, list(servers.values()), commands) if prepare else Plan(commands)
    return asyncio.run(supervise(plan._replace(reloads=reloads), settings, lock, broker_port))
