"""Numbers that vary are computed on the GPU that reads them, in float64 as Python computes.

A program that never asks the host for a number is launched without waiting, and can be captured: a
number that is an argument becomes a 0-d tensor once, where it enters (`Full` of it, which a replay
fills anew), arithmetic on numbers becomes arithmetic on such tensors, and kernels read them as
numbers (`ToNumber`), so that types and rounding stay those of numbers. Where Python would raise, as
at a division by zero, the GPU goes on with an infinity or NaN.

Declines, and then on the whole graph, where values lie on more than one device or on none of the
kind `device`; where a number is no float, or leaves the graph; where Python computes what has no
counterpart here (`COUNTERPARTS`, `CHOICES`); and where something else than a generated kernel or
`Full` reads a number, which would wait for the device.
"""

from __future__ import annotations

import torch

from lazytorch.ir import Builder, Const, Graph, Input, Node, Op, with_inputs
from lazytorch.ops.compare import Gt, Lt, Where
from lazytorch.ops.create import Full
from lazytorch.ops.elementary import Exp, Log, Log2, Sqrt
from lazytorch.ops.generated import DTYPES, obstacle
from lazytorch.ops.layout import Reshape
from lazytorch.ops.number import Arithmetic, ToNumber
from lazytorch.ops.pointwise import Abs, Add, Cast, Div, Mul, Neg, Pow, Sub
from lazytorch.types import ScalarType, TensorType

COUNTERPARTS: dict[str, Op] = {
    "add": Add(),
    "sub": Sub(),
    "mul": Mul(),
    "truediv": Div(),
    "pow": Pow(),
    "real_pow": Pow(),
    "neg": Neg(),
    "abs": Abs(),
    "sqrt": Sqrt(),
    "exp": Exp(),
    "log": Log(),
    "log2": Log2(),
}
"""What computes in float64 what Python computes with floats, by the name in `Arithmetic`."""

CHOICES: dict[str, Op] = {"max": Gt(), "min": Lt()}
"""How the second of two numbers compares where Python's `max` and `min` choose it."""


def numbers_on_device(graph: Graph, device: str = "cuda") -> Graph:
    """The graph whose varying numbers are 0-d tensors of the one device of this kind."""
    place = only_device(graph, device)
    numbers = [x for x in graph.nodes if varies(x)]
    if place is None or all(there(graph, x) for x in numbers):
        return graph
    if not all(movable(graph, x) for x in numbers):
        return graph
    done: dict[Node, Node] = {}
    wide: dict[Node, Node] = {}  # a number's value as a tensor
    for node in graph.nodes:
        b = Builder(node.where)
        if isinstance(node.op, Input):
            done[node] = node
            if varies(node):
                wide[node] = b(Full((), None, torch.float64, place), node)
                done[node] = b(ToNumber(), wide[node])
        elif enters(node):
            done[node] = node
        elif isinstance(node.op, ToNumber):
            x = done[node.inputs[0]]
            x = x if isinstance(x.type, TensorType) and not x.type.shape else b(Reshape(()), x)
            wide[node] = b(Cast(torch.float64), x)
            done[node] = b(ToNumber(), x)
        elif isinstance(node.op, Arithmetic):
            xs = [wide.get(x, x) for x in node.inputs]
            wide[node] = computed(b, node.op.function, xs)
            done[node] = b(ToNumber(), wide[node])
        elif isinstance(node.op, Full):
            done[node] = with_inputs(node, [wide.get(x, done[x]) for x in node.inputs])
        else:
            done[node] = with_inputs(node, [done[x] for x in node.inputs])
    return graph.replace(done)


def computed(b: Builder, function: str, xs: list[Node]) -> Node:
    """What Python computes with floats, in float64."""
    if function in CHOICES:  # Python keeps the first, unless the second is beyond it: a NaN is not
        x, y = xs
        return b(Where(), b(CHOICES[function], y, x), y, x)
    return b(COUNTERPARTS[function], *xs)


def only_device(graph: Graph, kind: str) -> torch.device | None:
    """The device of this kind that all tensors of a call lie on; None where there is none. What
    only the prologue reads, as a constant on its way to the device, may lie elsewhere."""
    steady = graph.steady
    seen = [
        x
        for x in graph.nodes
        if x not in steady or x in graph.outputs or any(u not in steady for u in graph.users[x])
    ]
    devices = {x.type.device for x in seen if isinstance(x.type, TensorType)}
    return devices.pop() if len(devices) == 1 and {d.type for d in devices} == {kind} else None


def varies(node: Node) -> bool:
    """Whether a node is a number that is not known when the graph is made."""
    return isinstance(node.type, ScalarType) and not isinstance(node.op, Const)


def enters(node: Node) -> bool:
    """Whether a node makes a number that is given to the program a tensor, losing nothing."""
    return (
        isinstance(node.op, Full)
        and node.op.with_attributes(device=torch.device("cpu")) == Full((), None, torch.float64)
        and isinstance(node.inputs[0].op, Input)
        and varies(node.inputs[0])
    )


def there(graph: Graph, number: Node) -> bool:
    """Whether a number is read on the device, and nothing on the host computes with it."""
    if isinstance(number.op, Input):
        return all(enters(user) for user in graph.users[number])
    return isinstance(number.op, ToNumber) and scalar(number.inputs[0])


def scalar(node: Node) -> bool:
    """Whether a node is a tensor without dimensions."""
    return isinstance(node.type, TensorType) and not node.type.shape


def movable(graph: Graph, number: Node) -> bool:
    """Whether a number can be computed on the device, and nobody waits for it."""
    op = number.op
    if number.type != ScalarType(float) or number in graph.outputs:
        return False
    if isinstance(op, ToNumber):
        source = number.inputs[0].type
        made = isinstance(source, TensorType) and source.dtype in DTYPES
    else:
        made = isinstance(op, Input) or (
            isinstance(op, Arithmetic)
            and (op.function in COUNTERPARTS or op.function in CHOICES)
            and any(varies(x) for x in number.inputs)
        )
    return made and all(
        isinstance(user.op, Arithmetic | Full) or obstacle(user) is None
        for user in graph.users[number]
    )
