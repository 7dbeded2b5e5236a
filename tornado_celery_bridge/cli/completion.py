"""``tcb completion``: what a shell needs to complete the commands, their options and the names of tasks."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """
    Write what SHELL needs to complete tcb's commands, options and tasks.

    \b
    eval "$(tcb completion bash)"                        # in ~/.bashrc
    eval "$(tcb completion zsh)"                         # in ~/.zshrc
    tcb completion fish > ~/.config/fish/completions/tcb.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "tcb", "_TCB_COMPLETE").source())
