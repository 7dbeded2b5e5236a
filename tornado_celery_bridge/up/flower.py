"""
Flower, with a password: ``python -m tornado_celery_bridge.up.flower``.

Becomes (exec) ``celery flower`` on 127.0.0.1, whatever BIND says: its pages can stop workers and read every argument,
so it is reached through the web process, at /flower/ and for admins, or from this machine. The password is made at the
first start, kept in DATA_DIR for its owner alone, and handed over in the environment, which ``ps`` does not show.
"""

import contextlib
import os
import secrets
import sys
from pathlib import Path

from tornado_celery_bridge.base.settings import Settings, SettingsError

__all__ = ("USER", "password")

USER = "admin"


def password(data_dir: Path) -> str:
    """Return Flower's password, made now if there is none. To change it, write another into the file."""
    path = data_dir / "flower-password"
    with contextlib.suppress(FileNotFoundError):
        path.chmod(0o600)
        if kept := path.read_text("utf-8").strip():
            return kept
    made = secrets.token_urlsafe(16)
    part = data_dir / f"flower-password.{os.getpid()}"  # written whole or not at all: an empty one would let all in
    part.touch(mode=0o600)
    part.write_text(made + "\n", "utf-8")
    part.replace(path)
    return made


def main() -> None:
    try:
        settings = Settings.from_environment()
        settings.make_data_dir()
    except SettingsError as exc:
        sys.exit(f"flower: {exc}")
    os.environ["FLOWER_BASIC_AUTH"] = f"{USER}:{password(settings.data_dir)}"
    words = [sys.executable, "-m", "celery", "-A", settings.celery_app, "flower", "--address=127.0.0.1"]
    words += [f"--port={settings.flower_port}", "--persistent=True", f"--db={settings.data_dir / 'flower'}"]
    os.environ.setdefault("FLOWER_URL_PREFIX", "flower")  # where the service has it
    words += ["--state_save_interval=30000"]  # milliseconds: a kill -9 loses half a minute of its pages, no job
    os.execv(sys.executable, words)


if __name__ == "__main__":
    main()
