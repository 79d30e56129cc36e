"""`torch.autograd.grad` and `backward()` inside a recording: torch's engine is passed by, the graph
differentiated.

Everything that torch checks before it starts its engine is checked by torch all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any, NoReturn

import torch

from lazytorch.autodiff.joint import laid_out_as
from lazytorch.autodiff.rules import rule
from lazytorch.autodiff.transforms import current
from lazytorch.autodiff.vjp import Hooked, vjp
from lazytorch.errors import UnsupportedError
from lazytorch.frontend.modes import recording
from lazytorch.frontend.recording import Recording
from lazytorch.frontend.sources import Live
from lazytorch.frontend.tensor import Traced
from lazytorch.ir import Const, Input, Node, postorder
from lazytorch.ops.layout import Variable
from lazytorch.types import TensorType, carries


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
        r = next(x.recorder for x in (*outputs, *inputs) if isinstance(x, Traced))
        if not all(isinstance(x, torch.Tensor) for x in (*outputs, *inputs)):
            raise UnsupportedError("a gradient edge inside a compiled function", where=r.here())
        r.b.where = r.here()
        assert isinstance(r, Recording)
        if named.get("accumulate_grad"):
            return accumulate(r, outputs, grads, retain_graph, create_graph, inputs)
        found = gradients(r, outputs, grads, create_graph, inputs, allow_unused)
        if not retain_graph:
            spend(r, outputs)
        return found

    torch.autograd._engine_run_backward = run_backward  # type: ignore[attr-defined]


def gradients(
    r: Recording,
    outputs: Sequence[Any],
    grads: Sequence[Any],
    create_graph: bool,
    inputs: Sequence[Any],
    allow_unused: bool,
) -> tuple[torch.Tensor | None, ...]:
    """What torch's engine would return for tensors of a recording."""
    if not all(x.requires_grad for x in inputs):
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    found = pulled(r, outputs, grads, [r.read(r.lazy(x)) for x in inputs], create_graph)
    if not allow_unused and any(g is None for g in found):
        raise RuntimeError(
            "One of the differentiated Tensors appears to not have been used in the graph. Set "
            "allow_unused=True if this is the desired behavior."
        )
    return tuple([None if g is None else r.fresh(g, create_graph) for g in found])


def pulled(
    r: Recording,
    outputs: Sequence[Any],
    grads: Sequence[Any],
    wrt: Sequence[Node],
    create_graph: bool,
) -> list[Node | None]:
    """The cotangents of `wrt`."""
    nodes = [r.read(r.lazy(y)) for y in outputs]
    cotangents: list[Node | None] = [
        None if g is None or not y.requires_grad else r.read(r.lazy(g))
        for y, g in zip(outputs, grads, strict=True)
    ]
    if r.cuts:
        refuse_cut(r, nodes)
    found = vjp(nodes, cotangents, wrt, rule, hooked(r, create_graph))
    r.grads.used = True
    return found if create_graph else [None if g is None else r.detached(g) for g in found]


def spend(r: Recording, outputs: Sequence[Any]) -> None:
    """The history of `outputs` is used up: a second backward pass through it is eager's error."""
    order = postorder([r.read(r.lazy(y)) for y in outputs])
    r.grads.spent |= {x for x in order if not isinstance(x.op, Input | Const)}


def accumulate(
    r: Recording,
    outputs: Sequence[Any],
    grads: Sequence[Any],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Any],
) -> tuple[()]:
    """What `backward()` does: gradients are added to those that the leaves have."""
    leaves = [(x, r.grads.start(r, x)) for x in inputs] or list(reached(r, outputs))
    wrt = [node for _, node in leaves]
    kept = [x for x in r.grads.retained if not any([x is y for y, _ in leaves])]
    found = pulled(r, outputs, grads, [*wrt, *map(r.read, kept)], create_graph)
    for x, g in zip(kept, found[len(wrt) :], strict=True):
        if g is not None:
            add(x, r.fresh(g, create_graph), create_graph)
    for (x, node), g in zip(leaves, found, strict=False):
        if g is None:
            continue
        add(x, r.fresh(laid_out_as(g, node), create_graph), create_graph)
        hooks: Any = getattr(x, "_post_accumulate_grad_hooks", None)
        for hook in list(hooks.values()) if hooks else ():
            with torch.set_grad_enabled(create_graph):
                hook(x)
    if not retain_graph:
        spend(r, outputs)
    return ()


