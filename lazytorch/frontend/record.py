"""Record a function on given arguments: the door between Python code and graphs."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import is_
from typing import Any, cast

import torch

from lazytorch.errors import LazyTorchError, UnsupportedError
from lazytorch.frontend import trees
from lazytorch.frontend.drawn import Drawn, watched
from lazytorch.frontend.finish import finish
from lazytorch.frontend.grads import Grads
from lazytorch.frontend.known import ABSENT
from lazytorch.frontend.modes import recording
from lazytorch.frontend.module import ModulePath
from lazytorch.frontend.optimizers import StateMadeError, stepping
from lazytorch.frontend.places import Slot
from lazytorch.frontend.reach import ATOMS, Reach
from lazytorch.frontend.recording import Recording, Restart
from lazytorch.frontend.sources import (
    Argument,
    Cut,
    Held,
    OnCut,
    Piece,
    Recorded,
    Relied,
    Source,
    State,
)
from lazytorch.frontend.tensor import LazyTensor
from lazytorch.frontend.unmoved import refuse_iterators, unmoved
from lazytorch.frontend.watch import Change, Watch


class UnsettledError(UnsupportedError):
    """The function leaves tensors, or what an optimizer remembers, where nothing was: a cache that
    it fills at first, and every optimizer at its first step. Eager once, it may be settled."""


def record(
    fn: Callable[..., Any],
    leaves: list[Any],
    spec: trees.Spec,
    known: tuple[Cut, ...] = (),
    on_cut: OnCut | None = None,
    fullgraph: bool = False,
    watch: Watch | None = None,
    varying: frozenset[int] | None = frozenset(),
) -> Recorded:
    """Run `fn` on lazy stand-ins of its tensor arguments and return what it did as graphs.

    `leaves` and `spec` are the flattened `(args, kwargs)`. Nothing is computed, except pieces up
    to a cut (`on_cut`). Modules, and whatever else `watch` sees, are left as they were, whatever
    happens; what the function changes of them is in the result if a call can repeat it.

    `varying` are the leaves, Python floats, that become inputs of the graph. With None there are
    no numbers in the graph at all: `item()` cuts. So it is also where the function fails on
    stand-ins for floats (a library may ask `type(x) is float`); `failure` then says so.
    """
    watch = watch or Watch(fn, leaves)
    recorded, changes = attempt(fn, leaves, spec, known, on_cut, fullgraph, watch, varying)
    if changes:
        settles(fn, leaves, spec, watch, recorded, changes, varying)
    return replace(recorded, changes=changes, notes=[*recorded.notes, *watch.notes])


def attempt(
    fn: Callable[..., Any],
    leaves: list[Any],
    spec: trees.Spec,
    known: tuple[Cut, ...],
    on_cut: OnCut | None,
    fullgraph: bool,
    watch: Watch,
    varying: frozenset[int] | None,
) -> tuple[Recorded, list[Change]]:
    """One recording, begun again when storages turn out to be shared or numbers cannot vary; what
    it changed, undone."""
    shared: set[int] = set()
    failure = ""
    while True:
        sources, ties = origins(fn, leaves, spec, watch.reach)
        resume = None if on_cut is None else partial(after_cut, on_cut, sources, watch.reach)
        used = bool(watch.reach.optimizers) or "grad" in watch.reach.names
        recorder = Recording(
            sources,
            ties,
            shared,
            known,
            resume,
            fullgraph,
            varying is not None,
            Grads(sources, leaves, used),
        )
        try:
            recorded, changes = record_once(recorder, fn, leaves, spec, watch, varying)
            if varying and not all(settled(change.new) for change in changes):
                raise changing(watch, changes)  # perhaps it keeps a float that would be constant
        except Restart as restart:
            shared.add(restart.storage)
        except StateMadeError:  # whether its numbers vary or not
            raise
        except Exception as error:
            if not recorder.has_numbers or recorder.cuts:  # a piece that ran may not run again
                raise
            varying = None
            failure = f"{type(error).__name__}: {error}"
        else:
            return replace(recorded, failure=failure), changes


def after_cut(
    on_cut: OnCut, sources: dict[int, tuple[Source, str]], reach: Reach, piece: Piece
) -> Any:
    """What `on_cut` gives; tensors that eager code put in places are found there from now on."""
    value = on_cut(piece)
    for slot in reach.state:
        tensor = slot.store.get(slot.name)
        if isinstance(tensor, torch.Tensor) and not isinstance(tensor, LazyTensor):
            sources.setdefault(id(tensor), (State(slot), slot.label))
    return value


def record_once(
    recorder: Recording,
    fn: Callable[..., Any],
    leaves: list[Any],
    spec: trees.Spec,
    watch: Watch,
    varying: frozenset[int] | None,
) -> tuple[Recorded, list[Change]]:
    """One attempt; Restart when storages turn out to be shared."""
    stand_ins = [recorder.lift(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    if varying:
        labels = argument_labels(fn, spec)
        for i in sorted(varying):
            if type(leaves[i]) is float:
                stand_ins[i] = recorder.number_argument(i, labels[i], leaves[i])
    for leaf in leaves:
        # Modules and optimizers are looked into like those that the function itself holds.
        looked_into = isinstance(leaf, torch.Tensor | torch.nn.Module | torch.optim.Optimizer)
        if not looked_into and not trees.plain(leaf):
            trees.refuse_object(leaf, "the arguments")
    refuse_iterators(watch.reach.going_on)
    args, kwargs = trees.unflatten(spec, stand_ins)
    changes: list[Change] = []
    grads: list[tuple[Argument | State | Held, torch.Tensor | None]] = []
    relied: tuple[Relied, ...] = ()
    replaced: list[Slot] = []
    try:
        with (
            ModulePath(watch.reach.modules, lambda path: setattr(recorder, "module", path)),
            recording(recorder.mode),
            watched(),
            unmoved(watch.reach.moving),
            stepping(watch.reach.optimizers, recorder),
        ):
            result = fn(*args, **kwargs)
        given, structure = trees.flatten((args, kwargs))
        fills = structure != spec or not all(map(is_, given, stand_ins))
        if fills:
            result = (result, (args, kwargs))
        grads = recorder.grads.changed()
        relied = recorder.grads.relied()
        if grads:
            result = (result, [x for _, x in grads])
        replaced = watch.replaced()
        if replaced and recorder.undoes:
            raise UnsupportedError(
                f"the forward replaces {replaced[0].label}, which a step that is skipped would "
                "have to undo",
                hint="write into it (copy_), or leave out skip_nonfinite",
            )
        if replaced:
            result = (result, [slot.store[slot.name] for slot in replaced])
        recorded = finish(recorder, result)
    except LazyTorchError as error:
        if error.where is None:
            error.where = recorder.b.where
        raise
    except (TypeError, AttributeError) as error:
        if recorder.drawn and Drawn.__name__ in str(error):  # torch looks at its type alone
            recorder.drawn[0].refuse()
        raise
    finally:
        recorder.finished = True
        recorder.grads.restore()
        changes = watch.undo(repeated=True)
    places = tuple([source for source, _ in grads])
    kept = recorder if any(recorder.grads.hooks.values()) else None
    made = replace(
        recorded, fills=fills, grads=places, relied=relied, recorder=kept, replaced=tuple(replaced)
    )
    return made, changes


def settles(
    fn: Callable[..., Any],
    leaves: list[Any],
    spec: trees.Spec,
    watch: Watch,
    recorded: Recorded,
    changes: list[Change],
    varying: frozenset[int] | None,
) -> None:
    """Refuse a forward that keeps state in Python, unless it leaves that state alone once set.

    What it sets must be numbers, texts or functions, and a second recording, from what the first
    one left, must change nothing: then a plan can set the same again.
    """
    again = changes
    if recorded.failure:
        varying = None
    if recorded.cuts == 0 and all(settled(change.new) for change in changes):
        watch.apply(changes)
        try:
            _, again = attempt(fn, leaves, spec, (), None, True, Watch(fn, leaves), varying)
        finally:
            watch.undo()
    if again:
        raise changing(watch, changes)


def changing(watch: Watch, changes: list[Change]) -> UnsupportedError:
    """What to say of a forward that keeps state in Python."""
    first = changes[0]
    filled = all(fills(change) for change in changes)
    kind = UnsettledError if filled or remembered(watch, changes) else UnsupportedError
    once = ", or call it once before if it only does so at first" if filled else ""
    return kind(
        f"the forward changed {first}, which a replay would not do again",
        where=watch.line(first),
        hint=f"keep state in a buffer (register_buffer), or mark the method lt.disable{once}",
    )


def remembered(watch: Watch, changes: list[Change]) -> bool:
    """Whether all that changed is what optimizers remember."""
    places: set[int] = set()
    for _, optimizer in watch.reach.optimizers:
        places |= {id(x) for x in (optimizer.state, *optimizer.state.values())}
    stores = [x.place.store if isinstance(x.place, Slot) else x.place.container for x in changes]
    return all(id(store) in places for store in stores)


def fills(change: Change) -> bool:
    """Whether tensors were put where there was nothing: the next time they may be there."""
    leaves, _ = trees.flatten(change.new)
    lacking = change.old is ABSENT or change.old is None
    return lacking and all(isinstance(x, torch.Tensor) or settled(x) for x in leaves)


def settled(value: object) -> bool:
    """Whether a plan can store this value at every call; a number that varies is no float."""
    if type(value) in (tuple, list):
        return all(settled(x) for x in cast("Sequence[object]", value))
    return type(value) in ATOMS or isinstance(value, types.FunctionType)


def origins(
    fn: Callable[..., Any], leaves: list[Any], spec: trees.Spec, reach: Reach
) -> tuple[dict[int, tuple[Source, str]], dict[int, list[State]]]:
    """Source and label of every tensor that the function's arguments and modules hold, by id; and
    the other places of those that are held by several."""
    found: dict[int, tuple[Source, str]] = {}
    ties: dict[int, list[State]] = {}
    labels = argument_labels(fn, spec)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor):
            found.setdefault(id(leaf), (Argument(i), labels[i]))
    for slot in reach.state:
        tensor, state = id(slot.store.get(slot.name)), State(slot)
        if found.setdefault(tensor, (state, slot.label))[0] is not state:
            ties.setdefault(tensor, []).append(state)
    return found, ties


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
