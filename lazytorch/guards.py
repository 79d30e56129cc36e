"""Guards: what a plan was recorded for, as a key that the next call must match."""

from __future__ import annotations

from typing import Any, cast

import torch

from lazytorch.frontend import trees

Key = tuple[object, ...]


def signature(leaves: list[Any], spec: trees.Spec, varying: frozenset[int] = frozenset()) -> Key:
    """What a plan was recorded for: structure, types, aliasing of the arguments, torch's modes.

    Of the floats among `varying` it is any value.
    """
    storages: dict[int, int] = {}
    shared = False
    parts: list[object] = [spec, varying]
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor) and strided(leaf):
            alias = storages.setdefault(leaf.untyped_storage()._cdata, i)
            shared = shared or alias != i
            parts.append(
                (leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad, alias)
            )
        elif i in varying and type(leaf) is float:
            parts.append(float)
        elif trees.plain(leaf):
            parts.append(exact_leaf(leaf))
        else:
            parts.append(type(leaf))  # which one, and what it says, is asked of each plan
    if shared:
        parts.append(overlaps(leaves))
    parts.append(modes())
    return tuple(parts)


def exact_leaf(leaf: object) -> tuple[type, object]:
    """What a plain leaf says, exactly: 1, 1.0 and True differ, so do 0.0 and -0.0."""
    return type(leaf), leaf.hex() if isinstance(leaf, float) else leaf


def overlaps(leaves: list[Any]) -> Key:
    """Where in its storage each tensor lies: what tensors on one storage share depends on it; and
    which are one tensor, which has one gradient."""
    first: dict[int, int] = {}
    return tuple(
        (x.storage_offset(), x.untyped_storage().nbytes(), first.setdefault(id(x), i))
        for i, x in enumerate(leaves)
        if isinstance(x, torch.Tensor) and strided(x)
    )


def strided(tensor: torch.Tensor) -> bool:
    """Whether a tensor is plain memory; recording refuses others by name."""
    return tensor.layout is torch.strided and not tensor.is_nested


def modes() -> Key:
    """The global settings of torch that decide what a function computes."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        torch.get_default_dtype(),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch._C._get_cublas_allow_tf32(),
        torch._C._get_cudnn_allow_tf32(),
        torch._C._get_flash_sdp_enabled(),
        torch._C._get_mem_efficient_sdp_enabled(),
        torch._C._get_math_sdp_enabled(),
    )


def flat(key: Key) -> list[object]:
    """The parts of a key one by one."""
    parts: list[object] = []
    for part in key:
        parts.extend(cast(tuple[object, ...], part) if isinstance(part, tuple) else (part,))
    return parts
