"""
Run a private broker until TERM or Ctrl-C: ``python -m tornado_celery_bridge.up.brokers KIND [PORT]``.

Its data is in DATA_DIR. The broker ends with this process. If this process is killed, a guardian (``up.guardian``) ends
the broker's process groups.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.up import guardian
from tornado_celery_bridge.up.brokers import KINDS
from tornado_celery_bridge.up.brokers.private import Private, free_port


def choose(server: type[Private]) -> type[Private] | None:
    """Return the class of the server that is started for *server*: itself, or its stand-in; None if neither can be."""
    if server.available():
        return server
    other = server.stand_in
    if other is None or not other.available():
        return None
    print(f"broker: {server.title} can't be had here; in its place runs {other.title}", file=sys.stderr, flush=True)
    return other


def main(kind: str = "", port: str = "") -> int:
    if kind not in KINDS:
        print(f"usage: python -m tornado_celery_bridge.up.brokers {'|'.join(KINDS)} [PORT]", file=sys.stderr)
        return os.EX_USAGE
    try:
        settings = Settings.from_environment()
        settings.make_data_dir()
    except SettingsError as exc:
        print(f"broker: {exc}", file=sys.stderr)
        return os.EX_CONFIG
    server = choose(KINDS[kind])
    if server is None:
        print(f"broker: there is no server for BROKER={kind} here", file=sys.stderr)
        return os.EX_CONFIG
    broker = server(settings.data_dir / kind, int(port or free_port()))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    words = [sys.executable, "-I", "-S", str(Path(guardian.__file__))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, text=True, start_new_session=True) as watcher:
        assert watcher.stdin
        try:
            broker.start()
            watcher.stdin.write("".join(f"+{group}\n" for group in broker.groups))
            watcher.stdin.flush()
            print(f"{broker.title} listens, BROKER_URL={broker.url}", flush=True)
            status: int = broker.wait()
        except RuntimeError as exc:
            print(f"broker: {exc}", file=sys.stderr)
            status = 1
        finally:
            broker.stop()
    return abs(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
