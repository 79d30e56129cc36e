"""What became of a compiled function, in plain text: the answer to "what did it do, and why"."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import TYPE_CHECKING

import torch

from lazytorch.errors import Where
from lazytorch.frontend.recording import State
from lazytorch.ir import Const, Graph, Input, Item, Node
from lazytorch.lower.call import TORCH, KernelCall, LibraryCall, Measured
from lazytorch.lower.kernel import describe
from lazytorch.lower.prologue import split
from lazytorch.ops.aten import Aten
from lazytorch.ops.aten_backward import AtenBackward
from lazytorch.ops.foreach import Foreach
from lazytorch.ops.fused import Fused
from lazytorch.options import Options
from lazytorch.passes import why_apart
from lazytorch.runtime.cudagraph import Replayer
from lazytorch.runtime.stage import Stage
from lazytorch.types import OpaqueType, TensorType
from lazytorch.view.memory import memory, mib

if TYPE_CHECKING:
    from lazytorch.compiled import Compiled

LISTED = 8
"""Lines of one list; what is left over is counted."""


def explain(compiled: Compiled) -> str:
    """Stages with operation counts and milliseconds, kernels, what was fused and what was not.

    Of a function that was not called yet it says just that.
    """
    plans = [plan for known in compiled.plans.values() for plan in known]
    if not plans:
        return f"{compiled.name}: nothing is recorded yet; the first call does it"
    lines = [f"{compiled.name}: {count(len(plans), 'plan')}, one for each signature"]
    lines += section("stages: operations before and after, milliseconds", times(compiled))
    if compiled.builds.failed:
        why = compiled.builds.failed.splitlines()[0]
        lines += section("no generated kernels, torch's own run instead", [why])
    for number, plan in enumerate(plans, 1):
        for piece, stage in enumerate(plan.stage.successors(), 1):
            name = f"plan {number}" + (f", piece {piece}" if stage.branches or piece > 1 else "")
            lines += ["", f"{name}: {inputs(stage)}", *of_stage(stage, compiled.options)]
    return "\n".join(lines)


def of_stage(stage: Stage, options: Options) -> Iterator[str]:
    """Everything about one compiled piece."""
    main = split(stage.optimized)[1]
    calls = [*stage.prologue.calls, *stage.main.calls]
    yield from section("generated kernels", kernels(calls))
    library = [*stage.prologue.library, *stage.main.library]
    yield from section("measured, microseconds for a call", measurements([*calls, *library]))
    if isinstance(stage.replay, Replayer):
        yield from section("CUDA graph", [stage.replay.describe()])
    yield from section("fused groups", groups(main))
    yield from section("one launch for equal groups on several tensors", launches(main))
    yield from section("not fused, and why", apart(main))
    refused = {**stage.prologue.refused, **stage.main.refused}
    yield from section(
        "groups without a kernel, which torch's own kernels run",
        [f"{title(node)}: {why}{at([node])}" for node, why in refused.items()],
    )
    yield from section("operations kept as torch's overloads (aten)", overloads(stage.optimized))
    yield from section(f"prologue, run once: {prologue_size(stage)}", prologue(stage))
    yield from section("memory, as planned", memory(stage, options))
    if stage.cut is not None:
        seen = ", ".join(map(repr, stage.branches)) or "none"
        kind = stage.cut.kind.__name__
        yield from section("cut", [f"{kind}() of a tensor at {stage.cut.where}; seen: {seen}"])
    yield from section("backward", backward(stage))
    yield from section("notes", stage.recorded.notes if stage.recorded is not None else [])


# The function as a whole.


def times(compiled: Compiled) -> Iterator[str]:
    """A line for each step of compiling; repetitions are added up."""
    rows: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
    for name, seconds, before, after in compiled.stages:
        if before or seconds:
            rows[name].append((seconds, before, after))
    for name, runs in rows.items():
        seconds, before, after = (sum(column) for column in zip(*runs, strict=True))
        times = f"  in {len(runs)} runs" if len(runs) > 1 else ""
        node = f"{seconds * 1e6 / before:9.1f} us a node" if before else ""
        yield f"{name:16}{before:7} -> {after:<7}{seconds * 1e3:9.1f}{node}{times}"


def inputs(stage: Stage) -> str:
    """What comes in at every call, and how many weights are read."""
    ops = [x.op for x in stage.piece.graph.inputs if isinstance(x.op, Input)]
    arguments = [f"{op.label}: {op.typed}" for op in ops if op.role == "argument"]
    shown = ", ".join(arguments[:4]) + (", ..." if len(arguments) > 4 else "")
    return f"({shown}) and {count(len(ops) - len(arguments), 'parameter or buffer tensor')}"


# One piece.


def kernels(calls: list[KernelCall]) -> Iterator[str]:
    """A line for each kernel: call sites, whether they use it yet, its name."""
    slower = [x for x in calls if x.measured is not None and x.measured.chosen == TORCH]
    sites: dict[str, list[bool]] = defaultdict(list)
    for call in calls:
        if call not in slower:
            sites[call.kernel.name].append(in_use(call))
    if sites:
        ready = sum(all(used) for used in sites.values())
        state = f"{ready} in use, {len(sites) - ready} not yet (torch's kernels stand in)"
        yield f"{len(sites)} for {count(len(calls) - len(slower), 'call site')}: {state}"
    rows = sorted(sites.items(), key=lambda row: -len(row[1]))
    for name, used in rows[:LISTED]:
        yield f"{len(used):4} x {name}" + ("" if all(used) else "  (not in use yet)")
    yield from rest(rows)
    if slower:
        yield f"{len(slower):4} x torch's kernels, measured to be faster than the generated one"


def measurements(calls: Sequence[KernelCall | LibraryCall]) -> Iterator[str]:
    """A line for each operation and what was measured: the time of each way, which one runs."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    for call in calls:
        if call.measured is not None:
            op = call.op
            name = describe(op.body) if isinstance(op, Fused | Foreach) else op.name()
            found[shortened(name), measured_text(call.measured)] += 1
    rows = sorted(found.items(), key=lambda row: -row[1])
    for (name, text), n in rows[:LISTED]:
        yield f"{n:4} x {name}: {text}"
    yield from rest(rows)


