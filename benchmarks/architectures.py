"""Every architecture of transformers in a small configuration: compiled models beside eager's.

    python benchmarks/architectures.py FILE [NAME ...]

Random weights, float32, on the CPU: results, and the gradients of all parameters and the buffers
that a step leaves, in evaluation and in training mode, from the same random state; what differs is
judged by its distance from float64, beside eager's. An architecture
is left out where a small configuration cannot be made for it in general, or eager does not run it;
the reason is written. One JSON with what became of each; a later run goes on where one stopped.
"""

import argparse
import copy
import inspect
import json
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lazytorch as lt
from lazytorch import zoo
from lazytorch.bench.compare import reason
from lazytorch.bench.machine import machine
from lazytorch.frontend import trees

SIZES = {
    32: "hidden_size d_model n_embd dim embed_dim emb_dim image_size embedding_size projection_dim",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
    "num_decoder_layers num_key_value_heads num_experts_per_tok n_groups mamba_expand eos_token_id",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads num_experts "
    "decoder_attention_heads num_local_experts n_routed_experts conv_kernel mamba_n_heads",
    48: "intermediate_size d_ff n_inner encoder_ffn_dim decoder_ffn_dim ffn_dim hidden_dim",
    8: "d_kv head_dim patch_size rotary_dim qk_rope_head_dim qk_nope_head_dim v_head_dim "
    "state_size mamba_d_state",
    64: "max_position_embeddings n_positions max_source_positions max_target_positions",
    24: "moe_intermediate_size shared_expert_intermediate_size",
    16: "sliding_window q_lora_rank kv_lora_rank mamba_d_head",
    1: "bos_token_id decoder_start_token_id n_shared_experts first_k_dense_replace n_group "
    "topk_group",
    99: "vocab_size",
    3: "num_channels num_labels",
    0: "pad_token_id",
}
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}
LARGEST = 20_000_000
"""Parameters of a model that is still small."""

SECONDS = 90
CLOSE = 2e-4
"""Of the largest element; five times that for gradients."""

Call = Callable[..., Any]


class LeftOut(Exception):
    """There is nothing to compare."""


def configured(name: str) -> tuple[type[nn.Module], Any]:
    """The class of an architecture's plain model, and a small configuration."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    try:
        kind: Any = CONFIG_MAPPING[name]
        if kind not in MODEL_MAPPING:
            raise LeftOut("no plain model")
        usual = kind()
        known = {*vars(usual), *getattr(kind, "attribute_map", {})}
        given = {key: size for key, size in SMALL.items() if key in known and plain(usual, key)}
        found: Any = MODEL_MAPPING[kind]
        return (found[0] if isinstance(found, Sequence) else found), kind(**given)
    except LeftOut:
        raise
    except Exception as error:
        raise LeftOut(f"configuration: {reason(error)}") from error


def plain(config: Any, name: str) -> bool:
    """Whether a configuration has one number there."""
    return isinstance(getattr(config, name, None), int | float)


def inputs(model: Any, config: Any) -> dict[str, torch.Tensor]:
    """Arguments by name: two rows, the second of which is padded."""
    takes = inspect.signature(model.forward).parameters
    ids = torch.randint(3, 90, (2, 12))
    match model.main_input_name:
        case "input_ids":
            found = {"input_ids": ids}
            if "attention_mask" in takes:
                found["attention_mask"] = torch.ones(2, 12, dtype=torch.long)
                found["attention_mask"][1, 9:] = 0
            if "decoder_input_ids" in takes:
                found["decoder_input_ids"] = torch.randint(3, 90, (2, 7))
            return found
        case "pixel_values":
            size = getattr(config, "image_size", 32)
            size = size if isinstance(size, int) else 32
            image = torch.randn(2, getattr(config, "num_channels", 3) or 3, size, size)
            return {"pixel_values": image, **({"input_ids": ids} if "input_ids" in takes else {})}
        case "input_values":
            return {"input_values": torch.randn(2, 1600)}
        case other:
            raise LeftOut(f"it takes {other}")


def tensors(result: Any) -> list[torch.Tensor]:
    return [x for x in trees.flatten(result)[0] if isinstance(x, torch.Tensor)]


def run(model: nn.Module, call: Call, given: dict[str, Any]) -> dict[str, list[Any]]:
    """Results, gradients and what is left in buffers, which get their values back."""
    before = [x.clone() for x in model.buffers()]
    torch.manual_seed(1)
    results = tensors(call(**given))
    carried = [x for x in results if x.requires_grad]
    parameters = [x for x in model.parameters() if x.requires_grad]
    gradients: list[Any] = []
    if carried:
        # Of what a norm gives, squares have a sum that hardly depends on anything.
        total = torch.stack([(x + 0.3).sin().mean().double() for x in carried]).sum()
        gradients = list(torch.autograd.grad(total, parameters, allow_unused=True))
    left = [x.clone() for x in model.buffers()]
    for x, old in zip(model.buffers(), before, strict=True):
        x.copy_(old)
    return {"results": [x.detach() for x in results], "gradients": gradients, "buffers": left}


def as_near(ours: list[Any], theirs: list[Any], exact: list[Any]) -> bool:
    """Whether ours are as near to the same computation in float64 as eager's: where that is far,
    digits cancel."""
    for a, b, c in zip(ours, theirs, exact, strict=True):
        if a is None or b is None or c is None or not a.is_floating_point():
            continue
        far, near = (float((x.double() - c).norm()) for x in (a, b))
        if far > 3 * near + 1e-6 * float(c.norm()):
            return False
    return True


def differs(ours: list[Any], theirs: list[Any], close: float) -> str:
    """What is not eager's; nothing if all is. A gradient may be zeros in place of None."""
    if len(ours) != len(theirs):
        return f"{len(ours)} tensors, eager {len(theirs)}"
    real = [x for x in theirs if x is not None and x.is_floating_point() and x.numel()]
    largest = max((float(x.abs().max()) for x in real), default=0.0)
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:
            there = a if b is None else b
            if there is not None and bool(there.any()):
                return "a gradient that only one side has"
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{a.dtype} {tuple(a.shape)}, eager {b.dtype} {tuple(b.shape)}"
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return f"other {a.dtype}"
        elif not torch.allclose(a, b, close, close * largest, equal_nan=True):
            return f"off by {float((a.double() - b.double()).abs().max()):.1e} of {largest:.1e}"
    return ""


