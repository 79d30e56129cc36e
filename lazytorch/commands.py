"""The commands behind `lazytorch`: what they are asked, what they print."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lazytorch.bench.case import Case
from lazytorch.bench.compare import Comparison, compare
from lazytorch.bench.machine import machine, parse_device
from lazytorch.bench.sides import check_side
from lazytorch.bench.start import starts
from lazytorch.bench.table import as_json, table
from lazytorch.compile import compile
from lazytorch.compiled import Compiled
from lazytorch.errors import LazyTorchError
from lazytorch.view import explain as words
from lazytorch.view import view as draw

app = typer.Typer(
    help="A lazy graph compiler for PyTorch: measure, draw and explain models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # which flows paragraphs to the terminal's width
)


class DType(StrEnum):
    """What a model may be run in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


ModelName = Annotated[
    str, typer.Argument(help="A model of the zoo (resnet50, bert, ...) or package.module:callable.")
]
Batch = Annotated[int, typer.Option(min=1, help="Samples in one call.")]
Kind = Annotated[DType, typer.Option(help="Type of the weights and of floating inputs.")]
Where = Annotated[
    str, typer.Option(help="cpu, cuda, a GPU's number; the best there is if left out.")
]
Freeze = Annotated[
    bool, typer.Option("--freeze", help="Fold and pack weights, whatever memory the copies take.")
]


@app.command()
def bench(
    models: Annotated[
        list[str], typer.Argument(help="Models of the zoo, or package.module:callable.")
    ],
    batch: Batch = 1,
    dtype: Kind = DType.float32,
    device: Where = "",
    vs: Annotated[str, typer.Option(help="What to compare with, separated by commas.")] = "eager",
    freeze: Freeze = False,
    repeats: Annotated[int, typer.Option(min=1, help="Samples of each side.")] = 30,
    start: Annotated[bool, typer.Option(help="Time fresh processes, cold and warm, too.")] = True,
    file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers there too.")
    ] = None,
) -> None:
    """Compare how fast and how right models run, and how long and how much memory that takes.

    `lazytorch-freeze` (`--freeze`) keeps folded and packed copies of weights, whatever they take.

    `ms` is the median of interleaved samples, ± half the distance between their quartiles; `speed`
    is eager's time by the side's. `first` and `full` are seconds from a built model to its first
    result and to its first call at full speed, in a fresh process with empty caches/with filled
    ones. `MiB` is the peak of memory beside weights and inputs: what compiling keeps and what one
    call adds. `error` is the distance from a float64 run; `right` says whether it keeps the
    accuracy rule: at most twice eager's, three times in 16-bit types.
    """
    with told():
        where = parse_device(device)
        names = list(dict.fromkeys([*filter(None, vs.split(",")), "lazytorch"]))
        names += ["lazytorch-freeze"] if freeze and "lazytorch-freeze" not in names else []
        for name in names:
            check_side(name)
        cases = [Case(model, batch, getattr(torch, dtype), where) for model in models]
        found: list[Comparison] = []
        for case in cases:
            case.check()
        with progress() as tell:
            for case in cases:
                found.append(measured(case, names, repeats, start, tell))
        about = machine(where)
        console = Console()
        for one in found:
            console.print(table(one))
        console.print(", ".join(f"{name} {value}" for name, value in about.items()), style="dim")
        if file is not None:
            file.write_text(json.dumps(as_json(found, about), indent=1) + "\n", encoding="utf-8")
    if any(not side.right for one in found for side in one.sides.values()):
        raise typer.Exit(1)


@app.command()
def view(
    model: ModelName,
    output: Annotated[Path, typer.Option("--output", "-o", help="An .html, .svg or .dot file.")],
    batch: Batch = 1,
    dtype: Kind = DType.float32,
    device: Where = "",
    freeze: Freeze = False,
) -> None:
    """Draw a model's graph, as it was recorded and as it runs."""
    with told():
        compiled = called(Case(model, batch, getattr(torch, dtype), parse_device(device)), freeze)
        Console().print(f"wrote {draw(compiled, output)}", soft_wrap=True)


@app.command()
def explain(
    model: ModelName,
    batch: Batch = 1,
    dtype: Kind = DType.float32,
    device: Where = "",
    freeze: Freeze = False,
) -> None:
    """Say what compiling a model did: stages, kernels, what was fused, what was not and why."""
    with told():
        compiled = called(Case(model, batch, getattr(torch, dtype), parse_device(device)), freeze)
        typer.echo(words(compiled))


def measured(
    case: Case, names: list[str], repeats: int, start: bool, tell: Callable[[str], None]
) -> Comparison:
    """One model's comparison, with fresh processes where they are asked for."""

    def about(text: str) -> None:
        tell(f"{case.model}: {text}")

    # Fresh processes first: they have the machine's memory for themselves.
    started = {name: starts(case, name, about) for name in ("eager", *names)} if start else {}
    found = compare(case, names, repeats, about)
    sides = {name: replace(side, start=started.get(name)) for name, side in found.sides.items()}
    return replace(found, sides=sides)


def called(case: Case, freeze: bool) -> Compiled:
    """A model, compiled by one call, with every kernel in use."""
    with progress() as tell, torch.no_grad():
        tell(f"building {case.model}")
        model = case.build()
        compiled = compile(model.module, freeze=freeze)
        tell(f"compiling {case.model}")
        compiled(*model.args, **model.kwargs)
        compiled.wait()
    return compiled


@contextmanager
def progress() -> Generator[Callable[[str], None]]:
    """A line that says what is going on and for how long, gone at the end."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("")

        def tell(text: str) -> None:
            shown.update(task, description=text)

        yield tell


@contextmanager
def told() -> Generator[None]:
    """An error of ours is a message, not a traceback."""
    try:
        yield
    except LazyTorchError as error:
        Console(stderr=True).print("[bold red]error:[/] ", end="")
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
