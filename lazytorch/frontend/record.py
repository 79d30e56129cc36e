"""Record a function on given arguments: the door between Python code and graphs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import _unsafe_set_version_counter

from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.modes import recording
from lazytorch.frontend.module import ModulePath, Unchanged, refuse_changed, state_slots
from lazytorch.frontend.recording import Recording, Restart
from lazytorch.frontend.sources import Argument, Cut, OnCut, Recorded, Source, State


def record(
    fn: Callable[..., Any],
    leaves: list[Any],
    spec: trees.Spec,
    known: tuple[Cut, ...] = (),
    on_cut: OnCut | None = None,
    fullgraph: bool = False,
    varying: frozenset[int] | None = frozenset(),
) -> Recorded:
    """Run `fn` on lazy stand-ins of its tensor arguments and return what it did as graphs.

    `leaves` and `spec` are the flattened `(args, kwargs)`. Nothing is computed, except pieces up
    to a cut (`on_cut`). Modules are left as they were, whatever happens.

    `varying` are the leaves, Python floats, that become inputs of the graph. With None there are
    no numbers in the graph at all: `item()` cuts. So it is also where the function fails on
    stand-ins for floats (a library may ask `type(x) is float`); `failure` then says so.
    """
    shared: set[int] = set()
    failure = ""
    while True:
        recorder = Recording(
            origins(fn, leaves, spec), shared, known, on_cut, fullgraph, varying is not None
        )
        try:
            recorded = record_once(recorder, fn, leaves, spec, varying or frozenset())
        except Restart as restart:
            shared.add(restart.storage)
        except Exception as error:
            if not recorder.has_numbers or recorder.cuts:  # a piece that ran may not run again
                raise
            varying = None
            failure = f"{type(error).__name__}: {error}"
        else:
            recorded.failure = failure
            return recorded


def record_once(
    recorder: Recording,
    fn: Callable[..., Any],
    leaves: list[Any],
    spec: trees.Spec,
    varying: frozenset[int],
) -> Recorded:
    """One attempt; Restart when storages turn out to be shared."""
    stand_ins = [recorder.lift(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    if varying:
        labels = argument_labels(fn, spec)
        for i in sorted(varying):
            if type(leaves[i]) is float:
                stand_ins[i] = recorder.number_argument(i, labels[i], leaves[i])
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor) and not trees.plain(leaf):
            trees.refuse_object(leaf, "the arguments")
    args, kwargs = trees.unflatten(spec, stand_ins)
    unchanged = Unchanged(fn)
    versions = [(t, t._version) for t in recorder.kept if not t.is_inference()]
    changed = ""
    try:
        with (
            ModulePath(fn, lambda path: setattr(recorder, "module", path)),
            recording(recorder.mode),
        ):
            result = fn(*args, **kwargs)
        recorded = recorder.finish(result)
    except LazyTorchError as error:
        if error.where is None:
            error.where = recorder.b.where
        raise
    except RuntimeError as error:
        if "does not require grad and does not have a grad_fn" in str(error):
            raise UnsupportedError(
                "torch.autograd inside a compiled function is not recorded yet",
                where=recorder.b.where,
                hint="call it outside the compiled function",
            ) from error
        raise
    finally:
        recorder.finished = True
        changed = unchanged.restore()
        restore_versions(versions)
    refuse_changed(changed)
    return recorded


def restore_versions(versions: list[tuple[torch.Tensor, int]]) -> None:
    """Take back the version counts that recorded, not executed, in-place operations raised."""
    for tensor, version in versions:
        if tensor._version != version:
            _unsafe_set_version_counter((tensor,), (version,))


def origins(
    fn: Callable[..., Any], leaves: list[Any], spec: trees.Spec
) -> dict[int, tuple[Source, str]]:
    """Source and label of every tensor that the function's arguments and modules hold, by id."""
    found: dict[int, tuple[Source, str]] = {}
    labels = argument_labels(fn, spec)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor):
            found.setdefault(id(leaf), (Argument(i), labels[i]))
    for slot in state_slots(fn):
        found.setdefault(id(slot.store.get(slot.name)), (State(slot), slot.label))
    return found


def argument_labels(fn: Callable[..., Any], spec: trees.Spec) -> list[str]:
    """A readable label for each leaf of `(args, kwargs)`: the parameter's name and the path."""
    try:
        function = fn.forward if isinstance(fn, torch.nn.Module) else fn
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    labels: list[str] = []
    for path in spec.paths():
        if path[0] == 0 and len(path) > 1:
            position = int(path[1])
            first = names[position] if position < len(names) else f"arg{position}"
            labels.append(".".join([first, *map(str, path[2:])]))
        else:
            labels.append(".".join(map(str, path[1:])) or "arg")
    return labels