def reached(r: Recording, outputs: Sequence[Any]) -> Iterator[tuple[torch.Tensor, Node]]:
    """The leaves that a backward pass from `outputs` comes to; refused where it would go on."""
    order = set(postorder([r.read(r.lazy(y)) for y in outputs]))
    if r.deriving and any([isinstance(x.op, Variable) for x in order]):
        raise UnsupportedError(
            "backward() of what an enclosing derivative is taken of",
            where=r.here(),
            hint="use torch.autograd.grad or lt.grad inside the function",
        )
    for real, shadow in zip(r.kept, r.shadows.values(), strict=True):
        node = shadow.cell.initial
        if node not in order or not real.requires_grad:
            continue
        if not real.is_leaf:
            refuse("backward() would go on into a graph from outside the compiled function", r)
        yield real, r.grads.start(r, shadow)
    for ref in r.grads.made:
        x = ref()
        assert x is None or x.requires_grad in (True, False)  # asking makes a leaf of it
    for x, node in r.grads.leaves:
        if node in order:
            yield x, node


def refuse(what: str, r: Recording) -> NoReturn:
    """Say that a gradient cannot be accumulated."""
    hint = "use torch.autograd.grad, or call backward() on the compiled function's result"
    raise UnsupportedError(what, where=r.here(), hint=hint)


def add(x: torch.Tensor, g: torch.Tensor, create_graph: bool) -> None:
    """Accumulate into `x.grad`: in place, unless gradients have gradients."""
    old = x.grad
    if old is None:
        x.grad = g
    elif create_graph:
        x.grad = old + g
    else:
        with torch.no_grad():
            old.add_(g)


def hooked(r: Recording, create_graph: bool, outside: bool = True) -> Hooked | None:
    """What hooks make of cotangents: the functions are called on them, and recorded; those of
    tensors `outside` too, where torch's engine will not call them."""
    hooks: dict[Node, list[Any]] = {k: list(v.values()) for k, v in r.grads.hooks.items()}
    for real, shadow in zip(r.kept, r.shadows.values(), strict=True):
        if outside and real._backward_hooks:
            node = r.grads.start(r, shadow)
            hooks[node] = [*real._backward_hooks.values(), *hooks.get(node, [])]
    if not any(hooks.values()):
        return None

    def change(node: Node, g: Node) -> Node:
        for hook in hooks.get(node, ()):
            with (
                nullcontext() if current() is r else recording(r.mode),
                torch.set_grad_enabled(create_graph),
            ):
                made = hook(r.fresh(g if create_graph else r.detached(g), create_graph))
                if made is not None:
                    g = r.read(r.lazy(made))
                    assert isinstance(g.type, TensorType)
                    assert isinstance(node.type, TensorType)
                    if g.type.shape != node.type.shape or g.type.dtype is not node.type.dtype:
                        what = "a hook returned a gradient of another shape or dtype"
                        raise UnsupportedError(what, where=r.here())
        return g

    return change


def refuse_cut(r: Recording, outputs: Sequence[Node]) -> None:
    """What was computed before a cut has lost its history: no gradient rather than a wrong one."""
    for node in postorder(outputs):
        if isinstance(r.sources.get(node), Live) and carries(node.type):
            raise UnsupportedError(
                "a gradient reaches back to before a value decided how Python goes on",
                where=r.here(),
                hint="use lt.grad, which takes such functions, or look at the value elsewhere",
            )
