"""The text form of a graph: `str(parse(text)) == text`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import MISSING
from typing import Any, NoReturn, cast

import torch

from lazytorch.data import Data
from lazytorch.errors import ParseError
from lazytorch.ir import (
    Alias,
    Attribute,
    Const,
    Graph,
    Input,
    Node,
    Op,
    Operand,
    Write,
    attribute_key,
)
from lazytorch.op import Callback
from lazytorch.types import (
    OpaqueType,
    ScalarType,
    TensorType,
    TupleType,
    Type,
    dtype_name,
    dtype_named,
    tensor_type,
)


def names(graph: Graph) -> dict[Node, str]:
    """How the text names each node: inputs by their label, the others by number."""
    found = {
        x: f"%{x.op.label}" if isinstance(x.op, Input) else f"%in{i}"
        for i, x in enumerate(graph.inputs)
    }
    count = 0
    for node in graph.nodes:
        if isinstance(node.op, Const):
            found[node] = print_attribute(node.op.value)
        elif node not in found:
            found[node] = f"%{count}"
            count += 1
    return found


def print_graph(graph: Graph, indent: str = "", where: bool = False) -> str:
    """The text; with `where`, each line ends in the user's line as a comment."""
    name = names(graph)
    params = ", ".join(
        f"{name[x]}: {x.type}" + (" state" if is_state(x) else "") for x in graph.inputs
    )
    lines = [f"graph({params}) {'ordered ' if graph.order else ''}{{"]
    inputs = set(graph.inputs)
    for node in graph.nodes:
        if node in inputs or isinstance(node.op, Const):
            continue
        line = f"{indent}  {name[node]}: {node.type} = {node.op.name()}"
        line += print_attributes(node.op, indent + "  ")
        line += "".join(f" {name[x]}" for x in node.inputs)
        if where and node.where is not None:
            line += f"  # {node.where}"
        lines.append(line)
    if graph.effects:
        lines.append(f"{indent}  effects " + ", ".join(name[x] for x in graph.effects))
    outputs = [
        name[x] + (f" ({alias})" if alias is not None else "")
        for x, alias in zip(graph.outputs, graph.aliases, strict=True)
    ]
    lines.append(f"{indent}  return {', '.join(outputs)}".rstrip())
    return "\n".join([*lines, indent + "}"])


def is_state(x: Node) -> bool:
    """Whether an input is a parameter or a buffer."""
    return isinstance(x.op, Input) and x.op.role == "state"


def print_attributes(op: Op, indent: str = "") -> str:
    """`{perm=(1, 0)}`; what equals its default is left out."""
    shown: list[str] = []
    for name, value in op.attributes():
        default = getattr(type(op), name, MISSING)
        if default is MISSING or attribute_key(default) != attribute_key(value):
            shown.append(f"{name}={print_attribute(value, indent)}")
    return "{" + ", ".join(shown) + "}" if shown else ""


def print_attribute(value: Attribute, indent: str = "") -> str:
    """One static attribute, in a form that `Parser.attribute` reads back with its type."""
    if value is None or isinstance(value, bool | int | float | Operand):
        return repr(value)
    if isinstance(value, TensorType | TupleType | ScalarType | OpaqueType):
        return f"type({value})"
    if isinstance(value, complex):
        return f"complex({value.real!r}, {value.imag!r})"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        inner = [print_attribute(v, indent) for v in cast(tuple[Attribute, ...], value)]
        return f"({inner[0]},)" if len(inner) == 1 else f"({', '.join(inner)})"
    if isinstance(value, torch.dtype):
        return dtype_name(value)
    if isinstance(value, torch.device):
        return f"device({json.dumps(str(value))})"
    if isinstance(value, torch.memory_format | torch.layout):
        kind = "format" if isinstance(value, torch.memory_format) else "layout"
        return f"{kind}({str(value).removeprefix('torch.')})"
    if isinstance(value, Data):
        items = value.items
        content = f"@{value.digest}" if items is None else print_attribute(items)
        return f"data({value.type}, {content})"
    if isinstance(value, Graph):
        return print_graph(value, indent)
    if isinstance(value, Callback):
        return f"callback({json.dumps(value.name)})"  # which no text can hold: it is not parsed
    if isinstance(value, Op):
        return f"op({value.name()}{print_attributes(value, indent)})"
    raise TypeError(f"{type(value).__name__} cannot be a static attribute: {value!r}")