def measured_text(measured: Measured) -> str:
    """`generated 3.1, torch 4.2: generated runs`."""
    times = ", ".join(
        f"{way} {seconds * 1e6:.1f}" if isfinite(seconds) else f"{way} not in a CUDA graph"
        for way, seconds in measured.seconds.items()
    )
    kept = " (measured before, and remembered)" if measured.remembered else ""
    return f"{times}: {measured.chosen} runs{kept}"


def in_use(call: KernelCall) -> bool:
    """Whether a call site runs its generated kernel, not torch's kernels in its place."""
    return call.call != call.by_torch


def groups(graph: Graph) -> Iterator[str]:
    """A line for each kind of group: how many, their operations, where the user wrote them."""
    found: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if isinstance(node.op, Fused):
            found[title(node)].append(node)
    rows = sorted(found.items(), key=lambda row: -len(row[1]))
    for text, nodes in rows[:LISTED]:
        yield f"{len(nodes):4} x {shortened(text)}{at(nodes)}"
    yield from rest(rows)


def launches(graph: Graph) -> Iterator[str]:
    """A line for each launch that does the same for several members: how many, what, of what."""
    found = [node for node in graph.nodes if isinstance(node.op, Foreach)]
    for node in found[:LISTED]:
        assert isinstance(node.op, Foreach)
        places = node.op.members(range(len(node.inputs)))
        sizes = [node.inputs[xs[node.op.flat[0]]].type for xs in places]
        least, *_, most = sorted([x.numel for x in sizes if isinstance(x, TensorType)])
        yield (
            f"{node.op.count:4} x {shortened(title(node))}, on {least} to {most} elements"
            f"{at([node])}"
        )
    yield from rest(found)


def title(node: Node) -> str:
    """The operations of a group in order, repeated ones counted."""
    assert isinstance(node.op, Fused | Foreach)
    body = [x.op.name() for x in node.op.body.nodes if not isinstance(x.op, Input | Const)]
    return " ".join(name if n == 1 else f"{name}({n})" for name, n in Counter(body).items())


def apart(graph: Graph) -> Iterator[str]:
    """A line for each reason: which operations stayed apart because of it."""
    reasons: dict[str, list[Node]] = defaultdict(list)
    for node, why in why_apart(graph).items():
        if not node.op.view:
            reasons[why].append(node)
    rows = sorted(reasons.items(), key=lambda row: -len(row[1]))
    for why, nodes in rows[:LISTED]:
        yield f"{len(nodes):4} x {why}: {tally(x.op.name() for x in nodes)}"
    yield from rest(rows)


