"""A Program: the ordered calls that a graph becomes, as straight-line Python that is what runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lazytorch.interpret import aliased
from lazytorch.ir import Const, Graph, Input, Item, Node, Op, Write
from lazytorch.lower.call import KernelCall, LibraryCall, own
from lazytorch.lower.counted import counted
from lazytorch.lower.kernel import Generated, Kernel, Target
from lazytorch.lower.line import Line
from lazytorch.lower.prepared import operands_of, prepared
from lazytorch.lower.reserve import reserve
from lazytorch.ops.aten import Aten
from lazytorch.ops.number import Arithmetic
from lazytorch.ops.offload import ToHost
from lazytorch.straight import overwriting, root, written_over, written_straight
from lazytorch.types import TensorType


@dataclass
class Program:
    """Straight-line Python over torch calls and generated kernels."""

    source: str
    run: Callable[..., tuple[Any, ...]]
    calls: list[KernelCall]
    inputs: Sequence[str]
    lines: Sequence[Line]
    returned: Sequence[str]
    refused: dict[Node, str] = field(default_factory=dict[Node, str])
    library: list[LibraryCall] = field(default_factory=list[LibraryCall])
    file: str = ""  # what tracebacks call it

    def kernels(self) -> dict[str, Kernel]:
        """The distinct kernels by name."""
        return {call.kernel.name: call.kernel for call in self.calls}

    def settled(self) -> bool:
        """Whether every call site stays as it is: in place and measured, or never to be."""
        return all(call.settled for call in (*self.calls, *self.library))


def lower(graph: Graph, target: Target | None, name: str, owned: bool = True) -> Program:
    """The program of a graph: its own arithmetic, then results, then writes to inputs.

    With `owned`, outputs follow the graph's aliases and share no memory otherwise; without, they
    are handed on as they are (a prologue's values).
    """
    return Lowering(graph, target, name, owned).program()


class Lowering:
    """One graph on its way to a program."""

    def __init__(self, graph: Graph, target: Target | None, name: str, owned: bool) -> None:
        self.graph = graph
        self.target = target
        self.name = name
        self.owned = owned
        self.names: dict[Node, str] = {x: identifier(i, x) for i, x in enumerate(graph.inputs)}
        owning = tuple(
            x
            for x, alias in zip(graph.outputs, graph.aliases, strict=True)
            if alias is None or not owned
        )  # a view of an input or an output is made from that tensor itself
        self.needed = Graph(graph.inputs, owning, graph.effects, order=graph.order)
        self.space: dict[str, Any] = {"own": own, "aliased": aliased}
        self.lines: list[Line] = []
        self.calls: list[KernelCall] = []
        self.library: list[LibraryCall] = []
        self.refused: dict[Node, str] = {}
        self.kernels = {} if target is None else prepared(self.needed, target, self.refused)
        self.straight = written_straight(self.needed, set(self.kernels))
        self.over = written_over(self.needed, set(self.kernels), self.straight)
        self.reserve = reserve(self.needed, self.straight, self.over)
        self.overwriting = overwriting(self.needed)

    def program(self) -> Program:
        """Print, compile, and keep what belongs together."""
        writes = [node for node in self.needed.nodes if isinstance(node.op, Write)]
        done = {x for targets in self.straight.values() for x in targets.values()}
        late = [node for node in writes if node.inputs[0] not in done]
        self.compute(late)
        computed = len(self.lines)
        results = self.results()
        self.write(late, {x.inputs[0] for x in writes})
        self.copy_early(computed)
        self.reserve_early()
        if done:
            self.space["counted"] = counted
            counts = ", ".join([self.names[x] for x in self.graph.inputs if x in done])
            self.lines.append(Line(f"counted({counts})", "end"))
        texts = [self.aliased(i, results) for i in range(len(results))]
        self.lines.append(Line(f"return ({''.join(text + ', ' for text in texts)})", "end"))
        inputs = self.names_of_inputs()
        header = f"def {self.name}({', '.join(inputs)}):"
        source = "\n".join([header, *("    " + line.text for line in self.lines)])
        file = f"<lazytorch {self.name}>"
        exec(compile(source, file, "exec"), self.space)
        run = self.space[self.name]
        return Program(
            source, run, self.calls, inputs, self.lines, texts, self.refused, self.library, file
        )

    def compute(self, writes: list[Node]) -> None:
        """A line for every value that something reads, or that a kernel writes where it belongs;
        values are deleted once nothing reads them. The `writes` come afterwards."""
        used = {
            x for node in self.needed.nodes if not isinstance(node.op, Write) for x in node.inputs
        }
        used |= {*self.needed.outputs, *[x.inputs[1] for x in writes]}
        taken = [x for x in self.needed.nodes if not isinstance(x.op, Item | Write) or x in used]
        dying, read = last_uses([*taken, *writes], self.needed)
        for node in taken:
            if node in self.names:
                continue
            if isinstance(node.op, Const):
                self.names[node] = constant_text(node.op.value, self.space)
                continue
            name = self.names[node] = f"v{len(self.lines)}"
            into = self.into(node)
            operands = [self.names[x] for x in (*node.inputs, *into.values())]
            site: KernelCall | LibraryCall | None = None
            if isinstance(node.op, Item):
                does, text = "item", f"{operands[0]}[{node.op.index}]"
            else:
                does = "overwrite" if node in self.overwriting else "call"
                function, site = self.callee(node)
                text = f"{function}({', '.join(operands)})"
            dead = [self.names[x] for x in dying.get(node, ())]
            if node not in read:
                dead.append(name)
            text = f"{name} = {text}" + (f"; del {', '.join(dead)}" if dead else "")
            self.lines.append(
                Line(text, does, name, tuple(operands), tuple(dead), node, site, tuple(into))
            )

    def into(self, node: Node) -> dict[int, Node]:
        """The results that a group's kernel writes into memory that is there, and what shows it."""
        return {**self.straight.get(node, {}), **self.over.get(node, {})}

    def results(self) -> list[str]:
        """Names of the outputs that own their memory, in place before any input is written."""
        names: list[str] = []
        seen: set[object] = set()
        for i, (node, alias) in enumerate(zip(self.graph.outputs, self.graph.aliases, strict=True)):
            name = self.names.get(node, "")
            if self.owned and alias is None and isinstance(node.type, TensorType):
                base = root(node)
                constant = isinstance(base, Node) and not base.inputs  # an input, a literal
                shared = base in seen or constant
                seen.add(base)
                self.space[f"type{i}"] = node.type
                text, does = f"r{i} = own({name}, type{i}, {shared})", "copy" if shared else "same"
                if not shared:  # nearly always it lies so: asked here, that takes a quarter
                    self.space[f"lies{i}"] = node.type.strides
                    same = f"{name} if {name}.stride() == lies{i}"
                    text = f"r{i} = {same} else own({name}, type{i}, {shared})"
                self.lines.append(Line(text, does, f"r{i}", (name,), node=node, typed=node.type))
                name = f"r{i}"
            names.append(name)
        return names

    def write(self, writes: list[Node], written: set[Node]) -> None:
        """Copy into inputs; what still shows an input that is written is copied out before."""
        copies: list[Line] = []
        for i, (target, value) in enumerate(node.inputs for node in writes):
            text = self.names[value]
            if root(value) in written:
                clone = Line(f"w{i} = {text}.clone()", "clone", f"w{i}", (text,), node=value)
                self.lines.append(clone)
                text = f"w{i}"
            copies.append(Line(f"{self.names[target]}.copy_({text})", "end", reads=(text,)))
        self.lines += copies

    def copy_early(self, computed: int) -> None:
        """Move what copies, among the lines behind those that compute, before the first kernel that
        writes to an input, if what it copies is there by then: no input is written before memory
        for the copies is found."""
        writing = (i for i, line in enumerate(self.lines) if line.node in self.straight)
        first = next(writing, computed)
        there = {*self.names_of_inputs(), *[line.name for line in self.lines[:first]]}
        moved = [x for x in self.lines[computed:] if x.name and there.issuperset(x.reads)]
        rest = [x for x in self.lines[first:] if x not in moved]
        self.lines[first:] = [*moved, *rest]

    def reserve_early(self) -> None:
        """Ask for memory before the first kernel that writes to an input."""
        if self.reserve is not None:
            node, asks = self.reserve
            self.space["reserve"] = asks
            first = next(i for i, line in enumerate(self.lines) if line.node is node)
            self.lines.insert(first, Line("reserve()", "reserve", node=node, typed=asks.typed))

    def names_of_inputs(self) -> list[str]:
        """The variables that a call fills."""
        return [self.names[x] for x in self.graph.inputs]

    def aliased(self, i: int, results: list[str]) -> str:
        """The expression of output i."""
        alias = self.graph.aliases[i]
        if alias is None or not self.owned:
            return results[i]
        if alias.source == "input":
            base = self.names[self.graph.inputs[alias.index]]
        else:
            base = results[alias.index]
        if alias.strides is None:
            results[i] = base
            return base
        self.space[f"alias{i}"] = replace(alias, index=0)
        text = f"r{i} = aliased(alias{i}, ({base},))"
        self.lines.append(Line(text, "same", f"r{i}", (base,)))
        results[i] = f"r{i}"
        return results[i]

    def callee(self, node: Node) -> tuple[str, KernelCall | LibraryCall | None]:
        """The name under which the node's kernel is called, and its call site if it is one."""
        op = node.op
        if node in self.kernels:
            assert isinstance(op, Generated) and self.target is not None
            kernel, into = self.kernels[node], tuple(self.into(node))
            self.calls.append(KernelCall(op, operands_of(node), kernel, self.target, into))
            slot = f"k{len(self.calls) - 1}_{kernel.name}"
            self.space[slot] = self.calls[-1]
            return f"{slot}.call", self.calls[-1]
        label = op.overload.replace(".", "_") if isinstance(op, Aten) else op.name()
        label = f"python_{op.function}" if isinstance(op, Arithmetic) else label
        others = node.op.alternatives(*[x.type for x in node.inputs])
        if others and isinstance(node.type, TensorType):
            self.library.append(LibraryCall(op, others, node.type.device))
            slot = f"l{len(self.library) - 1}_{label}"
            self.space[slot] = self.library[-1]
            return f"{slot}.call", self.library[-1]
        over = node in self.overwriting
        function = unique(f"{label}_" if over else label, op, self.space)
        self.space[function] = op.overwrite if over else op.run
        return function, None


def waiting(program: Program) -> list[TensorType]:
    """What is copied to the host's memory, in the order of the lines."""
    sent = (
        x.node.inputs[0].type for x in program.lines if x.node and isinstance(x.node.op, ToHost)
    )
    return [x for x in sent if isinstance(x, TensorType)]


def identifier(i: int, x: Node) -> str:
    """A Python name for an input."""
    assert isinstance(x.op, Input)
    text = "".join(c if c.isalnum() else "_" for c in x.op.label)
    return f"{text}_{i}" if text[0].isalpha() else f"x_{text}_{i}"


def constant_text(value: Any, space: dict[str, Any]) -> str:
    """A number as Python text; what has no literal gets a name."""
    text = repr(value)
    if "inf" in text or "nan" in text:
        text = f"c{len(space)}"
        space[text] = value
    return text


def unique(label: str, op: Op, space: dict[str, Any]) -> str:
    """A name for the operation's bound kernel; equal operations share one."""
    text, count = label, 1
    while text in space:
        bound = getattr(space[text], "__self__", None)
        if bound == op:
            return text
        text, count = f"{label}_{count}", count + 1
    return text


def last_uses(nodes: Sequence[Node], graph: Graph) -> tuple[dict[Node, list[Node]], set[Node]]:
    """For each of the nodes, the operands that none reads after it; and all nodes that are read."""
    kept = {*graph.outputs, *graph.inputs}
    final: dict[Node, Node] = {}
    for node in nodes:
        for x in node.inputs:
            final[x] = node
            if isinstance(node.op, Write):
                kept.add(x)
    dying: dict[Node, list[Node]] = {}
    for x, node in final.items():
        if x not in kept and not isinstance(x.op, Const):
            dying.setdefault(node, []).append(x)
    return dying, kept | set(final)
