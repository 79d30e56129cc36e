"""Comparisons of random numbers whose answer is certain, whatever is drawn.

Models drop whole layers where a uniform draw is below a probability, which is 0 unless somebody
asks for it: the draw must happen, what Python does with it is known.
"""

from __future__ import annotations

from lazytorch.ir import Const, Node
from lazytorch.ops.compare import Ge, Gt, Le, Lt
from lazytorch.ops.random import Uniform

MIRRORED = {Lt: Gt, Gt: Lt, Le: Ge, Ge: Le}


def certain(node: Node) -> bool | None:
    """The answer of a comparison between a uniform draw and a constant; None if it depends on the
    draw. The upper end counts as drawn: narrow dtypes round to it."""
    kind = type(node.op)
    if kind not in MIRRORED:
        return None
    x, y = node.inputs
    if isinstance(x.op, Const):
        x, y, kind = y, x, MIRRORED[kind]
    if not isinstance(x.op, Uniform) or not isinstance(y.op, Const):
        return None
    bound = y.op.value
    if not isinstance(bound, int | float):
        return None
    low, high = x.op.low, x.op.high
    true, false = {
        Lt: (high < bound, low >= bound),
        Le: (high <= bound, low > bound),
        Gt: (low > bound, high <= bound),
        Ge: (low >= bound, high < bound),
    }[kind]
    return True if true else False if false else None
