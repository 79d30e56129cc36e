"""`torch.autograd.grad` inside a recording: torch's engine is passed by, the graph differentiated.

Everything that torch checks before it starts its engine is checked by torch all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.vjp import vjp
from lazytorch.errors import UnsupportedError
from lazytorch.frontend.recorder import Recorder
from lazytorch.frontend.recording import Recording
from lazytorch.frontend.sources import Live
from lazytorch.frontend.tensor import Traced
from lazytorch.ir import Node, postorder
from lazytorch.types import carries


@cache
def wrap_engine() -> None:
    """Stand in the place of torch's engine, for lazy tensors; once, and process-wide as it is."""
    theirs: Any = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def run_backward(
        outputs: Sequence[Any],
        grads: Sequence[Any],
        retain_graph: bool,
        create_graph: bool,
        inputs: Sequence[Any],
        *more: Any,
        **named: Any,
    ) -> Any:
        if not any([isinstance(x, Traced) for x in (*outputs, *inputs)]):
            return theirs(outputs, grads, retain_graph, create_graph, inputs, *more, **named)
        allow_unused = more[0] if more else named.get("allow_unreachable", False)
        recorder = next(x.recorder for x in (*outputs, *inputs) if isinstance(x, Traced))
        if named.get("accumulate_grad"):
            raise UnsupportedError(
                "backward() inside a compiled function is not recorded",
                where=recorder.here(),
                hint="use torch.autograd.grad, lt.grad, or call backward() on the result",
            )
        return gradients(recorder, outputs, grads, create_graph, inputs, allow_unused)

    torch.autograd._engine_run_backward = run_backward  # type: ignore[attr-defined]


def gradients(
    r: Recorder,
    outputs: Sequence[Any],
    grads: Sequence[Any],
    create_graph: bool,
    inputs: Sequence[Any],
    allow_unused: bool,
) -> tuple[torch.Tensor | None, ...]:
    """What torch's engine would return for tensors of a recording."""
    if not all(isinstance(x, torch.Tensor) for x in (*outputs, *inputs)):
        raise UnsupportedError("a gradient edge inside a compiled function", where=r.here())
    r.b.where = r.here()
    if not all(x.requires_grad for x in inputs):
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    cotangents: list[Node | None] = [
        None if g is None or not y.requires_grad else r.read(r.lazy(g))
        for y, g in zip(outputs, grads, strict=True)
    ]
    if isinstance(r, Recording) and r.cuts:
        refuse_cut(r, [r.read(r.lazy(y)) for y in outputs])
    found = vjp(
        [r.read(r.lazy(y)) for y in outputs],
        cotangents,
        [r.read(r.lazy(x)) for x in inputs],
        rule,
    )
    if not allow_unused and any(g is None for g in found):
        raise RuntimeError(
            "One of the differentiated Tensors appears to not have been used in the graph. Set "
            "allow_unused=True if this is the desired behavior."
        )
    if not create_graph:
        found = [None if g is None else r.detached(g) for g in found]
    return tuple([None if g is None else r.fresh(g, create_graph) for g in found])


def refuse_cut(r: Recording, outputs: Sequence[Node]) -> None:
    """What was computed before a cut has lost its history: no gradient rather than a wrong one."""
    for node in postorder(outputs):
        if isinstance(r.sources.get(node), Live) and carries(node.type):
            raise UnsupportedError(
                "a gradient reaches back to before a value decided how Python goes on",
                where=r.here(),
                hint="use lt.grad, which takes such functions, or look at the value elsewhere",
            )
