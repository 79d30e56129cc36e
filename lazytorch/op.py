"""Op: what a node does, with its static attributes and its rules; knows no operation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Self, dataclass_transform

from lazytorch.types import Type

Attribute = Any  # None, bool, int, float, complex, str, dtype, device, Graph, Data, tuples of those


@dataclass_transform(frozen_default=True, eq_default=False)
class Op:
    """What a node does. Fields are static attributes: printed, parsed and compared with their type.

    Methods are the operation's rules. `infer` gives the result's type, `run` computes it with
    torch, `emit` (elementwise only) computes it on any backend passed as an argument.
    """

    registry: ClassVar[dict[str, type[Op]]] = {}
    effect: ClassVar[bool] = False
    """Whether it must happen even if nothing reads it, in order with the other effects."""
    view: ClassVar[bool] = False
    """Whether `run` returns its first operand's own storage (or may)."""
    overwrites: ClassVar[int | None] = None
    """The operand over which `overwrite` can write the result, where it is of the same type."""

    pushed_by_torch: ClassVar[bool] = False
    """Whether forward mode takes torch's formula although there is a rule: where that chooses a 0,
    its own derivative is NaN."""

    __match_args__: ClassVar[tuple[str, ...]] = ()
    """Names of the fields in order; a class attribute of the name is the default."""

    def __init_subclass__(cls, abstract: bool = False) -> None:
        # A hundred dataclasses would cost a sixth of a second at import, for the code they make.
        annotated = inspect.get_annotations(cls)
        own = [name for name, kind in annotated.items() if not str(kind).startswith("ClassVar")]
        inherited = cls.__match_args__
        cls.__match_args__ = (*inherited, *[name for name in own if name not in inherited])
        if not abstract:
            if cls.name() in Op.registry and Op.registry[cls.name()].__module__ != cls.__module__:
                raise TypeError(f"two operations are named {cls.name()}")
            Op.registry[cls.name()] = cls

    def __init__(self, *args: Attribute, **kwargs: Attribute) -> None:
        names = self.__match_args__
        if len(args) > len(names):
            raise TypeError(f"{self.name()} has {len(names)} attributes, {len(args)} were given")
        if kwargs and (unknown := [name for name in kwargs if name not in names[len(args) :]]):
            raise TypeError(f"{self.name()} has no attribute {', '.join(unknown)}")
        values = self.__dict__
        values.update(zip(names, args, strict=False))
        for name in names[len(args) :]:
            if name in kwargs:
                values[name] = kwargs[name]
            elif hasattr(self, name):
                values[name] = getattr(self, name)
            else:
                raise TypeError(f"{self.name()} needs the attribute {name}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an operation is frozen: {self.name()}.{name}")

    def with_attributes(self, **changed: Attribute) -> Self:
        """The same operation with other attributes."""
        return type(self)(**{**dict(self.attributes()), **changed})

    @classmethod
    def name(cls) -> str:
        """Snake-case class name: how the graph's text spells the operation."""
        name = cls.__dict__.get("_name")
        if name is None:
            text = cls.__name__
            name = text[0].lower() + "".join(
                f"_{c.lower()}" if c.isupper() else c for c in text[1:]
            )
            cls._name = name  # type: ignore[attr-defined]  # a cache on the class itself
        return name

    # The unused keywords let subclasses fix their number of operands under strict typing.
    def infer(self, *xs: Any, **_: Any) -> Type:
        """Type of the result from the operands' types; raises ShapeError, DTypeError."""
        raise NotImplementedError(f"{self.name()} has no type rule")

    def run(self, *xs: Any, **_: Any) -> Any:
        """The result computed by torch from tensors and numbers."""
        raise NotImplementedError(f"{self.name()} has no torch kernel")

    def scratch(self, *xs: Any, **_: Any) -> int:
        """Bytes that torch's kernels for it take and give back, by the operands' types; 0 where
        that is not known too."""
        return 0

    def overwrite(self, *xs: Any, **_: Any) -> Any:
        """What `run` computes, written over the operand `overwrites`, which is returned."""
        raise NotImplementedError(f"{self.name()} has no kernel that overwrites")

    def alternatives(self, *xs: Any) -> Mapping[str, Op]:
        """Operations that compute the same with other library kernels, by name: where this has any,
        which is fastest on operands of such types may be measured."""
        return {}

    def saving(self, *xs: Any) -> Op | None:
        """The operation that gives these results and then what the derivative needs of them."""
        return None

    def recordable(self) -> Op:
        """The operation that torch's formula of the derivative is recorded from."""
        return self

    def vjp(self, s: Any, g: Any, out: Any, *xs: Any, **_: Any) -> Any:
        """`Cotangents` of the operands from that of the result; NotImplemented leaves it to torch's
        own formula.

        `s` builds nodes (`ops.calculus`), `out` is the result's node. Of a tuple, `g` is a list.
        Cotangents may be broadcast or of a wider dtype: the caller undoes that. Rules are for real
        numbers, and made of operations that have rules.
        """
        return NotImplemented

    @property
    def fresh(self) -> bool:
        """Whether it is made anew at every call, though it reads nothing that changes: no prologue
        keeps it, nor what is made of it."""
        return False

    def attributes(self) -> tuple[tuple[str, Attribute], ...]:
        """Names and values of the static attributes in order."""
        return tuple([(name, getattr(self, name)) for name in self.__match_args__])

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What equality compares: 1, 1.0 and True differ, so do 0.0 and -0.0; NaN equals itself."""
        return (type(self), *(attribute_key(value) for _, value in self.attributes()))

    @cached_property
    def _hash(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Op) and self.key == other.key)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        attributes = ", ".join(f"{k}={v!r}" for k, v in self.attributes())
        return f"{type(self).__name__}({attributes})"


def attribute_key(value: Attribute) -> object:
    """A hashable stand-in for an attribute that is equal exactly when type and bits are."""
    kind = value.__class__
    if kind is float:
        return (float, value.hex())
    if kind is complex:
        return (complex, value.real.hex(), value.imag.hex())
    if kind is tuple:
        return tuple([attribute_key(v) for v in value])
    if kind is int or kind is bool:
        return (kind, value)
    return value


class Operand:
    """Stands for operand `index` among the static arguments of an `aten` operation: `$0`."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operand) and other.index == self.index

    def __hash__(self) -> int:
        return hash((Operand, self.index))

    def __repr__(self) -> str:
        return f"${self.index}"


class Callback:
    """Python code of the user's that an operation calls: compared by identity, printed by name."""

    name: str

    def pull(self, s: Any, g: Any, out: Any, xs: Any) -> Any:
        """What the operation's derivative rule returns."""
        raise NotImplementedError(f"{self.name} has no derivative")
