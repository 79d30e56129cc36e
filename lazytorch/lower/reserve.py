"""Memory that is asked for before a program first writes to its inputs.

An optimizer's update runs as soon as its gradient is there, and cannot be undone. So that a call
which runs out of memory leaves state as it was, what the rest of it takes is allocated once before
the first update, and given back at once: either that fails, or torch's allocator has it. On the CPU
the system is asked, and nothing is touched.
"""

from __future__ import annotations

import torch

from lazytorch.ir import Graph, Node, Write
from lazytorch.peak import given_memory, given_room, heights, nbytes, owners, scratch
from lazytorch.types import TensorType, tensor_type

LEAST = 1 << 20
"""Bytes that are found anyway."""

SHARE = 63 / 64
"""How much of what is needed is asked for: what is asked for is then not itself the peak."""


class Reserve:
    """Asks for bytes, unless a CUDA graph is captured: that writes nothing, and a replay allocates
    nothing but results, before it writes."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.typed = tensor_type((nbytes,), torch.uint8, device)

    def __call__(self) -> None:
        """Allocate, and give back."""
        on_gpu = self.typed.device.type == "cuda"
        if not on_gpu or not torch.cuda.is_current_stream_capturing():
            torch.empty(self.typed.shape, dtype=self.typed.dtype, device=self.typed.device)


def reserve(
    graph: Graph, straight: dict[Node, dict[int, Node]], over: dict[Node, dict[int, Node]]
) -> tuple[Node, Reserve] | None:
    """The first node that writes to an input, and what to ask for before it; None where there is
    none, or little is allocated from there on."""
    nodes = [x for x in graph.nodes if not isinstance(x.op, Write)]
    first = next((i for i, x in enumerate(nodes) if x in straight), len(nodes))
    if first == len(nodes):
        return None
    node = nodes[first]
    elsewhere = given_room(straight)
    late = [x.inputs[1] for x in graph.effects if isinstance(x.op, Write)]  # copied last
    lies_in = given_memory(over)
    high = heights(nodes, (*graph.outputs, *late), elsewhere, lies_in=lies_in)
    own = [x for x in owners(node) if x[0] is node and x not in elsewhere and x not in lies_in]
    before = high[first] - scratch(node) - sum(map(nbytes, own))
    needed = max(high[first:]) - before
    typed = next(iter(straight[node].values())).type
    assert isinstance(typed, TensorType)
    return (node, Reserve(int(SHARE * needed), typed.device)) if needed >= LEAST else None
