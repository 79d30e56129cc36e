"""The zoo: every model can be made, is the same for a seed, and gives what its call needs."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from lazytorch import zoo

NAMES = list(zoo.models())


def same(left: Any, right: Any) -> bool:
    flat = zip(pytree.tree_leaves(left), pytree.tree_leaves(right), strict=True)
    return all(torch.equal(x, y) for x, y in flat)


def tensors(result: Any) -> list[torch.Tensor]:
    values = dict(result) if isinstance(result, Mapping) else result
    return [x for x in pytree.tree_leaves(values) if isinstance(x, torch.Tensor)]


def check_runs(name: str, dtype: torch.dtype) -> None:
    """Results that are finite and vary, so that a comparison of two of them says something."""
    module, args, kwargs = zoo.build(name, dtype)
    results = tensors(module(*args, **kwargs))
    assert results and all(x.isfinite().all() for x in results)
    assert all(x.numel() == 1 or 1e-3 < x.float().std() < 1e6 for x in results)


def test_the_zoo_holds_the_models_that_are_promised() -> None:
    promised = """resnet18 resnet50 resnet101 vgg19 densenet121 inception_v3 mobilenet_v3_large
        convnext_tiny efficientnet_b0 swin_t vit_b_16 retinanet bert gpt2 llama qwen2 mixtral t5
        whisper clip distilbert vit_hf yolos llama_1b"""
    assert set(promised.split()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_builds_without_memory(name: str) -> None:
    module, args, kwargs = zoo.build(name, torch.bfloat16, device="meta", batch=2)
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in module.parameters())
    inputs = [*args, *kwargs.values()]
    assert all(x.is_meta and x.shape[0] == 2 for x in inputs)
    assert all(x.dtype in (torch.bfloat16, torch.int64) for x in inputs)
    assert not module.training


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mixtral", "clip"])
@torch.no_grad()
def test_small_models_run(name: str) -> None:
    assert zoo.models()[name].small
    check_runs(name, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_model_runs(name: str, dtype: torch.dtype) -> None:
    check_runs(name, dtype)


@pytest.mark.parametrize("name", ["resnet18", "llama"])
def test_a_seed_decides_weights_and_inputs(name: str) -> None:
    before = torch.random.get_rng_state()
    module, args, kwargs = zoo.build(name, seed=3)
    again, *call = zoo.build(name, seed=3)
    other, *other_call = zoo.build(name, seed=4)
    assert same(module.state_dict(), again.state_dict())
    assert same([args, kwargs], call) and same([args, kwargs], zoo.inputs(name, seed=3))
    assert not same(list(module.parameters()), list(other.parameters()))
    assert not same([args, kwargs], other_call)
    assert torch.equal(before, torch.random.get_rng_state())


def test_no_parameter_is_left_constant() -> None:
    module, _, _ = zoo.build("resnet18")
    state = [x for x in module.state_dict().values() if x.numel() > 1]
    assert all(x.min() < x.max() for x in state)
    assert all((m.running_var > 0).all() for m in module.modules() if hasattr(m, "running_var"))


def test_inception_has_its_second_classifier_in_training_only() -> None:
    assert zoo.build("inception_v3", device="meta", train=True)[0].training
    module, args, _ = zoo.build("inception_v3", device="meta")
    assert isinstance(module(*args), torch.Tensor)


def test_retinanet_gives_what_its_heads_say() -> None:
    module, args, _ = zoo.build("retinanet", device="meta")
    assert set(module(*args)) == {"cls_logits", "bbox_regression"}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"resnet51.*resnet50"):
        zoo.build("resnet51")


@pytest.mark.parametrize(("name", "package"), [("resnet18", "torchvision"), ("t5", "transformers")])
def test_a_missing_package_says_what_to_install(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*pip install 'lazytorch\[models\]'"):
        zoo.build(name)


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    text = """
        import torch
        def plain(): return torch.nn.Linear(2, 3), (torch.ones(1, 2),)
        def named(): return torch.nn.Linear(2, 3), (), {"input": torch.ones(1, 2)}
        def wrong(): return torch.ones(1)
    """
    name = f"users_model_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(text.replace("\n        ", "\n"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_the_users_own_model_is_loaded(users_module: str) -> None:
    module, args, kwargs = zoo.load(f"{users_module}:plain")
    assert module(*args, **kwargs).shape == (1, 3)
    module, args, kwargs = zoo.load(f"{users_module}:named")
    assert module(*args, **kwargs).shape == (1, 3)


def test_the_users_mistakes_are_named(users_module: str) -> None:
    with pytest.raises(ValueError, match=r"package\.module:callable"):
        zoo.load(users_module)
    with pytest.raises(AttributeError, match="absent"):
        zoo.load(f"{users_module}:absent")
    with pytest.raises(TypeError, match="wrong returned Tensor"):
        zoo.load(f"{users_module}:wrong")
