"""Random graphs of layers as models have them, for the passes that know linears and attention."""

from __future__ import annotations

import math
import random

import torch

from lazytorch.ir import Builder, Graph, Node, input
from lazytorch.ops.activation import Gelu, Relu, Silu
from lazytorch.ops.attention import ScaledDotProductAttention
from lazytorch.ops.conv import Convolution
from lazytorch.ops.create import Full
from lazytorch.ops.elementary import Erf, Sigmoid, Tanh
from lazytorch.ops.layout import Cat, Clone, Permute, Reshape, Select, Slice
from lazytorch.ops.linalg import Addmm, Linear, Matmul
from lazytorch.ops.norm import LayerNorm
from lazytorch.ops.pointwise import Add, Div, Mul, Pow, Sub
from lazytorch.ops.reduce import Softmax
from lazytorch.types import TensorType, contiguous_strides, tensor_type
from lazytorch.verify import verify

WIDE = torch.float64  # so that rounding is far below any mistake


class Layers:
    """A model while it grows; every choice comes from the seed."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.b = Builder()
        self.inputs: list[Node] = []
        self.outputs: list[Node] = []
        self.batch, self.tokens = self.r.choice((1, 2, 3)), self.r.choice((1, 3, 5))
        self.heads, self.size = self.r.choice((1, 2, 3)), self.r.choice((8, 16))
        self.width = self.heads * self.size

    def given(self, *shape: int, role: str = "argument") -> Node:
        """A new input."""
        label = f"x{len(self.inputs)}"
        typed = tensor_type(shape, WIDE)
        self.inputs.append(input(label, typed, "state" if role == "state" else "argument"))
        return self.inputs[-1]

    def weight(self, *shape: int) -> Node:
        """A parameter around 0, seldom an argument."""
        role = "state" if self.r.random() < 0.95 else "argument"
        return self.b(Sub(), self.given(*shape, role=role), 1.0)

    def chance(self, p: float = 0.5) -> bool:
        return self.r.random() < p

    def linear(self, x: Node, width: int) -> Node:
        """A linear layer in one of its spellings."""
        inner = shape(x)[-1]
        if self.chance(0.3):
            rows = math.prod(shape(x)[:-1])
            flat = self.b(Reshape((rows, inner)), x)
            y = self.b(Addmm(), self.weight(width), flat, self.weight(inner, width))
            return self.b(Reshape((*shape(x)[:-1], width)), y)
        bias = [self.weight(width)] if self.chance(0.7) else []
        return self.b(Linear(), x, self.weight(width, inner), *bias)

    def norm(self, x: Node) -> Node:
        return self.b(LayerNorm((shape(x)[-1],), 1e-5, False, False), x)

    def activated(self, x: Node) -> Node:
        """An activation, also written out."""
        kind = self.r.randrange(7)
        if kind == 0:
            return self.b(Relu(), x)
        if kind == 1:
            return self.b(Gelu(self.r.choice(("none", "tanh"))), x)
        if kind == 2:
            return self.b(Silu(), x)
        if kind == 3:
            return self.b(Mul(), *self.either(x, self.b(Sigmoid(), x)))
        half = self.b(Mul(), x, 0.5)
        if kind == 4:
            inside = self.b(Erf(), self.b(Div(), x, math.sqrt(2.0)))
        else:
            cube = self.b(Pow(), x, 3.0)
            inner = self.b(Add(), *self.either(x, self.b(Mul(), cube, 0.044715)))
            inside = self.b(Tanh(), self.b(Mul(), math.sqrt(2.0 / math.pi), inner))
        return self.b(Mul(), *self.either(half, self.b(Add(), inside, 1.0)))

    def either(self, x: Node, y: Node) -> tuple[Node, Node]:
        """Two operands in one order or the other."""
        return (x, y) if self.chance() else (y, x)

    def block(self, x: Node) -> Node:
        """One part of a layer, added to what was there."""
        make = self.r.choice((self.attention, self.attention, self.mlp, self.turned, self.windows))
        y = make(self.norm(x))
        return self.b(Add(), *self.either(x, y))

    def mlp(self, x: Node) -> Node:
        return self.linear(self.activated(self.linear(x, self.r.choice((7, 24)))), self.width)

    def turned(self, x: Node) -> Node:
        """Tokens first, as torch's own attention has them."""
        y = self.b(Permute((1, 0, 2)), x)
        y = self.linear(self.b(Relu(), y) if self.chance() else y, self.width)
        return self.b(Permute((1, 0, 2)), self.b(Relu(), y) if self.chance() else y)

    def windows(self, x: Node) -> Node:
        """Rows of all images put together in another order, and back."""
        n, s, e = shape(x)
        y = self.b(Permute((1, 0, 2)), x)
        y = self.linear(self.b(Reshape((s * n, e)), y), e)
        return self.b(Permute((1, 0, 2)), self.b(Reshape((s, n, e)), y))

    def attention(self, x: Node) -> Node:
        n, s, e = shape(x)
        if self.chance(0.3):
            return self.tokens_first(x)
        if self.chance():
            parts = [self.heads_apart(self.linear(x, e)) for _ in range(3)]
            if self.chance():
                empty = self.b(Full((0,), 1, WIDE))
                parts[1:] = [self.b(Cat(2), empty, y) for y in parts[1:]]
                self.outputs += parts[1:] if self.chance(0.3) else []
        else:
            packed = self.b(Reshape((n, s, 3, self.heads, self.size)), self.linear(x, 3 * e))
            packed = self.b(Permute((2, 0, 3, 1, 4)), packed)
            if self.chance():
                packed = self.copied(packed)
            parts = [self.b(Select(0, i), packed) for i in range(3)]
        y = self.b(Permute((0, 2, 1, 3)), self.attend(*parts))
        y = self.b(Reshape((n, s, e)), self.copied(y) if self.chance() else y)
        return self.linear(y, e)

    def tokens_first(self, x: Node) -> Node:
        """The chain of views of `nn.MultiheadAttention`."""
        n, s, e = shape(x)
        y = self.linear(self.b(Permute((1, 0, 2)), x), 3 * e)
        y = self.b(Permute((2, 0, 1, 3)), self.b(Reshape((s, n, 3, e)), y))
        y = self.copied(y)
        parts: list[Node] = []
        for i in range(3):
            part = self.b(Reshape((s, n * self.heads, self.size)), self.b(Select(0, i), y))
            part = self.b(Permute((1, 0, 2)), part)
            parts.append(self.b(Reshape((n, self.heads, s, self.size)), part))
        y = self.b(Permute((2, 0, 1, 3)), self.attend(*parts))
        y = self.linear(self.b(Reshape((s * n, e)), y), e)
        return self.b(Permute((1, 0, 2)), self.b(Reshape((s, n, e)), y))

    def attend(self, query: Node, key: Node, value: Node) -> Node:
        """Attention, also written out."""
        mask = [self.given(1, 1, 1, self.tokens)] if self.chance(0.3) else []
        mask = mask if mask and shape(key)[2] == self.tokens else []
        if self.chance():
            return self.b(ScaledDotProductAttention(), query, key, value, *mask)
        root = math.sqrt(self.size)
        early = self.chance(0.3)
        query = self.b(Div(), query, root) if early else query
        scores = self.b(Matmul(), query, self.b(Permute((0, 1, 3, 2)), key))
        if not early:
            op, by = self.r.choice(((Div(), root), (Mul(), 1 / root)))
            scores = self.b(op, scores, by)
        scores = self.b(Add(), *self.either(scores, *mask)) if mask else scores
        weights = self.b(Softmax(-1), scores)
        self.outputs += [weights] if self.chance(0.1) else []
        return self.b(Matmul(), weights, value)

    def heads_apart(self, x: Node) -> Node:
        n, s, _ = shape(x)
        return self.b(Permute((0, 2, 1, 3)), self.b(Reshape((n, s, self.heads, self.size)), x))

    def copied(self, x: Node) -> Node:
        """`x.contiguous()`."""
        return self.b(Clone(contiguous_strides(shape(x))), x)

    def patches(self) -> Node:
        """Patches of images, as tokens."""
        p, more = self.r.choice((1, 2, 3)), self.r.choice((0, 0, 1))
        images = self.given(self.batch, 3, 2 * p + min(more, p - 1), self.tokens * p)
        bias = [self.weight(self.width)] if self.chance() else []
        op = Convolution((p, p), (0, 0), (1, 1))
        y = self.b(op, images, self.weight(self.width, 3, p, p), *bias)
        self.tokens *= 2
        y = self.b(Reshape((self.batch, self.width, self.tokens)), y)
        return self.b(Permute((0, 2, 1)), y)

    def graph(self) -> Graph:
        """The whole model."""
        first = self.chance(0.4)
        x = self.patches() if first else self.given(self.batch, self.tokens, self.width)
        for _ in range(self.r.randint(1, 4)):
            x = self.block(x)
        if self.chance():
            x = self.linear(self.b(Slice(1, 0, 1), x), 11)
        return verify(Graph(tuple(self.inputs), (x, *self.outputs)))


def shape(x: Node) -> tuple[int, ...]:
    """The sizes of a tensor."""
    assert isinstance(x.type, TensorType)
    return x.type.shape


def layer_graph(seed: int) -> Graph:
    """The same graph for the same seed."""
    return Layers(seed).graph()