def overloads(graph: Graph) -> Iterator[str]:
    """How often each overload was kept as it is, and had torch's engine for a derivative."""
    found = Counter(node.op.overload for node in graph.nodes if isinstance(node.op, Aten))
    found.update(
        f"{node.op.overload}, derived by torch's engine"
        for node in graph.nodes
        if isinstance(node.op, AtenBackward)
    )
    rows = found.most_common()
    for overload, n in rows[:LISTED]:
        yield f"{n:4} x {overload}"
    yield from rest(rows)


def prologue(stage: Stage) -> Iterator[str]:
    """What depends on parameters alone: which values are kept between calls."""
    values = split(stage.optimized)[0].outputs
    made: dict[str, list[Node]] = defaultdict(list)
    for node in values:
        source = node.inputs[0] if isinstance(node.op, Item) else node
        made[source.op.name()].append(node)
    rows = sorted(made.items(), key=lambda row: -sum(map(size, row[1])))
    for name, nodes in rows[:LISTED]:
        yield f"{len(nodes):4} x {name:16} {mib(sum(map(size, nodes)))}{at(nodes)}"
    yield from rest(rows)


def prologue_size(stage: Stage) -> str:
    """How much the prologue keeps; values that share memory count once, once they are there."""
    nodes = split(stage.optimized)[0].outputs
    storages: dict[int, int] = {}
    for i, node in enumerate(nodes):
        value = stage.values[i] if stage.values else None
        if isinstance(value, torch.Tensor) and not isinstance(node.type, OpaqueType):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        else:
            storages[~i] = size(node)  # no address is negative
    return f"{count(len(nodes), 'value')}, {mib(sum(storages.values()))}"


def size(node: Node) -> int:
    """Bytes of a value, 0 for what holds no memory of its own."""
    return node.type.nbytes if isinstance(node.type, TensorType | OpaqueType) else 0


def backward(stage: Stage) -> list[str]:
    """Who computes gradients, where there are any."""
    recorded = stage.recorded
    if recorded is None or not any(leaf.requires_grad for leaf in recorded.leaves):
        return []
    trained = sum(requires_grad(source) for source in stage.piece.sources)
    return [
        "torch's own on the saved inputs, not compiled yet"
        f" ({count(trained, 'parameter')} with requires_grad)"
    ]


def requires_grad(source: object) -> bool:
    """Whether an input is a parameter that is trained."""
    if not isinstance(source, State):
        return False
    return bool(getattr(source.slot.store.get(source.slot.name), "requires_grad", False))


# Words.


def section(heading: str, lines: Iterable[str]) -> list[str]:
    """A heading with indented lines; nothing when there are none."""
    listed = list(lines)
    return [f"  {heading}", *(f"    {line}" for line in listed)] if listed else []


def rest(rows: Sequence[object]) -> Iterator[str]:
    """How many rows were left out."""
    if len(rows) > LISTED:
        yield f"     and {len(rows) - LISTED} more kinds"


def at(nodes: list[Node]) -> str:
    """The user's line and the module paths of some nodes, as the end of a line."""
    places = [node.where for node in nodes if node.where is not None]
    if not places:
        return ""
    lines = dict.fromkeys(map(line, places))
    modules = dict.fromkeys(place.module for place in places if place.module)
    text = f"  at {next(iter(lines))}" + (f" and {len(lines) - 1} more" if len(lines) > 1 else "")
    if modules:
        first, *_, last = [*modules, *modules]
        text += f" ({first})" if len(modules) == 1 else f" ({first} ... {last})"
    return text


def line(where: Where) -> str:
    """File and line, the file by its last two parts."""
    return f"{'/'.join(where.file.split('/')[-2:])}:{where.line}"


def tally(names: Iterable[str]) -> str:
    """`53 convolution, 2 max_pool, ...`, the most frequent first."""
    found = Counter(names).most_common()
    shown = ", ".join(f"{n} {name}" for name, n in found[:6])
    return shown + (f", {len(found) - 6} more kinds" if len(found) > 6 else "")


def shortened(text: str) -> str:
    """At most 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."


def count(n: int, noun: str) -> str:
    """`1 plan`, `2 plans`."""
    return f"{n} {noun}" + ("" if n == 1 else "s")
