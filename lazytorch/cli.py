"""The `lazytorch` command's door: says what to install where its packages are missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exits with a message without the `cli` extra."""
    try:
        import rich
        import typer
    except ModuleNotFoundError as error:
        sys.exit(f"lazytorch: {error}; the command line needs it: pip install 'lazytorch[cli]'")
    del rich, typer
    from lazytorch.commands import app

    app()
