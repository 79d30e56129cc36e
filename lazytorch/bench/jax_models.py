"""ResNets of bottlenecks and BERT in plain JAX, with the weights of a torch model.

What XLA gets is what a JAX user would write: images with their channels last, weights that are
arguments of the jitted function, norms and softmax in float32 inside, everything else in the
weights' type. Functions take `jax` first, so that nothing is imported where it is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from lazytorch.bench.case import Model
from lazytorch.errors import LazyTorchError

Array = Any
Weights = Any
"""A nest of arrays."""
ToArray = Callable[[torch.Tensor], Array]


def matching(jax: Any, model: Model, to: ToArray, fold: bool) -> tuple[Any, Weights, list[Array]]:
    """A function of weights and inputs, the weights, and the inputs: what `model` computes.

    `to` makes an array of a tensor. With `fold`, batch norms are in the convolutions' weights.
    LazyTorchError where no model is written in JAX here that does the same.
    """
    module: Any = model.module
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if kind == "torchvision.models.resnet.ResNet" and hasattr(module.layer1[0], "conv3"):
        (images,) = model.args
        shapes = [[block.conv2.stride[0] for block in layer] for layer in layers(module)]
        return partial(resnet, jax, shapes), resnet_weights(module, to, fold), [last(to, images)]
    if kind == "transformers.models.bert.modeling_bert.BertModel":
        if fold:
            raise LazyTorchError("it has no batch norm to fold")
        config = module.config
        inputs = [to(model.kwargs[name]) for name in ("input_ids", "attention_mask")]
        run = partial(bert, jax, config.num_attention_heads, config.layer_norm_eps)
        return run, bert_weights(module, to), inputs
    raise LazyTorchError(f"no model in JAX matches {type(module).__name__}")


# ResNet.


def layers(module: Any) -> list[Any]:
    """The four stacks of blocks."""
    return [module.layer1, module.layer2, module.layer3, module.layer4]


def last(to: ToArray, images: torch.Tensor) -> Array:
    """Images with their channels innermost."""
    return to(images.permute(0, 2, 3, 1).contiguous())


def conv_norm(to: ToArray, fold: bool, conv: Any, norm: Any) -> dict[str, Array]:
    """A convolution's weight as JAX lays it out, with the scale and shift of its batch norm."""
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight, dtype = conv.weight, conv.weight.dtype
    if fold:
        weight = (weight.double() * scale[:, None, None, None]).to(dtype)
        return {"weight": to(weight.permute(2, 3, 1, 0).contiguous()), "shift": to(shift.to(dtype))}
    statistics = {
        "gain": norm.weight, "bias": norm.bias,
        "mean": norm.running_mean, "var": norm.running_var + norm.eps,
    }  # fmt: skip
    found = {name: to(x.float()) for name, x in statistics.items()}
    return {"weight": to(weight.permute(2, 3, 1, 0).contiguous()), **found}


def resnet_weights(module: Any, to: ToArray, fold: bool) -> Weights:
    """The weights of a torchvision ResNet, block by block."""
    made = partial(conv_norm, to, fold)

    def block(one: Any) -> dict[str, Any]:
        found = {str(i): made(getattr(one, f"conv{i}"), getattr(one, f"bn{i}")) for i in (1, 2, 3)}
        return found if one.downsample is None else {**found, "skip": made(*one.downsample)}

    return {
        "stem": made(module.conv1, module.bn1),
        "layers": [[block(one) for one in layer] for layer in layers(module)],
        "head": dense_weights(module.fc, to),
    }


