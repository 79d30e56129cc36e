"""The fast path: a replay of the plan that ran last, for arguments like its last ones.

A call's arguments are flattened and made into a key only where this does not apply: torch's own
tensor guards compare all tensors with those of the last call in one step, numbers and words are
compared as they are. The guards of the plan are asked here as anywhere else. What is not simple
(containers, objects, numbers that vary, cuts, changes of Python state) takes the long way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, cast

import torch
from torch._C._dynamo.guards import GlobalStateGuard

from lazytorch.frontend import trees
from lazytorch.frontend.sources import Recorded
from lazytorch.guards import Key, exact_leaf, strided
from lazytorch.plan import Given, Plan
from lazytorch.runtime.marks import exact

_UNGUARDED: tuple[Callable[[], object], ...] = (
    torch.is_inference_mode_enabled,
    torch._C._get_cudnn_allow_tf32,
    torch._C._get_flash_sdp_enabled,
    torch._C._get_mem_efficient_sdp_enabled,
    torch._C._get_math_sdp_enabled,
)
"""Modes of a key that torch's guard of its global state leaves out."""


class FastPath:
    """One plan with everything bound that its last call decided."""

    def __init__(
        self,
        plan: Plan,
        given: Given,
        leaves: Sequence[Any],
        spec: trees.Spec,
        key: Key,
    ) -> None:
        self.plan = plan
        self.key = key
        self.given = spec
        self.grad = torch.is_grad_enabled()  # then it takes more than running the stage
        self.count = len(leaves)
        self.names = list(given[1])
        self.tensors = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
        self.others = [i for i in range(self.count) if i not in self.tensors]
        self.constants = [exact_leaf(leaves[i]) for i in self.others]
        self.only = not self.others
        self.guards = exact([leaves[i] for i in self.tensors])
        graph = plan.stage.piece.graph
        # What neither writes nor is differentiated does not see whose memory it reads.
        self.apart = distinct if not graph.effects and not self.grad else apart
        self.alone = len(self.tensors) == 1
        self.state = GlobalStateGuard()
        self.modes = [mode() for mode in _UNGUARDED]
        self.stage = plan.stage
        recorded = cast(Recorded, plan.stage.recorded)
        self.spec = recorded.spec
        self.results = [(leaf.output, leaf.value) for leaf in recorded.leaves]
        self.single = self.results[0][0] if recorded.spec.is_leaf() else None

    @staticmethod
    def of(
        plan: Plan,
        given: Given,
        leaves: Sequence[Any],
        spec: trees.Spec,
        key: Key,
    ) -> FastPath | None:
        """The fast path for calls like this one; None where there is none."""
        if plan.fast is not None:
            return plan.fast
        recorded = plan.stage.recorded
        if recorded is None or recorded.changes or recorded.fills or recorded.replaced:
            return None
        if plan.objects or plan.varying or plan.assumptions.each or plan.relied:
            return None
        if any(leaf.ends or leaf.apart for leaf in recorded.leaves):
            return None
        args, kwargs = given
        flat = [*args, *kwargs.values()]
        if len(flat) != len(leaves) or not all(map(is_, flat, leaves)):
            return None  # some argument is a container
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        if not tensors or not all(map(strided, tensors)) or not apart(tensors):
            return None
        plan.fast = FastPath(plan, given, leaves, spec, key)
        return plan.fast

    def match(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Any] | None:
        """The leaves of a call that the plan holds for; None where the fast path does not apply."""
        leaves: Sequence[Any] = args
        if kwargs or self.names:
            if list(kwargs) != self.names:
                return None
            leaves = [*args, *kwargs.values()]
        if len(leaves) != self.count:
            return None
        tensors = leaves if self.only else [leaves[i] for i in self.tensors]
        fits = (
            self.guards.check(*tensors)
            and self.state.check()
            and [mode() for mode in _UNGUARDED] == self.modes
            and (self.only or [exact_leaf(leaves[i]) for i in self.others] == self.constants)
            and (self.alone or self.apart(tensors))
            and (not self.plan.dropped or self.plan.lies(leaves))
            and self.plan.watch.same()
        )
        return leaves if fits else None

    def run(self, leaves: Sequence[Any]) -> Any:
        """The function's result, where no gradients are asked for."""
        outputs = self.stage.run(leaves, ())
        if self.single is not None:
            return outputs[self.single]
        return trees.unflatten(
            self.spec, [value if k is None else outputs[k] for k, value in self.results]
        )


def distinct(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether no tensor is there twice, which Python can see."""
    return len({*map(id, tensors)}) == len(tensors)


def apart(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether no two tensors show one storage."""
    return len({x.untyped_storage()._cdata for x in tensors}) == len(tensors)
