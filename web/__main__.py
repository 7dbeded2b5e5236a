"""``python -m web``: the service."""

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from celery.exceptions import ImproperlyConfigured

from web.catalogue import Catalogue
from web.logs import set_up
from web.openapi import make_document
from web.processes import CONFIGURATION_ERROR, run_processes
from web.server import load_celery_app, serve
from web.settings import Settings, SettingsError


def main() -> int:
    """Run the command, which is to serve if none is named; return the exit status."""
    options = _parser().parse_args()
    set_up()
    try:
        status: int = options.command(options)
        return status
    except (SettingsError, ImproperlyConfigured) as exc:
        print(f"web: {exc}", file=sys.stderr)
        return CONFIGURATION_ERROR
    except OSError as exc:
        print(f"web: {options.failure}: {exc}", file=sys.stderr)
        return 1


def _serve(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    settings = Settings.from_environment()
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
    else:
        options.file.write_text(text, "utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m web", description="Jobs over HTTP. Settings: see docs/http.md.")
    parser.add_argument("--processes", type=_positive, default=1, metavar="N", help="web processes on the one port")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(command=_serve, failure="cannot listen")
    commands = parser.add_subparsers(title="other commands", metavar="COMMAND")
    openapi = commands.add_parser("openapi", help="write the OpenAPI document; needs no Redis")
    openapi.add_argument("file", nargs="?", type=Path, metavar="FILE", help="standard output, if there is none")
    openapi.set_defaults(command=_openapi, failure="cannot write")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 256:
        raise argparse.ArgumentTypeError("should be from 1 to 256")
    return number


if __name__ == "__main__":
    logging.captureWarnings(True)
    sys.exit(main())
