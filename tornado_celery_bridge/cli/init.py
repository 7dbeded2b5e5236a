"""``tcb init``: the files of a new project, which are those in ``template/``."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

SUFFIX = ".txt"  # so that no tool takes the files for modules of this package


@click.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path, file_okay=False))
def init(folder: Path) -> None:
    """
    Write the files of a new project into FOLDER, or into this one: settings, a task, its test and a Procfile.

    It changes no file that is there.
    """
    texts = dict(_texts(files("tornado_celery_bridge.cli").joinpath("template"), Path()))
    if there := [str(path) for path in texts if (folder / path).exists()]:
        raise click.ClickException(f"{folder.absolute()} has {', '.join(there)} already: nothing is written")
    if shadowed := [f"{path.parent}.py" for path in texts if (folder / f"{path.parent}.py").exists()]:
        raise click.ClickException(f"{folder.absolute()} has {shadowed[0]}, which a package of that name would hide")
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
        click.echo(folder / path)
    place = "" if folder == Path() else f"cd {folder} && "
    click.echo(f"\nTo run it:       {place}tcb up", err=True)
    click.echo("To look at it:   tcb check", err=True)
    click.echo("To run its test: python -m pytest (pip install pytest)", err=True)


def _texts(folder: Traversable, path: Path) -> list[tuple[Path, str]]:
    found = []
    for each in sorted(folder.iterdir(), key=lambda each: each.name):
        if each.is_dir():
            found += _texts(each, path / each.name)
        elif each.name.endswith(SUFFIX):
            found.append((path / each.name.removesuffix(SUFFIX), each.read_text("utf-8")))
    return found
