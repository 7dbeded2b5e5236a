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
from tornado_celery_bridge.up.brokers.private import free_port


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
    broker = KINDS[kind](settings.data_dir / kind, int(port or free_port()))
    if not broker.available():
        print(f"broker: there is no server for BROKER={kind} here", file=sys.stderr)
        return os.EX_CONFIG
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    words = [sys.executable, "-I", "-S", str(Path(guardian.__file__))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, text=True, start_new_session=True) as watcher:
        assert watcher.stdin
        try:
            broker.start()
            watcher.stdin.write("".join(f"+{group}\n" for group in broker.groups))
            watcher.stdin.flush()
            print(f"{kind} listens, BROKER_URL={broker.url}", flush=True)
            status: int = broker.wait()
        except RuntimeError as exc:
            print(f"broker: {exc}", file=sys.stderr)
            status = 1
        finally:
            broker.stop()
    return abs(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
