"""Number: a Python float of a function being recorded that is a value of the graph.

torch takes a `torch.SymFloat` wherever it takes a number, and hands it down to dispatch; `Number`
is one that computes as a float does. Its node is `Varying`, which knows the value in the graph.

A number that was an argument is known while recording: where Python needs to know it, the
recording goes on with what it is and notes down what it assumed, which every later call must meet
(`Assumed`). A number that was read from a tensor is not known: the recording is cut there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from lazytorch.errors import UnsupportedError
from lazytorch.frontend.operators import NUMBERS
from lazytorch.frontend.sources import assumption
from lazytorch.ir import Node, constant
from lazytorch.ops.number import FUNCTIONS, Arithmetic
from lazytorch.types import ScalarType

if TYPE_CHECKING:
    from lazytorch.frontend.recording import Recording


class Varying:
    """A number's value in the graph, and what torch asks of the node of a SymFloat.

    `known` is its present value where it was computed from arguments alone, or was looked at. Like
    a cell it may outlive a cut: then `value` is an input of the next piece.
    """

    __slots__ = ("__weakref__", "from_tensor", "known", "recorder", "typed", "value", "version")

    def __init__(self, recorder: Recording, value: Node, known: float | None) -> None:
        assert isinstance(value.type, ScalarType)
        self.recorder = recorder
        self.value = value
        self.typed = value.type
        self.version = 0
        self.known = known
        self.from_tensor = known is None

    def apply(self, function: str, *operands: Any) -> Any:
        """`function` of numbers as a number; NotImplemented for what else may be an operand."""
        xs = [varying(x) for x in operands]
        if any([x is NotImplemented for x in xs]):
            return NotImplemented
        if function == "pow" and not stays_real(*operands):
            if any([isinstance(x, Varying) and x.from_tensor for x in xs]):
                return Number(self.made("real_pow", xs))
            return FUNCTIONS["pow"](*[x.look() if isinstance(x, Varying) else x for x in xs])
        return Number(self.made(function, xs))

    def made(self, function: str, xs: list[Any]) -> Varying:
        """The value of a function of values and plain numbers."""
        r = self.recorder
        r.b.where = r.here()
        known = None
        if not any([isinstance(x, Varying) and x.from_tensor for x in xs]):
            known = FUNCTIONS[function](*[x.known if isinstance(x, Varying) else x for x in xs])
        node = r.b(Arithmetic(function), *[x.value if isinstance(x, Varying) else x for x in xs])
        return r.varying(node, known)

    def decide(self, function: str, *operands: Any) -> Any:
        """What Python needs to know: `function` of numbers as a plain bool, int or float."""
        xs = [varying(x) for x in operands]
        if any([x is NotImplemented for x in xs]):
            return NotImplemented
        if self.recorder.finished:
            known = [x.known if isinstance(x, Varying) else x for x in xs]
            if any([x is None for x in known]):
                if function in ("eq", "ne"):
                    return NotImplemented  # whoever compares is told that they are two objects
                raise UnsupportedError(
                    "a number that item() gave inside a compiled function was kept beyond it",
                    {"read at": self.value.where},
                    hint="return it from the function",
                )
            return FUNCTIONS[function](*known)
        made = self.made(function, xs)
        if made.from_tensor:
            return self.recorder.decided(made.value, made.typed.kind)
        r = self.recorder
        r.assumed.append(assumption(made.value, made.known, r.sources, str(r.here())))
        return made.known

    def look(self) -> float:
        """The value itself."""
        if self.from_tensor and self.known is not None:
            return self.known
        value = self.decide("float", Number(self))
        if self.from_tensor:
            self.known = value
        return value

    # What torch's C++ asks.

    def is_float(self) -> bool:
        """It is a float."""
        return True

    def is_int(self) -> bool:
        """It is no int."""
        return False

    is_bool = is_nested_int = is_constant = is_int

    def is_symbolic(self) -> bool:
        """It is not just a number."""
        return True

    def has_hint(self) -> bool:
        """torch may not look at a likely value."""
        return False

    def guard_float(self, file: str, line: int) -> float:
        """C++ needs the value."""
        return self.look()

    def wrap_float(self, value: float) -> Varying:
        """A plain number as a node."""
        return Varying(self.recorder, constant(value), value)

    def clone(self) -> Varying:
        """Values are never changed."""
        return self

    def _graph_repr(self) -> str:
        return f"<{self.value.op.name()}: a number of a recording>"

    str = _graph_repr


def varying(x: Any) -> Any:
    """A number's value, a plain number as it is, NotImplemented for anything else."""
    if isinstance(x, torch.SymFloat):
        return x.node if isinstance(x.node, Varying) else NotImplemented
    return x if type(x) in NUMBERS else NotImplemented


