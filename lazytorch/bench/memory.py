"""How much memory tensors hold that are alive, and those that a call returns."""

from __future__ import annotations

import gc

import torch


def held(device: torch.device) -> int:
    """Bytes of all tensors that are alive: what the allocator says, on the CPU what Python reaches.

    What CUDA graphs set aside for their replays counts too. Two readings around a compilation tell
    how many copies of weights it keeps.
    """
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) + set_aside(device)
    storages: dict[int, int] = {}
    for x in gc.get_objects():
        if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.device.type != "cpu":
            continue
        if x.layout is torch.strided:
            storage = x.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        else:  # packed by a library, which keeps to itself how much that takes
            storages[~id(x)] = x.numel() * x.itemsize
    return sum(storages.values())


def set_aside(device: torch.device) -> int:
    """Bytes in the memory pools of CUDA graphs that no tensor holds between replays."""
    torch.cuda.synchronize(device)
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == (device.index or 0) and tuple(segment["segment_pool_id"]) != (0, 0)
    )


def nbytes(results: list[torch.Tensor]) -> int:
    """Bytes of some results, memory that they share counted once."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in results}
    return sum(storages.values())