_TOKEN = re.compile(
    r"""\s*(?:\#[^\n]*\n\s*)*(?:
    (?P<value>%[\w.\[\]]+) | (?P<hole>\$\d+) | (?P<digest>@[0-9a-f]+)
  | (?P<number>-?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf\b|nan\b))
  | (?P<string>"(?:[^"\\]|\\.)*") | (?P<word>[A-Za-z_]\w*(?::\d+)?)
  | (?P<mark>[(){}\[\],=:]) | (?P<end>$) )""",
    re.VERBOSE,
)


def parse(text: str) -> Graph:
    """The graph that `text` prints. ParseError names line and column."""
    from lazytorch.verify import verify

    return verify(Parser(text).whole())


class Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.advance()

    def advance(self) -> None:
        """Read the next token into `kind` and `token`."""
        self.start = self.position
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            self.fail("unreadable text")
        self.position = match.end()
        self.kind = str(match.lastgroup)
        self.token = match.group(self.kind)
        self.start = match.start(self.kind)

    def fail(self, message: str) -> NoReturn:
        """Raise ParseError at the present token."""
        before = self.text[: self.start]
        line = before.count("\n") + 1
        column = len(before) - before.rfind("\n")
        found = self.text[self.start : self.start + 40].strip().split("\n")[0]
        at = f"at line {line}, column {column}"
        raise ParseError(f"{message} {at}", {"found": found or "the end"})

    def take(self, *tokens: str) -> str:
        """The present token if it is one of `tokens` (any, when none are given), then advance."""
        token = self.token
        if tokens and token not in tokens:
            self.fail(f"expected {' or '.join(tokens)}")
        self.advance()
        return token

    def accept(self, token: str) -> bool:
        """Advance past `token` if it is there."""
        if self.token != token:
            return False
        self.advance()
        return True

    def whole(self) -> Graph:
        """A graph and nothing after it."""
        self.take("graph")
        graph = self.graph()
        if self.kind != "end":
            self.fail("text after the graph")
        return graph

    def graph(self) -> Graph:
        """What follows the word `graph`."""
        known: dict[str, Node] = {}
        self.take("(")
        while not self.accept(")"):
            label = self.take()
            self.take(":")
            typed = self.type()
            role = "state" if self.accept("state") else "argument"
            known[label] = Node(Input(label[1:], typed, role), (), typed)
            self.accept(",")
        inputs = tuple(known.values())
        ordered = self.accept("ordered")
        self.take("{")
        while self.kind == "value":
            label = self.take()
            annotated = self.type() if self.accept(":") else None
            self.take("=")
            known[label] = self.node(known, annotated)
        effects: list[Node] = []
        if self.accept("effects"):
            effects = self.listed(lambda: self.operand(known))
        self.take("return")
        outputs: list[Node] = []
        aliases: list[Alias | None] = []
        while self.token != "}":
            outputs.append(self.operand(known))
            aliases.append(self.alias() if self.accept("(") else None)
            if not self.accept(","):
                break
        self.take("}")
        order = list(known.values())[len(inputs) :] if ordered else []
        order = [x for x in order if not isinstance(x.op, Write)]
        return Graph(inputs, tuple(outputs), tuple(effects), tuple(aliases), tuple(order))

    def node(self, known: dict[str, Node], annotated: Type | None) -> Node:
        """An operation with its attributes and operands."""
        op = self.op()
        inputs: list[Node] = []
        while self.kind in ("value", "number") or self.token in ("True", "False", "complex"):
            # A value that starts the next line is followed by `:` or `=`.
            if self.kind == "value" and self.text[self.position :].lstrip()[:1] in (":", "="):
                break
            inputs.append(self.operand(known))
        inferred = op.infer(*[x.type for x in inputs])
        return Node(op, tuple(inputs), inferred if annotated is None else annotated)

    def op(self) -> Op:
        """An operation's name and attributes."""
        if self.token not in Op.registry:
            self.fail(f"no operation is named {self.token}")
        kind = Op.registry[self.take()]
        attributes: dict[str, Attribute] = {}
        if self.accept("{"):
            while not self.accept("}"):
                key = self.take()
                self.take("=")
                attributes[key] = self.attribute()
                self.accept(",")
        try:
            return kind(**attributes)
        except TypeError as error:
            self.fail(str(error))

    def operand(self, known: dict[str, Node]) -> Node:
        """A named value or a number."""
        if self.kind == "value":
            if self.token not in known:
                self.fail(f"{self.token} is used before it is made")
            return known[self.take()]
        value: Attribute = self.attribute()
        if not isinstance(value, int | float | complex):
            self.fail("an operand is a value or a number")
        return Node(Const(value), (), ScalarType(type(value)))

    def alias(self) -> Alias:
        """What follows an output in parentheses."""
        if not self.accept("view"):
            source = self.take("input", "output")
            alias = Alias(source, int(self.take()))  # type: ignore[arg-type]  # checked by take
            self.take(")")
            return alias
        self.take("of")
        source = self.take("input", "output")
        index = int(self.take())
        self.take(":")
        given: dict[str, Any] = {}
        while not self.accept(")"):
            key = self.take("shape", "strides", "offset", "dtype", "conj")
            self.take("=")
            given[key] = self.attribute()
            self.accept(",")
        return Alias(source, index, **given)  # type: ignore[arg-type]

    def listed(self, one: Callable[[], Any]) -> list[Any]:
        """Items with commas between."""
        items = [one()]
        while self.accept(","):
            items.append(one())
        return items

    def ints(self, close: str) -> tuple[int, ...]:
        """Integers up to `close`."""
        found: list[int] = []
        while not self.accept(close):
            found.append(int(self.take()))
            self.accept(",")
        return tuple(found)

    def type(self) -> Type:
        """A type as `Type.__str__` prints it."""
        if self.accept("("):
            items: list[Type] = []
            while not self.accept(")"):
                items.append(self.type())
                self.accept(",")
            return TupleType(tuple(items))
        word = self.take()
        if word in ("int", "float", "complex") or (word == "bool" and self.token != "["):
            kinds = {"int": int, "float": float, "complex": complex, "bool": bool}
            return ScalarType(kinds[word])
        self.take("[")
        shape = self.ints("]")
        strides = self.ints("}") if self.token == "{" and self.accept("{") else None
        device = self.take() if self.accept("on") else "cpu"
        if word == "opaque":
            return OpaqueType(shape[0], torch.device(device))
        try:
            return tensor_type(shape, dtype_named(word), device, strides)
        except KeyError:
            self.fail(f"no dtype is named {word}")

    def attribute(self) -> Attribute:
        """A static attribute as `print_attribute` prints it."""
        kind, token = self.kind, self.take()
        if kind == "number":
            return int(token) if re.fullmatch(r"-?\d+", token) else float(token)
        if kind == "hole":
            return Operand(int(token[1:]))
        if kind == "string":
            return json.loads(token)
        if token == "(":
            items: list[Attribute] = []
            while not self.accept(")"):
                items.append(self.attribute())
                self.accept(",")
            return tuple(items)
        if token in ("None", "True", "False"):
            return {"None": None, "True": True, "False": False}[token]
        if token == "graph":
            return self.graph()
        if token in ("complex", "device", "format", "layout", "data", "op", "type"):
            self.take("(")
            value = self.special(token)
            self.take(")")
            return value
        return self.dtype(token)

    def dtype(self, token: str) -> torch.dtype:
        """A dtype by its short name."""
        try:
            return dtype_named(token)
        except KeyError:
            self.fail(f"{token} is no attribute")

    def special(self, word: str) -> Attribute:
        """The inside of `complex(...)`, `device(...)`, `format(...)`, `op(...)`, `data(...)` ..."""
        if word == "complex":
            real, _, imag = self.attribute(), self.take(","), self.attribute()
            return complex(real, imag)
        if word == "device":
            return torch.device(self.attribute())
        if word in ("format", "layout"):
            return getattr(torch, self.take())
        if word == "op":
            return self.op()
        typed = self.type()
        if word == "type":
            return typed
        assert isinstance(typed, TensorType)
        self.take(",")
        if self.kind == "digest":
            found = Data.known.get(self.take()[1:])
            if found is None:
                self.fail("a constant that is no longer in memory")
            return found
        return Data.of(typed, self.attribute())
