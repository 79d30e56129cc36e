"""A line of a program: what it prints as, and which memory its result has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lazytorch.ir import Node
from lazytorch.lower.call import KernelCall, LibraryCall
from lazytorch.types import TensorType

Does = Literal["call", "overwrite", "item", "same", "copy", "clone", "reserve", "end"]
"""What a line does: `call` an operation; `overwrite` an operand by one; take an `item` of a tuple;
show the `same` memory under another name; `copy` to the type's layout; `clone`; `reserve` memory
for the lines behind it; and what makes no value is an `end`: writes to inputs, the return."""


@dataclass(frozen=True, eq=False)
class Line:
    """One line, with the variable that it sets and those that it reads and deletes.

    `node` is the value, `site` the call's several ways if it has any, `into` the results that are
    written into the variables behind the operands. `typed` is what is copied, where it is, or asked
    for and given back.
    """

    text: str
    does: Does
    name: str = ""
    reads: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    node: Node | None = None
    site: KernelCall | LibraryCall | None = None
    into: tuple[int, ...] = ()
    typed: TensorType | None = None
