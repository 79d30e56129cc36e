"""Models to try lazytorch on: torchvision's and transformers', with random weights, and the user's.

Neither package is imported before a model of it is built, and nothing is downloaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import nn

Tensors: TypeAlias = dict[str, torch.Tensor]
Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
Built: TypeAlias = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Family: TypeAlias = Literal["cnn", "transformers"]


@dataclass(frozen=True)
class ModelSpec:
    """A model of the zoo: what it is, how to make its module, how to make a call's inputs."""

    name: str
    family: Family
    description: str
    module: Callable[[], nn.Module]
    inputs: Callable[[int], Tensors]
    """Batch size to a call's tensors, by parameter name, in the order of the parameters."""
    positional: bool
    """Whether the tensors are passed by position, as to torchvision's models, or by name."""
    small: bool
    """Whether a float32 forward takes some 0.1 s or less on two CPU cores."""

    def build(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | int = "cpu",
        batch: int = 1,
        train: bool = False,
        seed: int = 0,
    ) -> Built:
        """A module with random weights and the arguments of one call, as `zoo.build` says."""
        where = torch.device(device)
        with torch.random.fork_rng(_random_states(where)), where:
            torch.manual_seed(seed)
            module = self.module()
            if where.type != "meta":
                _leave_nothing_constant(module)
        module = module.to(dtype=dtype).train(train)
        return (module, *self.call(dtype, device, batch, seed))

    def call(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | int = "cpu",
        batch: int = 1,
        seed: int = 0,
    ) -> Inputs:
        """The positional and keyword arguments of one call, as `zoo.inputs` says."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            made = self.inputs(batch)
        moved = {
            name: x.to(device, dtype if x.is_floating_point() else x.dtype)
            for name, x in made.items()
        }
        return (tuple(moved.values()), {}) if self.positional else ((), moved)


def models() -> dict[str, ModelSpec]:
    """Every model of the zoo by name; building none of them and importing neither package."""
    return {spec.name: spec for spec in (*_torchvision_specs(), *_transformers_specs())}


def build(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | int = "cpu",
    batch: int = 1,
    train: bool = False,
    seed: int = 0,
) -> Built:
    """A module with random weights, and the positional and keyword arguments of one call of it.

    Nothing is left constant: biases, norms and running statistics are random as well. The same
    seed gives the same weights (on one device) and inputs (on every device); the global random
    state is left alone. `dtype` is that of the parameters, the floating buffers and the floating
    inputs. On "meta" nothing is allocated.

    Raises KeyError for an unknown name, ImportError when the model's package is missing.
    """
    return _spec(name).build(dtype, device, batch, train, seed)


def inputs(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | int = "cpu",
    batch: int = 1,
    seed: int = 0,
) -> Inputs:
    """The arguments that `build` would give, for a module that is there already."""
    return _spec(name).call(dtype, device, batch, seed)


def load(target: str) -> Built:
    """The user's own model: `package.module:callable`, looked for in the working directory too.

    The callable takes nothing and returns (module, args) or (module, args, kwargs).

    Raises ValueError for a target of another form, AttributeError for a missing name, TypeError
    for another result; an ImportError of the user's module passes through.
    """
    source, _, attribute = target.partition(":")
    if not (source and attribute):
        raise ValueError(f"not of the form package.module:callable: {target!r}")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    result: object = getattr(importlib.import_module(source), attribute)()
    match result:
        case (nn.Module(), tuple()):
            return cast("Built", (*result, {}))
        case (nn.Module(), tuple(), dict()):
            return cast("Built", result)
        case _:
            raise TypeError(
                f"{target} returned {type(result).__name__}, "
                "not (module, args) or (module, args, kwargs)"
            )


def _spec(name: str) -> ModelSpec:
    known = models()
    if name not in known:
        raise KeyError(f"no model {name!r} in the zoo; it has {', '.join(known)}")
    return known[name]


def _random_states(device: torch.device) -> list[int]:
    """The GPUs whose random state is saved and restored; the CPU's always is."""
    if device.type != "cuda":
        return []
    return [device.index if "cuda:" in str(device) else torch.cuda.current_device()]


@torch.no_grad()
def _leave_nothing_constant(module: nn.Module) -> None:
    """Moves what starts as all zeros or all ones: biases, norms, whole heads, running statistics.

    Left alone, a bias or a mean that gets lost changes no result, and some models return zeros.
    """
    for parameter in module.parameters():
        low, high = parameter.aminmax()
        if parameter.numel() > 1 and low == high:
            parameter.add_(0.1 * torch.randn_like(parameter))
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(0.1 * torch.randn_like(buffer))
        elif name.endswith("running_var"):
            buffer.add_(2 * torch.rand_like(buffer))


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"{name} is not installed, and this model of the zoo comes from it: "
            "pip install 'lazytorch[models]'"
        ) from error


# torchvision


@cache  # a Library's definitions live as long as it does
def _declare_what_torchvision_registers() -> torch.library.Library | None:
    """Lets torchvision be imported where its compiled part does not load.

    Its import gives two operations their meta functions without asking whether they are there;
    the models here run neither.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return None
    for compiled in Path(found.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(compiled))
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _ready_for_torchvision() -> None:
    """Before anything imports torchvision; transformers does, where it is installed."""
    if "torchvision" not in sys.modules:
        _declare_what_torchvision_registers()


def _torchvision_models() -> Any:
    _ready_for_torchvision()
    return _package("torchvision").models


def _torchvision_model(name: str, options: Mapping[str, object]) -> nn.Module:
    return _torchvision_models().get_model(name, weights=None, **options)


class _RetinaNetNetwork(nn.Module):
    """RetinaNet from images to class and box scores: no anchors, no post-processing."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone: nn.Module = detector.backbone
        self.head: nn.Module = detector.head

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.head(list(self.backbone(images).values()))


