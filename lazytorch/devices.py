"""What is known of GPUs, also of those that are not here: memory, bandwidth, arithmetic.

Numbers are those of the makers' data sheets, dense (without sparsity), for the form named here:
H200 SXM and H100 SXM (NVIDIA H200 and H100 Tensor Core GPU datasheets), A100 SXM 80 GB (A100
datasheet), L40S, L4, A10 and T4 (their product datasheets), V100 SXM2 32 GB (V100 datasheet), RTX
4090 (Ada GPU architecture whitepaper, appendix A) and RTX 3090 (GA102 GPU architecture whitepaper,
appendix A), both with 16-bit products summed in float32. The way to the host's memory is PCI
Express of 16 lanes, of generation 5, 4 or 3. Threads under way at once are the processors of those
sheets times what one holds (CUDA C++ Programming Guide, compute capabilities). Memory is in the
sheets' unit, 10^9 bytes: a little less than what torch reports, about as much as the driver and a
process's own context take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lazytorch.errors import DeviceError


@dataclass(frozen=True)
class Device:
    """A device for which a plan can be made.

    `memory` is in bytes, None where nobody says; `bandwidth` in bytes a second; `float32`, `tf32`
    and `half` are operations a second in float32, in products of float32 on tensor cores, and in
    16-bit types; `host` is the bandwidth to the host's memory, and as much back at the same time;
    `resident` is how many threads are under way at once; 0 for what it cannot do or what is not
    known.
    """

    name: str
    kind: str
    memory: int | None = None
    bandwidth: float = 0.0
    float32: float = 0.0
    tf32: float = 0.0
    half: float = 0.0
    host: float = 0.0
    resident: int = 0

    @property
    def torch_device(self) -> torch.device:
        """Where tensors of a plan for it lie."""
        return torch.device(self.kind, 0) if self.kind == "cuda" else torch.device(self.kind)


def _gpu(
    name: str,
    memory: int,
    bandwidth: float,
    f32: float,
    tf32: float,
    half: float,
    host: float,
    processors: int,
    threads: int,
) -> Device:
    rates = (bandwidth * 1e9, f32 * 1e12, tf32 * 1e12, half * 1e12, host * 1e9)
    return Device(name, "cuda", memory * 10**9, *rates, processors * threads)


DEVICES: dict[str, Device] = {
    "h200": _gpu("H200", 141, 4800, 67, 494.5, 989, 64, 132, 2048),
    "h100": _gpu("H100", 80, 3350, 67, 494.5, 989, 64, 132, 2048),
    "a100": _gpu("A100", 80, 2039, 19.5, 156, 312, 32, 108, 2048),
    "l40s": _gpu("L40S", 48, 864, 91.6, 183, 362, 32, 142, 1536),
    "l4": _gpu("L4", 24, 300, 30.3, 60, 121, 32, 58, 1536),
    "a10": _gpu("A10", 24, 600, 31.2, 62.5, 125, 32, 72, 1536),
    "rtx4090": _gpu("RTX 4090", 24, 1008, 82.6, 82.6, 165.2, 32, 128, 1536),
    "rtx3090": _gpu("RTX 3090", 24, 936, 35.6, 35.6, 71, 32, 82, 1536),
    "t4": _gpu("T4", 16, 320, 8.1, 0, 65, 16, 40, 1024),
    "v100": _gpu("V100", 32, 900, 15.7, 0, 125, 16, 80, 2048),
}
"""GPUs by the names that `device=` takes."""


def device_named(name: str | torch.device) -> Device:
    """A GPU of the list, `cpu`, `cuda`, or a device of torch's; DeviceError for anything else.

    What is here says itself how much memory it has; a `cuda` that is not here has no limit.
    """
    text = str(name).lower().replace(" ", "").replace("-", "").replace("_", "")
    known = DEVICES.get(text.removeprefix("nvidia"))
    if known is not None:
        return known
    try:
        where = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            f"no device is called {str(name)!r}",
            {"there are": ", ".join([*DEVICES, "cpu", "cuda"])},
        ) from error
    if where.type == "cuda" and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(where)
        like = next(
            (x for k, x in DEVICES.items() if k in found.name.lower().replace(" ", "")), None
        )
        memory = int(found.total_memory)
        resident = int(found.multi_processor_count * found.max_threads_per_multi_processor)
        like = Device(found.name, "cuda") if like is None else like
        return replace(like, name=found.name, memory=memory, resident=resident)
    if where.type not in ("cuda", "cpu"):
        raise DeviceError(f"nothing is planned for {where.type} devices", {"device": where})
    return Device(where.type, where.type)
