"""A compiled function: plans by signature, run stage by stage, with eager's gradients."""

from __future__ import annotations

import copy
import functools
import sys
import time
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch

from lazytorch.autodiff import install
from lazytorch.differentiable import differentiable, differentiated
from lazytorch.errors import LazyTorchError
from lazytorch.fastpath import FastPath
from lazytorch.frontend import trees
from lazytorch.frontend.epoch import Epoch
from lazytorch.frontend.modes import in_torch_func, uncollected
from lazytorch.frontend.record import UnsettledError, argument_labels, changing
from lazytorch.frontend.sources import Cut, Recorded
from lazytorch.frontend.tensor import LazyTensor, Traced
from lazytorch.frontend.unmoved import unmoved
from lazytorch.frontend.watch import Watch
from lazytorch.guards import Key, signature
from lazytorch.ir import Graph
from lazytorch.lower.memory_plan import MemoryPlan
from lazytorch.lower.optimize import optimize
from lazytorch.lower.program import Program, lower
from lazytorch.options import Options
from lazytorch.plan import Given, Plan, assemble, why_none
from lazytorch.prediction import predict
from lazytorch.report import Event, Report
from lazytorch.runtime.backward import plan_tensors
from lazytorch.runtime.build import Builds
from lazytorch.runtime.gradients import Backward
from lazytorch.runtime.setting import Setting
from lazytorch.runtime.stage import Stage
from lazytorch.runtime.state import StaleError
from lazytorch.runtime.turn import Turn
from lazytorch.trail import Before, Trail
from lazytorch.varying import Assumptions, Numbers
from lazytorch.view.explain import explain