def resnet(jax: Any, strides: list[list[int]], weights: Weights, x: Array) -> Array:
    """Class scores of images."""
    jnp, lax = jax.numpy, jax.lax

    def conv(p: Any, x: Array, stride: int = 1) -> Array:
        pad = p["weight"].shape[0] // 2
        found = lax.conv_general_dilated(
            x, p["weight"], (stride, stride), [(pad, pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        if "shift" in p:
            return found + p["shift"]
        scale = p["gain"] * lax.rsqrt(p["var"])
        wide = found.astype(jnp.float32) * scale + (p["bias"] - p["mean"] * scale)
        return wide.astype(x.dtype)

    def relu(x: Array) -> Array:
        return jnp.maximum(x, 0)

    x = relu(conv(weights["stem"], x, 2))
    window, pads = (1, 3, 3, 1), [(0, 0), (1, 1), (1, 1), (0, 0)]
    lowest = jnp.array(-jnp.inf, x.dtype)
    x = lax.reduce_window(x, lowest, lax.max, window, (1, 2, 2, 1), pads)
    for blocks, steps in zip(weights["layers"], strides, strict=True):
        for p, stride in zip(blocks, steps, strict=True):
            y = relu(conv(p["1"], x))
            y = relu(conv(p["2"], y, stride))
            skip = conv(p["skip"], x, stride) if "skip" in p else x
            x = relu(conv(p["3"], y) + skip)
    pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2)).astype(x.dtype)
    return dense(weights["head"], pooled)


# BERT.


def dense_weights(linear: nn.Linear, to: ToArray) -> Weights:
    """A linear layer, its weight transposed."""
    return {"weight": to(linear.weight.t().contiguous()), "bias": to(linear.bias)}


def dense(p: Any, x: Array) -> Array:
    """A linear layer."""
    return x @ p["weight"] + p["bias"]


def bert_weights(module: Any, to: ToArray) -> Weights:
    """The weights of transformers' BertModel, layer by layer."""

    def norm(one: Any) -> Weights:
        return {"weight": to(one.weight), "bias": to(one.bias)}

    def layer(one: Any) -> Weights:
        attention, near = one.attention.self, one.attention.output
        linears = {
            "query": attention.query, "key": attention.key, "value": attention.value,
            "out": near.dense, "up": one.intermediate.dense, "down": one.output.dense,
        }  # fmt: skip
        found = {name: dense_weights(linear, to) for name, linear in linears.items()}
        return {**found, "norm1": norm(near.LayerNorm), "norm2": norm(one.output.LayerNorm)}

    tables = module.embeddings
    return {
        "words": to(tables.word_embeddings.weight),
        "places": to(tables.position_embeddings.weight),
        "kinds": to(tables.token_type_embeddings.weight),
        "norm": norm(tables.LayerNorm),
        "layers": [layer(one) for one in module.encoder.layer],
        "pooler": dense_weights(module.pooler.dense, to),
    }


def bert(jax: Any, heads: int, eps: float, weights: Weights, ids: Array, mask: Array) -> Any:
    """Hidden states of the last layer, and the pooled first one."""
    jnp, lax = jax.numpy, jax.lax

    def norm(p: Any, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        found = centred * lax.rsqrt(variance + eps)
        return (found * p["weight"] + p["bias"]).astype(x.dtype)

    def gelu(x: Array) -> Array:
        wide = x.astype(jnp.float32)
        return (wide * 0.5 * (1 + lax.erf(wide * 0.5**0.5))).astype(x.dtype)

    def split(x: Array) -> Array:
        return x.reshape(*x.shape[:2], heads, -1)

    def attention(p: Any, x: Array) -> Array:
        q, k, v = (split(dense(p[name], x)) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        scores = scores / q.shape[-1] ** 0.5
        scores = jnp.where(mask[:, None, None, :] != 0, scores, -jnp.inf)
        shifted = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        weight = (shifted / jnp.sum(shifted, axis=-1, keepdims=True)).astype(x.dtype)
        return dense(p["out"], jnp.einsum("bhqk,bkhd->bqhd", weight, v).reshape(x.shape))

    x = weights["words"][ids] + weights["kinds"][0] + weights["places"][: ids.shape[1]]
    x = norm(weights["norm"], x)
    for p in weights["layers"]:
        x = norm(p["norm1"], x + attention(p, x))
        x = norm(p["norm2"], x + dense(p["down"], gelu(dense(p["up"], x))))
    return x, jnp.tanh(dense(weights["pooler"], x[:, 0]))
