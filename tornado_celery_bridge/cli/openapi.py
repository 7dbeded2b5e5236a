"""``tcb openapi``: the OpenAPI document of an app's tasks."""

import json
from pathlib import Path

import click

from tornado_celery_bridge.base.app import load_celery_app
from tornado_celery_bridge.base.settings import Settings
from tornado_celery_bridge.cli.options import app
from tornado_celery_bridge.service.process.routes import openapi_of
from tornado_celery_bridge.service.resources.catalogue import Catalogue


@click.command()
@app
@click.argument("file", required=False, type=click.Path(path_type=Path))
def openapi(file: Path | None) -> None:
    """Write the OpenAPI document to FILE, or to standard output. It needs no server."""
    celery = load_celery_app(Settings.from_environment().celery_app)
    celery.loader.import_default_modules()
    text = json.dumps(openapi_of(Catalogue(celery)), ensure_ascii=False, indent=2) + "\n"
    if file is None:
        click.echo(text, nl=False)
        return
    try:
        file.write_text(text, "utf-8")
    except OSError as exc:
        raise click.ClickException(f"cannot write: {exc}") from exc
