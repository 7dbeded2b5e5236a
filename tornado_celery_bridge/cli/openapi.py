"""``tcb openapi``: the OpenAPI document of an app's tasks."""

import json
from pathlib import Path

import click

from tornado_celery_bridge.cli.deployment import load
from tornado_celery_bridge.cli.options import app
from tornado_celery_bridge.service.process.routes import openapi_of
from tornado_celery_bridge.service.resources.catalogue import Catalogue


@click.command()
@app
@click.argument("file", required=False, type=click.Path(path_type=Path))
def openapi(file: Path | None) -> None:
    """Write the OpenAPI document to FILE, or to standard output. It needs no server."""
    text = json.dumps(openapi_of(Catalogue(load())), ensure_ascii=False, indent=2) + "\n"
    if file is None:
        click.echo(text, nl=False)
        return
    try:
        file.write_text(text, "utf-8")
    except OSError as exc:
        raise click.ClickException(f"cannot write: {exc}") from exc
