"""The commands behind `lazytorch`: what they are asked, what they print."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from lazytorch.bench.case import Case, MeanSquare
from lazytorch.bench.kernels import Kernel, kernels
from lazytorch.bench.machine import machine, parse_device
from lazytorch.bench.progress import progress
from lazytorch.bench.runs import bench_kernels, bench_models
from lazytorch.bench.shards import Shards
from lazytorch.bench.sides import OURS, check_side, peers
from lazytorch.bench.suites import suite as of_suite
from lazytorch.bench.table import as_json
from lazytorch.compile import compile
from lazytorch.compiled_module import CompiledModule
from lazytorch.devices import device_named
from lazytorch.errors import BudgetError, LazyTorchError
from lazytorch.forecast import largest_batch
from lazytorch.forecast import plan as plan_of
from lazytorch.lower.memory_plan import MemoryPlan, size
from lazytorch.options import refuse_unknown
from lazytorch.types import dtype_named
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
    f32 = "f32"
    bf16 = "bf16"
    f16 = "f16"
    f64 = "f64"


class Suite(StrEnum):
    """What is measured together."""

    cnn = "cnn"
    transformers = "transformers"
    kernels = "kernels"


class Sweep(StrEnum):
    """What a table of plans goes through."""

    batch = "batch"


ROWS = 12
"""Rows of such a table, at most."""

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
        list[str],
        typer.Argument(help="Models of the zoo, or package.module:callable; which of a suite."),
    ] = [],  # noqa: B006  # typer reads it and changes nothing
    batch: Batch = 1,
    dtype: Kind = DType.float32,
    device: Where = "",
    vs: Annotated[str, typer.Option(help="What to compare with, separated by commas.")] = "eager",
    against: Annotated[
        bool, typer.Option("--compare", help="Compare with every peer that is installed.")
    ] = False,
    suite: Annotated[
        Suite | None, typer.Option(help="The models, batches and types of a suite.")
    ] = None,
    freeze: Freeze = False,
    repeats: Annotated[int, typer.Option(min=1, help="Samples of each side.")] = 30,
    start: Annotated[bool, typer.Option(help="Time fresh processes, cold and warm, too.")] = True,
    file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers there too.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for one JSON a case; what is there is kept.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Start no new case after so many minutes.")
    ] = None,
) -> None:
    """Compare how fast and how right models run, and how long and how much memory that takes.

    `lazytorch-freeze` (`--freeze`) keeps folded and packed copies of weights, whatever they take.

    `ms` is the median of interleaved samples, ± half the distance between their quartiles; `speed`
    is eager's time by the side's; `best` is the best peer's time by the side's, round by round, and
    the lower end of that number's 95 % interval. `first` and `full` are seconds from a built model
    to its first result and to its first call at full speed, in a fresh process with empty
    caches/with filled ones. `MiB` is the peak of memory beside weights and inputs: what compiling
    keeps and what one call adds. `error` is the distance from a float64 run; `right` says whether
    it keeps the accuracy rule: at most twice eager's, three times in 16-bit types.

    `--compare` adds `lazytorch-freeze` and the peers: torch.compile, on a GPU with CUDA graphs too,
    each also with frozen weights; on the CPU ONNX Runtime and OpenVINO; JAX where a model of its
    own matches (ResNets, BERT). One that is not installed or fails is listed with the reason.
    `max-autotune` runs only where `--vs` names it, because it can take longer than all others
    together; it has four minutes, in a process of its own.

    `--suite` is `cnn`, `transformers` or `kernels`: generated kernels against a copy of as many
    bytes. With `--out`, a run goes on where another one on the same machine and sources stopped.
    """
    with told():
        where = parse_device(device)
        shards = Shards(out, minutes)
        if suite is Suite.kernels:
            right = [x.right for x in bench_kernels(named_kernels(models), where, repeats, shards)]
        else:
            cases = chosen(models, suite, Case("", batch, dtype_named(dtype), where))
            found = bench_models(cases, sides(vs, where, against, freeze), repeats, start, shards)
            right = [one.right for one in found]
            if file is not None:
                text = json.dumps(as_json(found, machine(where)), indent=1)
                file.write_text(text + "\n", encoding="utf-8")
    if not all(right):
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
        compiled = called(Case(model, batch, dtype_named(dtype), parse_device(device)), freeze)
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
        compiled = called(Case(model, batch, dtype_named(dtype), parse_device(device)), freeze)
        typer.echo(compiled.explain())


@app.command()
def plan(
    model: ModelName,
    batch: Batch = 1,
    dtype: Kind = DType.float32,
    device: Annotated[
        str, typer.Option(help="A GPU by name (h200, l4, ...), which need not be here; or cpu.")
    ] = "cpu",
    train: Annotated[bool, typer.Option("--train", help="A training step, not a call.")] = False,
    optimizer: Annotated[str, typer.Option(help="The step's optimizer, of torch.optim.")] = "adamw",
    amp: Annotated[
        DType | None, typer.Option(help="The type of an autocast region around the model.")
    ] = None,
    max_bytes: Annotated[
        str,
        typer.Option(
            "--max-bytes",
            help="A limit, such as 20GB; exits with 1 above it. A step computes again what it "
            "must.",
        ),
    ] = "",
    offload: Annotated[
        bool,
        typer.Option("--offload", help="Values may wait in the host's memory, within --max-bytes."),
    ] = False,
    sweep: Annotated[
        Sweep | None, typer.Option(help="A table: twice the batch until it does not fit.")
    ] = None,
    freeze: Freeze = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="An .html file for the timeline.")
    ] = None,
) -> None:
    """Say how much memory a model takes before anything runs, and at which batch it stops to fit.

    Nothing is computed and no parameter is made, so it works for GPUs that are not here. With
    `--train` the loss is the mean square of what the model returns.
    """
    with told():
        case = Case(model, batch, dtype_named(dtype))
        limit = bytes_of(max_bytes) if max_bytes else device_named(device).memory
        bound = limit if train and max_bytes else None
        make = planner(case, device, train, optimizer, amp, freeze, bound, offload)
        with progress() as tell:
            tell(f"planning {model}")
            found = make(batch)
            rows = [*swept(make, batch, limit)] if sweep is not None else []
            most = largest_batch(functools.partial(least, make), limit, batch) if limit else None
        typer.echo(str(found))
        for row in rows:
            typer.echo(row)
        if most is not None and limit is not None:
            typer.echo(f"the largest batch found to fit in {size(limit)}: {most}")
        if output is not None:
            Console().print(f"wrote {draw(found, output)}", soft_wrap=True)
    if max_bytes and limit is not None and found.needed_bytes > limit:
        raise typer.Exit(1)


def planner(
    case: Case,
    device: str,
    train: bool,
    optimizer: str,
    amp: DType | None,
    freeze: bool,
    bound: int | None = None,
    offload: bool = False,
) -> Callable[[int], MemoryPlan]:
    """What plans a case at a batch size, each plan once; BudgetError where it exceeds `bound`."""
    built = case.without_memory(train)
    known: dict[str, Callable[..., torch.optim.Optimizer]] = {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    refuse_unknown([optimizer], known, "torch.optim has")

    @functools.cache
    def make(batch: int) -> MemoryPlan:
        return plan_of(
            MeanSquare(built.module) if train else built.module,
            built.args,
            device=device,
            kwargs=built.kwargs,
            batch=batch,
            optimizer=known[optimizer] if train else None,
            amp=None if amp is None else dtype_named(amp),
            freeze=freeze,
            max_bytes=bound,
            offload=offload,
        )

    return make


def least(make: Callable[[int], MemoryPlan], batch: int) -> int:
    """The bytes of a plan, or those that are the least where it is refused."""
    try:
        return make(batch).needed_bytes
    except BudgetError as error:
        return error.smallest


def swept(make: Callable[[int], MemoryPlan], batch: int, limit: int | None) -> Iterable[str]:
    """A table's rows: plans of twice the batch each, as far as they fit."""
    yield f"{'batch':>8} {'needed':>12} {'of a call':>12}"
    for k in range(ROWS):
        try:
            found = make(batch << k)
        except BudgetError as error:
            yield f"{batch << k:8} {size(error.smallest):>12} at least"
            break
        yield f"{batch << k:8} {size(found.needed_bytes):>12} {size(found.activations):>12}"
        if limit is not None and found.needed_bytes > limit:
            break