def _retinanet() -> nn.Module:
    return _RetinaNetNetwork(
        _torchvision_model("retinanet_resnet50_fpn", {"weights_backbone": None})
    )


def _images(size: int, batch: int, name: str = "x") -> Tensors:
    return {name: torch.randn(batch, 3, size, size)}


def _torchvision_specs() -> list[ModelSpec]:
    def spec(
        name: str,
        description: str,
        family: Family = "cnn",
        size: int = 224,
        small: bool = False,
        make: Callable[[], nn.Module] | None = None,
        **options: object,
    ) -> ModelSpec:
        module = make or partial(_torchvision_model, name, options)
        text = f"{description}, {size} x {size} images"
        return ModelSpec(name, family, text, module, partial(_images, size), True, small)

    two = "Inception v3, its second classifier in training only (two images at least)"
    return [
        spec("resnet18", "ResNet-18", small=True),
        spec("resnet50", "ResNet-50"),
        spec("resnet101", "ResNet-101"),
        spec("vgg19", "VGG-19"),
        spec("densenet121", "DenseNet-121"),
        spec("inception_v3", two, size=299, init_weights=False),
        spec("mobilenet_v3_large", "MobileNetV3 large", small=True),
        spec("convnext_tiny", "ConvNeXt tiny"),
        spec("efficientnet_b0", "EfficientNet-B0", small=True),
        spec("swin_t", "Swin transformer tiny", "transformers"),
        spec("vit_b_16", "Vision transformer base", "transformers"),
        spec("retinanet", "RetinaNet's network", size=320, make=_retinanet),
    ]


# transformers


def _transformers_model(model: str, options: Mapping[str, object]) -> nn.Module:
    _ready_for_torchvision()
    package: Any = _package("transformers")
    cls = getattr(package, model)
    return cls(cls.config_class(**options))


def _tokens(vocabulary: int, length: int, batch: int) -> Tensors:
    """Token numbers without the low ones, which stand for padding and the like."""
    input_ids = torch.randint(10, vocabulary, (batch, length))
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _t5_inputs(batch: int) -> Tensors:
    decoder_input_ids = torch.randint(10, 32128, (batch, 32))
    return _tokens(32128, 64, batch) | {"decoder_input_ids": decoder_input_ids}


def _whisper_inputs(batch: int) -> Tensors:
    decoder_input_ids = torch.randint(10, 50000, (batch, 32))
    spectrogram = torch.randn(batch, 80, 3000)
    return {"input_features": spectrogram, "decoder_input_ids": decoder_input_ids}


def _clip_inputs(batch: int) -> Tensors:
    return _tokens(4096, 32, batch) | _images(224, batch, "pixel_values")


def _decoder(hidden: int, layers: int, heads: int, vocabulary: int) -> dict[str, object]:
    return {
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 4,
        "vocab_size": vocabulary,
    }


def _transformers_specs() -> list[ModelSpec]:
    def spec(
        name: str,
        description: str,
        model: str,
        inputs: Callable[[int], Tensors],
        options: Mapping[str, object],
        small: bool = False,
    ) -> ModelSpec:
        module = partial(_transformers_model, model, options)
        return ModelSpec(name, "transformers", description, module, inputs, False, small)

    few = _decoder(256, 4, 8, 4096)
    tiny_llama = _decoder(2048, 22, 32, 32000)
    text, long_text = partial(_tokens, 4096, 64), partial(_tokens, 32000, 512)
    bert_text, gpt2_text = partial(_tokens, 30522, 128), partial(_tokens, 50257, 128)

    images = partial(_images, 224, name="pixel_values")
    tiny = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3}
    four = {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 4}
    special = {"bos_token_id": 0, "eos_token_id": 2}  # 2: the text's end is its highest number
    clip_text = {**four, **special, "vocab_size": 4096}
    clip = {"text_config": clip_text, "vision_config": four}

    conditional = "ForConditionalGeneration"
    return [
        spec("bert", "BERT base, 128 tokens", "BertModel", bert_text, {}),
        spec("distilbert", "DistilBERT base, 128 tokens", "DistilBertModel", bert_text, {}),
        spec("gpt2", "GPT-2 of 124M, cache on, 128 tokens", "GPT2LMHeadModel", gpt2_text, {}),
        spec("llama", "Llama, 4 layers of 256", "LlamaForCausalLM", text, few, small=True),
        spec("qwen2", "Qwen2, 4 layers of 256", "Qwen2ForCausalLM", text, few, small=True),
        spec(
            "mixtral",
            "Mixtral, 4 layers of 256, 4 experts",
            "MixtralForCausalLM",
            text,
            {**few, "num_local_experts": 4},
            small=True,
        ),
        spec(
            "llama_1b",
            "Llama of 1.1B (TinyLlama's shape), 512 tokens",
            "LlamaForCausalLM",
            long_text,
            tiny_llama,
        ),
        spec("t5", "T5 small, 64 tokens to 32", f"T5{conditional}", _t5_inputs, {}),
        spec(
            "whisper",
            "Whisper tiny, 30 s to 32 tokens",
            f"Whisper{conditional}",
            _whisper_inputs,
            {},
        ),
        spec(
            "clip",
            "CLIP, 4 layers of 128 on each side",
            "CLIPModel",
            _clip_inputs,
            clip,
            small=True,
        ),
        spec(
            "vit_hf",
            "Vision transformer tiny",
            "ViTForImageClassification",
            images,
            tiny,
            small=True,
        ),
        spec(
            "yolos",
            "YOLOS tiny",
            "YolosForObjectDetection",
            images,
            {**tiny, "image_size": [256, 256]},
            small=True,
        ),
    ]
