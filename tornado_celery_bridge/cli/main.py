"""``tcb serve``: the service; ``check``: is it safe; ``keys``: its API keys; ``openapi``: what it is; ``top``."""

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from celery.exceptions import ImproperlyConfigured

from tornado_celery_bridge.base.app import load_celery_app
from tornado_celery_bridge.base.settings import Settings, SettingsError
from tornado_celery_bridge.cli import doctor as check_command
from tornado_celery_bridge.cli import keys as keys_command
from tornado_celery_bridge.cli import top as top_command
from tornado_celery_bridge.service.http.openapi import make_document
from tornado_celery_bridge.service.process.logs import set_up
from tornado_celery_bridge.service.process.processes import CONFIGURATION_ERROR, run_processes
from tornado_celery_bridge.service.process.server import serve
from tornado_celery_bridge.service.resources.tasks.catalogue import Catalogue


def main() -> int:
    """Do what the command line says; return the exit status."""
    options = _parser().parse_args()
    try:
        return int(options.run(options))
    except (SettingsError, ImproperlyConfigured) as exc:
        print(f"web: {exc}", file=sys.stderr)
        return CONFIGURATION_ERROR


def _serve(options: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    set_up(settings.log_format)
    try:
        return asyncio.run(_run(options, settings))
    except OSError as exc:
        print(f"web: cannot listen: {exc}", file=sys.stderr)
        return CONFIGURATION_ERROR


async def _run(options: argparse.Namespace, settings: Settings) -> int:
    if options.child is None and options.processes > 1:
        return await run_processes(settings, options.processes)
    await serve(settings, reuse_port=options.child is not None, parent=options.child)
    return 0


def _openapi(options: argparse.Namespace) -> int:
    app = load_celery_app(Settings.from_environment().celery_app)
    app.loader.import_default_modules()
    text = json.dumps(make_document(Catalogue(app)), ensure_ascii=False, indent=2) + "\n"
    if options.file is None:
        sys.stdout.write(text)
        return 0
    try:
        options.file.write_text(text, "utf-8")
    except OSError as exc:
        print(f"web: cannot write: {exc}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tcb", description="Jobs over HTTP. Settings: see docs/http.md.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    service = commands.add_parser("serve", help="run the service")
    service.add_argument("--processes", type=_positive, default=1, metavar="N", help="web processes on the one port")
    service.add_argument("--child", type=int, help=argparse.SUPPRESS)
    service.set_defaults(run=_serve)
    check_command.add_parser(commands)
    keys_command.add_parser(commands)
    top_command.add_parser(commands)
    openapi = commands.add_parser("openapi", help="write the OpenAPI document; needs no Redis")
    openapi.add_argument("file", nargs="?", type=Path, metavar="FILE", help="standard output, if there is none")
    openapi.set_defaults(run=_openapi)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 256:
        raise argparse.ArgumentTypeError("should be from 1 to 256")
    return number


if __name__ == "__main__":
    logging.captureWarnings(True)
    sys.exit(main())