def bytes_of(text: str) -> int:
    """`20GB`, `16 GiB`, `5e9` as bytes; LazyTorchError for anything else."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
             "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
    number = text.strip().upper().rstrip("KMGTIB ")
    unit = text.strip().upper()[len(number) :].strip()
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError) as error:
        raise LazyTorchError(f"not a number of bytes: {text!r}", hint="such as 20GB") from error


def sides(vs: str, device: torch.device, against: bool, freeze: bool) -> list[str]:
    """The names of the sides that are asked for; LazyTorchError for one that there is not."""
    others = peers(device) if against else []
    ours = OURS if freeze or against else OURS[:1]
    names = list(dict.fromkeys([*filter(None, vs.split(",")), *others, *ours]))
    for name in names:
        check_side(name)
    return names


def chosen(models: list[str], suite: Suite | None, like: Case) -> list[Case]:
    """The cases that are asked for: models as one case is, or those of a suite."""
    if suite is None:
        cases = [replace(like, model=model) for model in models]
    else:
        every = of_suite(suite, like.device)
        known = dict.fromkeys(case.model for case in every)
        refuse_unknown(models, known, f"the suite {suite} has")
        cases = [case for case in every if not models or case.model in models]
    if not cases:
        raise LazyTorchError("nothing to measure", hint="name models, or a --suite")
    for case in cases:
        case.check()
    return cases


def named_kernels(names: list[str]) -> list[Kernel]:
    """Kernels by name, all where none is named."""
    known = kernels()
    refuse_unknown(names, known, "the suite kernels has")
    return [known[name] for name in names or known]


def called(case: Case, freeze: bool) -> CompiledModule:
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
def told() -> Generator[None]:
    """An error of ours is a message, not a traceback."""
    try:
        yield
    except LazyTorchError as error:
        Console(stderr=True).print("[bold red]error:[/] ", end="")
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
