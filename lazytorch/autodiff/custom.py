"""`torch.autograd.Function` inside a recording: forward and backward are the user's, recorded.

The forward is recorded without gradients; its results then go through one `Custom` node, whose rule
calls the user's backward, recorded where a derivative asks for it: straight-through estimators,
gradient reversal and scaled gradients mean what they mean in eager.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lazytorch.autodiff.transforms import current
from lazytorch.autodiff.vjp import zeros
from lazytorch.errors import UnsupportedError
from lazytorch.frontend.modes import recording
from lazytorch.frontend.recorder import Recorder
from lazytorch.frontend.recording import Recording
from lazytorch.frontend.tensor import LazyTensor, Traced
from lazytorch.ir import Item, Node
from lazytorch.op import Callback
from lazytorch.ops.calculus import Calculus, tensor
from lazytorch.ops.custom import Custom, once

Function = torch.autograd.Function


@cache
def wrap_functions() -> None:
    """Stand in the place of `Function.apply`, while recording; once, and process-wide as it is."""
    theirs: Any = vars(Function)["apply"].__func__

    def apply(kind: type[Function], *args: Any, **kwargs: Any) -> Any:
        r = current()
        needed = any([isinstance(x, torch.Tensor) and x.requires_grad for x in args])
        if isinstance(r, Recording) and needed and torch.is_grad_enabled():
            return called(r, kind, args, kwargs)
        return theirs(kind, *args, **kwargs)

    Function.apply = classmethod(apply)  # type: ignore[assignment]


class Context:
    """What forward, setup_context and backward see as `ctx`: torch's own surface."""

    def __init__(self, r: Recorder, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self._r = r
        self._saved: list[tuple[Node, bool] | None] = []
        self._constant: set[int] = set()
        self._dirty: list[Any] = []
        self._zeros = True
        self._values: dict[Node, Node] = {}

    def save_for_backward(self, *tensors: torch.Tensor | None) -> None:
        """Keep tensors as they are now."""
        self._saved = [
            None if x is None else (self._r.read(self._r.lazy(x)), x.requires_grad) for x in tensors
        ]

    @property
    def saved_tensors(self) -> tuple[torch.Tensor | None, ...]:
        """What was kept; a result of the forward carries its gradients."""
        made: list[torch.Tensor | None] = []
        for entry in self._saved:
            if entry is None:
                made.append(None)
                continue
            node, flag = entry
            result = self._values.get(node)
            made.append(self._r.fresh(result or node, flag or result is not None))
        return tuple(made)

    @property
    def saved_variables(self) -> tuple[torch.Tensor | None, ...]:
        """The same by its old name."""
        return self.saved_tensors

    def save_for_forward(self, *tensors: torch.Tensor | None) -> None:
        """For torch's forward mode, which is not used here."""

    def mark_dirty(self, *tensors: torch.Tensor) -> None:
        """These arguments were written in place."""
        self._dirty = list(tensors)

    def mark_non_differentiable(self, *tensors: torch.Tensor) -> None:
        """These results carry no gradients."""
        self._constant = {id(x) for x in tensors}

    def set_materialize_grads(self, value: bool) -> None:
        """Whether cotangents that are zero come as tensors, not as None."""
        self._zeros = value


class UserFunction(Callback):
    """One application of a user's function."""

    def __init__(
        self, kind: type[Function], ctx: Context, r: Recording, places: Sequence[int | None]
    ) -> None:
        self.name = kind.__qualname__
        self.kind = kind
        self.ctx = ctx
        self.r = r
        self.places = places  # of the outputs, among the values; None for what is no tensor
        self.arguments: list[int] = []  # the positions of tensors among the arguments
        self.before = OrderedDict[int, Callable[..., Any]]()
        self.after = OrderedDict[int, Callable[..., Any]]()

    @override
    def pull(self, s: Calculus, g: Sequence[Node | None], out: Node, xs: Sequence[Node]) -> Any:
        r = self.r
        self.ctx._values = {x: s(Item(i), out) for i, x in enumerate(xs)}
        given: list[Any] = []
        for place in self.places:
            cotangent = None if place is None else g[place]
            if cotangent is None and place is not None and self.ctx._zeros:
                cotangent = zeros(s, tensor(xs[place]))
            given.append(None if cotangent is None else r.fresh(cotangent, True))
        backward, last = unwrapped(self.kind)
        where = r.b.where
        inside = current() is r
        versions = r.versions()
        with (
            nullcontext() if inside else recording(r.mode),
            torch.enable_grad(),
        ):
            r.b.where = out.where
            for hook in self.before.values():
                given = list(hook(tuple(given)) or given)
            returned = backward(self.ctx, *given)
            returned = returned if isinstance(returned, tuple) else (returned,)
            for hook in self.after.values():
                returned = hook(returned, tuple(given)) or returned
        r.b.where = where
        if not inside and r.written_since(versions):
            raise UnsupportedError(  # the recording that would hold the write is over
                f"{self.name}.backward writes to a tensor that outlives it", where=out.where
            )
        if len(returned) < max(self.arguments, default=-1) + 1:
            raise UnsupportedError(
                f"{self.name}.backward returned {len(returned)} gradients for "
                f"{len(self.ctx.needs_input_grad)} arguments",
                where=out.where,
            )
        found = [returned[i] for i in self.arguments]
        nodes = [None if x is None else r.read(r.lazy(x)) for x in found]
        reason = f"{self.name}.backward is marked once_differentiable: it has no derivative itself"
        return [x if x is None or not last else once(s, x, reason) for x in nodes]


class Edge:
    """What a result of a user's function has as `grad_fn`: hooks can be registered on it."""

    def __init__(self, function: UserFunction) -> None:
        self.function = function

    def name(self) -> str:
        """The name that torch gives to the backward of the function."""
        return f"{self.function.kind.__name__}Backward"

    def register_prehook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook` on the cotangents of the results."""
        return registered(self.function.before, hook)

    def register_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook` on the cotangents of the arguments and of the results."""
        return registered(self.function.after, hook)


def registered(
    hooks: OrderedDict[int, Callable[..., Any]], hook: Callable[..., Any]
) -> RemovableHandle:
    """One hook more, and the handle that takes it away."""
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


def unwrapped(kind: type[Function]) -> tuple[Callable[..., Any], bool]:
    """The user's backward, and whether it is marked `once_differentiable`."""
    backward: Any = kind.backward if "backward" in dir(kind) else kind.vjp
    inner = getattr(backward, "__wrapped__", None)
    code = getattr(backward, "__code__", None)
    if (
        inner is not None
        and code is not None
        and code.co_filename == torch.autograd.function.__file__
    ):
        return inner, True
    return backward, False


def called(
    r: Recording, kind: type[Function], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Record the forward, and its results as results of the function."""
    needs = tuple([isinstance(x, torch.Tensor) and x.requires_grad for x in args])
    ctx: Any = Context(r, needs)
    operands = [r.read(r.lazy(x)) for x in args if isinstance(x, torch.Tensor)]
    with torch.no_grad():
        if kind.setup_context is Function.setup_context:
            returned = kind.forward(ctx, *args, **kwargs)
        else:
            returned = kind.forward(*args, **kwargs)
            kind.setup_context(ctx, args, returned)
    r.b.where = r.here()
    outputs = list(returned) if isinstance(returned, tuple) else [returned]
    values: list[Node] = []
    places: list[int | None] = []
    for y in outputs:
        if isinstance(y, torch.Tensor):
            places.append(len(values))
            values.append(r.read(r.lazy(y)))
        else:
            places.append(None)
    function = UserFunction(kind, ctx, r, places)
    function.arguments = [i for i, x in enumerate(args) if isinstance(x, torch.Tensor)]
    node = r.b(Custom(function, len(values)), *values, *operands)
    made: list[Any] = []
    for y, place in zip(outputs, places, strict=True):
        if place is None or id(y) in ctx._constant:
            made.append(y)
        elif any(y is x for x in ctx._dirty):
            made.append(written(r, r.lazy(y), r.b(Item(place), node)))
        else:
            result = r.fresh(r.b(Item(place), node), True)
            assert isinstance(result, Traced)
            result.made_by = Edge(function)
            made.append(result)
    return tuple(made) if isinstance(returned, tuple) else made[0]


def written(r: Recording, x: LazyTensor, value: Node) -> LazyTensor:
    """An argument that the forward wrote in place, which is a result now."""
    r.write(x, value)
    if isinstance(x, Traced):
        x.gain_history()
    return x