class Compiled:
    """A function or module that records itself once per signature and replays afterwards.

    Called like the original. `explain()` says what happened, `source()` shows what runs, and
    `refresh()` rereads weights that were written from outside torch's sight.
    """

    alive: ClassVar[weakref.WeakSet[Compiled]] = weakref.WeakSet()

    def __init__(self, fn: Callable[..., Any], options: Options, has_eager: bool = True) -> None:
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.options = options
        self.has_eager = has_eager  # whether the function may be called as it is
        self.plans: OrderedDict[Key, list[Plan]] = OrderedDict()
        self.fast: FastPath | None = None
        self.restless: dict[Key, int] = {}  # recordings in a row, for a change of Python values
        self.unsettled: set[Key] = set()  # an optimizer's first step is eager's own
        self.numbers = Numbers()
        self.builds = Builds(options)
        self.lock = Turn()
        self.stages: list[tuple[str, float, int, int]] = []
        Epoch.install()
        install()
        Compiled.alive.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the original returns; a call that no plan holds for is recorded first."""
        fast = self.fast
        leaves = None if fast is None else fast.match(args, kwargs)
        if fast is None or leaves is None:
            return self.call(args, kwargs)
        if self.restless:
            self.restless.pop(fast.key, None)
        try:
            if not fast.grad:
                return fast.run(leaves)
            return self.execute(fast.plan, (args, kwargs), list(leaves), fast.given)
        except StaleError:
            return self.call(args, kwargs)  # which meets it again

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that is not like the last one; inside torch.func's transforms it is eager."""
        if in_torch_func():
            return self.fn(*args, **kwargs)
        leaves, spec = trees.flatten((args, kwargs))
        if any([isinstance(leaf, Traced) for leaf in leaves]):  # part of another recording
            return self.fn(*args, **kwargs)
        leaves = [leaf.force() if isinstance(leaf, LazyTensor) else leaf for leaf in leaves]
        key = signature(leaves, spec, self.numbers.varying(spec))
        if self.restless and self.restless.get(key, 0) > self.options.max_plans:
            return self.fn(*args, **kwargs)
        for plan in self.plans.get(key, ()):
            if plan.holds(leaves):
                if self.restless:
                    self.restless.pop(key, None)
                try:
                    result = self.execute(plan, (args, kwargs), leaves, spec)
                    self.fast = FastPath.of(plan, (args, kwargs), leaves, spec, key)
                    return result
                except StaleError as error:
                    self.fast = None
                    Report.add(Event("recompile", self.name, error.message, 0.0))
                    self.plans[key].remove(plan)
                    break
        if self.never_rests(key, leaves):
            return self.fn(*args, **kwargs)
        return self.first_call((args, kwargs), leaves, spec)

    def __getattr__(self, name: str) -> Any:
        if name in ("fn", "options"):
            raise AttributeError(name)
        return getattr(self.fn, name)

    def __get__(self, owner: object, kind: type | None = None) -> Any:
        """As a method of a class: what it belongs to is the first argument."""
        return self if owner is None else types.MethodType(self, owner)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self.fn, memo), self.options)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Plans stay behind; what a decorator stands for is found by its name."""
        found: Any = sys.modules.get(getattr(self.fn, "__module__", ""))
        for part in self.name.split("."):
            found = getattr(found, part, None)
        return self.name if found is self else (Compiled, (self.fn, self.options))

    @property
    def name(self) -> str:
        """The function's or the module's class name."""
        return getattr(self.fn, "__qualname__", type(self.fn).__name__)

    def first_call(self, given: Given, leaves: list[Any], spec: trees.Spec) -> Any:
        """Record and compile for a signature that has no plan, then run it."""
        # uncollected: thousands of nodes would be looked through again and again
        with self.lock as waited, uncollected():
            made = None if waited else self.first_plan(leaves, spec)
        if waited:  # another thread recorded, perhaps a call like this one
            return self.call(*given)
        if made is None:
            return self.fn(*given[0], **given[1])
        plan, trail = made
        return self.execute(plan, given, leaves, spec, trail)

    def first_plan(self, leaves: list[Any], spec: trees.Spec) -> tuple[Plan, Trail] | None:
        """A new plan, and how it was recorded; None where this call is eager's."""
        self.fast = None
        started, again = time.perf_counter(), bool(self.plans)
        labels = argument_labels(self.fn, spec)
        reasons = self.numbers.meet(spec, leaves, labels)
        key = signature(leaves, spec, self.numbers.varying(spec))
        reasons = reasons or [why_none(self.plans, key, leaves)]
        trail = Trail(self, leaves, Watch(self.fn, leaves), self.numbers.varying(spec))
        try:
            plan = Plan(trail.extend(spec, ()), trail)
        except UnsettledError as error:
            if key in self.unsettled or self.options.max_bytes is not None or not self.has_eager:
                raise
            self.unsettled.add(key)
            Report.add(Event("recompile", self.name, f"eager this once: {error.message}", 0.0))
            return None
        self.unsettled.discard(key)
        if trail.failure:
            reasons.append(self.numbers.keep(spec, range(len(leaves)), trail.failure, labels))
        reasons += self.numbers.learn(spec, trail.assumed, labels)
        key = signature(leaves, spec, self.numbers.varying(spec))
        self.forget(key)
        entry = self.plans.setdefault(key, [])
        entry.insert(0, plan)
        del entry[self.options.max_plans :]
        while len(self.plans) > self.options.max_plans:
            dropped, _ = self.plans.popitem(last=False)
            self.restless.pop(dropped, None)
        if again:
            why, seconds = "; ".join(filter(None, reasons)), time.perf_counter() - started
            Report.add(Event("recompile", self.name, why, seconds))
        return plan, trail

    def forget(self, key: Key) -> None:
        """Drop the plans that no call can reach, since other floats vary now."""
        for other in [*self.plans, *self.restless]:
            if other[0] == key[0] and other[1] != key[1]:
                self.plans.pop(other, None)
                self.restless.pop(other, None)

    def never_rests(self, key: Key, leaves: list[Any]) -> bool:
        """Whether Python values changed between so many calls in a row that eager is better.

        Or numbers did, so that each call had to be recorded for what its numbers decide.
        """
        if not self.plans.get(key):
            return False
        self.restless[key] = self.restless.get(key, 0) + 1
        if self.restless[key] <= self.options.max_plans or self.options.max_bytes is not None:
            return False
        reason = (
            "eager from now on: each of its last calls found a change "
            f"({why_none(self.plans, key, leaves)})"
        )
        Report.add(Event("recompile", self.name, reason, 0.0))
        del self.plans[key]
        self.fast = None
        return True

    def backward_of(self, recorded: Recorded, trail: Trail) -> Backward | None:
        """The backward pass of a recorded function; None where torch differentiates eager's."""
        try:
            draws = () if self.builds.failed else trail.setting.costs_of(recorded.piece).draws
            with unmoved(trail.watch.reach.moving):
                found = differentiated(recorded, trail.leaves, self.program, draws)
            if changes := trail.watch.undo():  # by hooks and by the user's own backward functions
                raise changing(trail.watch, changes)
            return found
        except LazyTorchError as error:
            Report.add(Event("backward", self.name, f"eager's own: {error.message}", 0.0))
            return None

    def program(self, graph: Graph) -> Program:
        """The program of a graph that depends on nothing but what it is given."""
        graph = optimize(graph, self.options.freeze, self.options.numerics)
        program = self.builds.tuned(lower(graph, self.builds.target(graph), "backward"), graph)
        self.builds.start(program.calls)
        return program

    def execute(
        self,
        plan: Plan,
        given: Given,
        leaves: list[Any],
        spec: trees.Spec,
        trail: Trail | None = None,
    ) -> Any:
        """Run the plan's stages, with gradients where eager would have them."""
        if not torch.is_grad_enabled():
            stage, outputs = self.forward(plan, leaves, spec, trail, {})
            return assemble(stage, outputs, given, leaves)
        tensors = plan_tensors(plan.stage, leaves)
        if plan.carries and any(t.requires_grad for t in tensors):
            stage, outputs = differentiable(self, plan, leaves, spec, tensors, trail)
        else:
            with torch.no_grad():
                stage, outputs = self.forward(plan, leaves, spec, trail, {})
        return assemble(stage, outputs, given, leaves)

    def forward(
        self, plan: Plan, leaves: list[Any], spec: trees.Spec, trail: Trail | None, before: Before
    ) -> tuple[Stage, tuple[Any, ...]]:
        """Run stages, choosing by each cut's value; `before` gets what new branches write over."""
        stage = plan.stage
        done: list[tuple[Any, ...]] = []
        cuts: list[Cut] = []
        for value, outputs in trail.ran if trail is not None else ():
            # The first call ran these pieces already, while it recorded.
            done.append(outputs)
            stage = cast(Stage, stage.follow(value))
        while True:
            outputs = stage.run(leaves, done)
            if stage.cut is None:
                changes = cast(Recorded, stage.recorded).changes
                if changes:
                    plan.watch.apply(changes)
                return stage, outputs
            value, outputs = stage.cut.resolve(outputs)
            done.append(outputs)
            cuts.append(replace(stage.cut, value=value))
            following = stage.follow(value)
            if following is None:
                following = self.branch(plan, stage, cuts, leaves, spec, done, before)
            stage = following

    def branch(
        self,
        plan: Plan,
        stage: Stage,
        cuts: list[Cut],
        leaves: list[Any],
        spec: trees.Spec,
        done: list[tuple[Any, ...]],
        before: Before,
    ) -> Stage:
        """Record what follows a value of a cut that was not seen before.

        Pieces that recording runs on the way will run again in `forward` only if they are new
        branches themselves; their results are appended to `done`.
        """
        with self.lock:
            started = time.perf_counter()
            plan.watch.equal()  # which remembers what calls put in the place of other tensors
            path = Trail(self, leaves, plan.watch, plan.varying, done)
            with torch.set_grad_enabled(plan.grad):  # stages run without
                following = path.extend(spec, tuple(cuts))
                before |= path.remembered()
            stage.add(cuts[-1].value, following)
            # Every way through the plan then assumes what this one does: more than it must.
            plan.assumptions = Assumptions([*plan.assumptions.each, *path.assumed])
            plan.relied = plan.relied or path.relied
            reasons = [f"a value at {cuts[-1].where} that was not seen before"]
            reasons += self.numbers.learn(spec, path.assumed, argument_labels(self.fn, spec))
            seconds = time.perf_counter() - started
            Report.add(Event("recompile", self.name, "; ".join(reasons), seconds))
            for value, outputs in path.ran:
                done.append(outputs)
                cuts.append(replace(cast(Cut, following.cut), value=value))
                following = cast(Stage, following.follow(value))
        return following

    def memory(self, *args: Any, **kwargs: Any) -> MemoryPlan:
        """What a call under `no_grad` takes at its highest, with a name for every byte; nothing is
        computed or kept. `lt.plan` is for devices that are not here, and for training steps."""
        leaves, spec = trees.flatten((args, kwargs))
        varying = self.numbers.varying(spec)
        setting = Setting.of(
            self.name, Watch(self.fn, leaves), leaves, still=self.options.static_inputs
        )
        with torch.no_grad():
            for plan in self.plans.get(signature(leaves, spec, varying), ()):
                if plan.holds(leaves) and plan.stage.cut is None:
                    return plan.stage.plan(setting)  # with what measuring chose
            return predict(self.fn, leaves, spec, self.options, setting, varying)

    def refresh(self) -> None:
        """Reread all weights: needed after a write that torch cannot see (`p.data`, NumPy)."""
        for stage in self.programs():
            stage.refresh()

    def let_go(self) -> None:
        """Let no plan hold weights that were replaced, or what it computed of them."""
        for plan in [x for some in self.plans.values() for x in some]:
            plan.let_go()

    def release(self) -> None:
        """Drop every plan and what it holds."""
        with self.lock:
            self.fast = None
            self.plans.clear()
            self.restless.clear()
            self.unsettled.clear()
            self.numbers = Numbers()
            self.stages.clear()

    def wait(self) -> None:
        """Return when every kernel is compiled and in use."""
        self.builds.wait()

    def programs(self) -> list[Stage]:
        """Every stage of every plan, in the order of compilation."""
        return [s for some in self.plans.values() for plan in some for s in plan.stage.successors()]

    def source(self) -> str:
        """The programs that run and their generated kernels."""
        texts: list[str] = []
        for stage in self.programs():
            if stage.prologue_inputs or stage.prologue.calls:
                texts.append(stage.prologue.source)
            texts.append(stage.main.source)
            kernels = {**stage.prologue.kernels(), **stage.main.kernels()}
            texts += [kernel.source for kernel in kernels.values()]
        return "\n\n".join(texts)

    def explain(self) -> str:
        """Stages, operation counts, milliseconds, kernels, what was fused and why not."""
        return explain(self)