def stays_real(base: Any, exponent: Any) -> bool:
    """Whether a power is a float whatever its numbers become: else Python makes it complex."""
    if type(exponent) in NUMBERS:
        return float(exponent).is_integer()
    return type(base) in NUMBERS and base > 0


class Number(torch.SymFloat):
    """A float that varies. It is no instance of float in C, so nothing reads a value behind it."""

    node: Varying
    __class__ = property(lambda self: float)  # type: ignore[assignment]  # for isinstance(x, float)

    @property
    def recorder(self) -> Recording:
        """Whose graph it is a value of."""
        return self.node.recorder

    def __bool__(self) -> bool:
        return self.node.decide("bool", self)

    def __float__(self) -> float:
        return self.node.look()

    # torch annotates the methods that it installs later with NoReturn.
    def __int__(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.node.decide("int", self)

    __trunc__ = __int__  # pyright: ignore[reportAssignmentType]

    def __floor__(self) -> int:
        return self.node.decide("floor", self)

    def __ceil__(self) -> int:
        return self.node.decide("ceil", self)

    def __round__(self, digits: int | None = None) -> Any:
        if digits is None:
            return self.node.decide("round", self)
        return self.node.apply("round", self, digits)

    def __neg__(self) -> Any:
        return self.node.apply("neg", self)

    def __pos__(self) -> Number:
        return self

    def __abs__(self) -> Any:
        return self.node.apply("abs", self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __hash__(self) -> int:
        return hash(self.node.look())

    def __repr__(self) -> str:
        if self.node.recorder.finished and self.node.known is None:
            return self.node._graph_repr()
        return repr(self.node.look())

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.node.look(), spec)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy

        return numpy.asarray(self.node.look(), dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **more: Any) -> Any:
        given = [x.node.look() if isinstance(x, Number) else x for x in inputs]
        return getattr(ufunc, method)(*given, **more)

    def __complex__(self) -> complex:
        return complex(self.node.look())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return float, (self.node.look(),)

    def __copy__(self) -> Number:
        return self

    def __deepcopy__(self, memo: object) -> Number:
        return self

    def is_integer(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Whether there is no fraction."""
        return self.node.decide("is_integer", self)

    def as_integer_ratio(self) -> tuple[int, int]:
        """The exact fraction."""
        return self.node.look().as_integer_ratio()

    def hex(self) -> str:
        """The exact value as text."""
        return self.node.look().hex()

    def conjugate(self) -> Number:
        """Itself: it is real."""
        return self

    real = property(conjugate)
    imag = property(lambda self: 0.0)

    def __sym_max__(self, other: Any) -> Any:
        return other if other > self else self

    def __sym_min__(self, other: Any) -> Any:
        return other if other < self else self

    def __sym_float__(self) -> Number:
        return self

    __sym_int__ = __int__  # pyright: ignore[reportAssignmentType]


def operation(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The method of a binary operator, and the one for the number on its right."""

    def forward(self: Number, other: Any) -> Any:
        return self.node.apply(name, self, other)

    def reflected(self: Number, other: Any) -> Any:
        return self.node.apply(name, other, self)

    return forward, reflected


def comparison(name: str) -> Callable[..., Any]:
    """The method of a comparison: Python goes on by its truth."""
    return lambda self, other: self.node.decide(name, self, other)


def function(name: str) -> Callable[..., Any]:
    """The method behind `torch.sym_sqrt` and its like."""
    return lambda self: self.node.apply(name, self)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    _forward, _reflected = operation(_name)
    setattr(Number, f"__{_name}__", _forward)
    setattr(Number, f"__r{_name}__", _reflected)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Number, f"__{_name}__", comparison(_name))
for _name in (
    "sqrt",
    "exp",
    "log2",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
):
    setattr(Number, f"__sym_{_name}__", function(_name))
