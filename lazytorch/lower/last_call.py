"""A program's last call apart from the others, where it makes a large result.

What a CUDA graph leaves in its pool is copied out, since the next replay writes over it. Where a
large result is the last thing that is computed (a language model's scores, say), that call is left
out of the graph: it runs behind every replay, and writes into the memory that is handed out.

Declines on programs that write to inputs, for which memory is found before anything is written; on
calls that draw random numbers, write into what is there or make several results; and where another
call reads the result, or writes over what the call reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lazytorch.ir import Const
from lazytorch.lower.line import Line
from lazytorch.lower.program import Program
from lazytorch.types import TensorType

WORTH = 16 * 2**20
"""Bytes whose copy takes a GPU about as long as the host takes for a launch: 10 us."""


@dataclass(frozen=True)
class LastCall:
    """The call that makes output number `output` of `reads`, and the program before it.

    `before` returns what the program does, with None for that output and for what shows it, and
    then what is read besides inputs.
    """

    before: Program
    run: Callable[..., tuple[Any, ...]]
    reads: tuple[str, ...]
    output: int

    def operands(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
        """What the call reads, of a program's inputs and of what `before` returned."""
        named = dict(zip(self.before.inputs, inputs, strict=True))
        named |= zip(self.before.returned, outputs, strict=True)
        return [named[name] for name in self.reads]


def last_call(program: Program) -> LastCall | None:
    """The last call, if it makes a result of at least `WORTH` bytes."""
    *lines, _ = program.lines
    found = behind(lines)
    if found is None:
        return None
    made = {x.name for x in found}
    known = {*program.inputs, *[x.name for x in lines]} - made
    reads = tuple(dict.fromkeys(name for x in found for name in x.reads if name in known))
    (result,) = [x.name for x in found if x.typed is not None]
    returned = ["None" if name in made else name for name in program.returned]
    returned += [name for name in reads if name not in program.inputs]
    rest = [keeping(x, reads) for x in lines if x not in found]
    rest.append(returning(returned))
    name = program.run.__name__
    before = part(program, f"before_the_last_call_of_{name}", program.inputs, rest, returned)
    needed = found[: 1 + [x.name for x in found].index(result)]  # the rest shows it once more
    last = part(program, f"last_call_of_{name}", reads, [*needed, returning([result])], [result])
    return LastCall(before, last.run, reads, program.returned.index(result))


def behind(lines: Sequence[Line]) -> list[Line] | None:
    """The lines of such a call, and those that show its result; None where there is none.

    Others may come behind it: it can run after them, unless they write over what it reads.
    """
    if any(x.does in ("end", "reserve") for x in lines):
        return None
    for i in range(len(lines) - 1, 0, -1):
        if suits(lines[i]) and (found := shown(lines, i)) is not None:
            return found
        if lines[i].does == "overwrite" or lines[i].into:
            return None
    return None


def shown(lines: Sequence[Line], i: int) -> list[Line] | None:
    """A line and all that read its result, if these only show it, once as an output."""
    found, made = [lines[i]], {lines[i].name}
    for x in lines[i + 1 :]:
        if not made.isdisjoint(x.reads):
            if x.does != "same" and not shows(x):
                return None
            found.append(x)
            made.add(x.name)
    outputs = sum(x.typed is not None for x in found)
    others = any(x.does != "same" and not shows(x) for x in lines if x not in found)
    return found if outputs == 1 and others else None


def suits(line: Line) -> bool:
    """Whether a line is a call that can run behind others, and makes a large result."""
    node = line.node
    if line.does != "call" or node is None or line.into or node.op.effect or node.op.view:
        return False
    if not isinstance(node.type, TensorType) or node.type.nbytes < WORTH:
        return False
    return all(isinstance(x.type, TensorType) or isinstance(x.op, Const) for x in node.inputs)


def shows(line: Line) -> bool:
    """Whether a call only shows memory that is there."""
    return line.does == "call" and line.node is not None and line.node.op.view


def keeping(line: Line, names: Sequence[str]) -> Line:
    """A line that deletes none of these variables."""
    dead = tuple([x for x in line.dead if x not in names])
    if len(dead) == len(line.dead):
        return line
    text = line.text.split("; del ")[0] + (f"; del {', '.join(dead)}" if dead else "")
    return replace(line, text=text, dead=dead)


def returning(names: Sequence[str]) -> Line:
    """The line that ends a program."""
    return Line(f"return ({''.join(f'{name}, ' for name in names)})", "end")


def part(
    program: Program,
    name: str,
    inputs: Sequence[str],
    lines: Sequence[Line],
    returned: Sequence[str],
) -> Program:
    """Some of a program's lines as a program."""
    source = "\n".join([f"def {name}({', '.join(inputs)}):", *[f"    {x.text}" for x in lines]])
    space, file = program.run.__globals__, f"<lazytorch {name}>"
    exec(compile(source, file, "exec"), space)
    return replace(
        program,
        source=source,
        run=space[name],
        inputs=inputs,
        lines=lines,
        returned=returned,
        file=file,
    )
