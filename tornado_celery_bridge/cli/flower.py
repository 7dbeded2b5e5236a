"""``tcb flower``: Flower, with a password."""

import os
import secrets
from importlib.util import find_spec
from pathlib import Path

import click

from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.base.shelf import put_aside, read_all
from tornado_celery_bridge.cli.celery import become_celery, celerys_own, files_ready

USER = "admin"


@celerys_own
def flower(options: tuple[str, ...]) -> None:
    """
    Run Flower on 127.0.0.1, whatever BIND is: its pages can stop workers and show every argument.

    The service shows it to admins, at /flower/. It answers nothing without its password, which is made at the first
    start and kept in DATA_DIR, for its owner alone. All other options are Flower's own: see `celery flower --help`.
    """
    if not find_spec("flower"):
        raise SettingsError("Flower is not installed: pip install 'tornado-celery-bridge[service]'")
    settings = files_ready()
    # In the environment, which ps does not show.
    os.environ["FLOWER_BASIC_AUTH"] = f"{USER}:{password(settings.flower_password_file)}"
    os.environ.setdefault("FLOWER_URL_PREFIX", "flower")  # where the service has it
    words = ["--address=127.0.0.1", f"--port={settings.flower_port}"]
    words += ["--persistent=True", f"--db={settings.data_dir / 'flower'}"]
    words += ["--state_save_interval=30000"]  # milliseconds: a kill -9 loses half a minute of its pages, no job
    os.umask(0o077)  # its pages' data are for nobody else on this machine, whoever may look into DATA_DIR
    if said := put_aside(settings.data_dir / "flower", read_all):
        click.echo(f"tcb: {said}", err=True)
    for kept in settings.data_dir.glob("flower*"):
        if kept.is_file():
            kept.chmod(0o600)
    become_celery(settings, "flower", *words, *options, module="flower_app")


def password(path: Path) -> str:
    """
    Return Flower's password, made now if there is none. To change it, write another one into the file.

    A file that can't be read is put aside.
    """
    try:
        path.chmod(0o600)
        if kept := path.read_text("utf-8").strip():
            return kept
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as exc:
        aside = path.with_name(f"{path.name}.unreadable")
        path.replace(aside)
        click.echo(f"tcb: {path} can't be read ({exc}): it is put aside as {aside.name}, and another is made", err=True)
    made = secrets.token_urlsafe(16)
    part = path.with_name(f"{path.name}.{os.getpid()}")  # written whole or not at all: an empty one would let all in
    part.touch(mode=0o600)
    part.write_text(made + "\n", "utf-8")
    part.replace(path)
    return made