def compared(name: str) -> str:
    """What became of an architecture."""
    cls, config = configured(name)
    try:
        with torch.device("meta"):
            count = sum(x.numel() for x in cls(config).parameters())
        if count > LARGEST:
            raise LeftOut(f"{count / 1e6:.0f} million parameters")
        torch.manual_seed(0)
        model = cls(config)
        given = inputs(model, config)
        wanted = [run(model.train(mode), model, given) for mode in (False, True)]
    except LeftOut:
        raise
    except Exception as error:
        raise LeftOut(f"eager: {reason(error)}") from error
    for mode, theirs in zip((False, True), wanted, strict=True):
        fast = lt.compile(model.train(mode))
        for _ in range(2):
            ours = run(model, fast, given)
            for what in theirs:
                close = 5 * CLOSE if what == "gradients" else CLOSE
                said = differs(ours[what], theirs[what], close)
                if said and not as_near(ours[what], theirs[what], exactly(model, given)[what]):
                    return f"{what}, {'training' if mode else 'evaluation'}: {said}"
    return "same"


def exactly(model: nn.Module, given: dict[str, torch.Tensor]) -> dict[str, list[Any]]:
    """What eager computes in float64."""
    wide = copy.deepcopy(model).double()
    return run(
        wide, wide, {k: x.double() if x.is_floating_point() else x for k, x in given.items()}
    )


def outcome(name: str) -> str:
    """The same in words, whatever happens."""

    def late(*_: object) -> None:
        raise LeftOut(f"it takes more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return compared(name)
    except LeftOut as error:
        return f"left out: {error}"
    except Exception as error:
        return f"failed: {reason(error)}"
    finally:
        signal.alarm(0)
        lt.reset()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("file", type=Path)
    asked.add_argument("names", nargs="*")
    given = asked.parse_args()
    warnings.filterwarnings("ignore")
    zoo._ready_for_torchvision()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    there: dict[str, Any] = json.loads(given.file.read_text()) if given.file.exists() else {}
    found: dict[str, str] = there.get("outcomes", {})
    for name in given.names or sorted(CONFIG_MAPPING):
        if given.names or name not in found:
            found[name] = outcome(name)
            print(name, found[name], flush=True)
            text = {"machine": machine(torch.device("cpu")), "outcomes": found}
            given.file.write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
