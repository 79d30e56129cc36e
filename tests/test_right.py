"""The check of whole models can fail, and draws the same random numbers in every dtype."""

import pytest
import torch
from torch import nn

from lazytorch.bench import right
from lazytorch.bench.right import faults, pooled


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_on_the_cpu_masks_alike_in_every_dtype(p: float) -> None:
    masks: list[torch.Tensor] = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        torch.manual_seed(7)
        masks.append(nn.functional.dropout(torch.ones(33, 17, dtype=dtype), p) != 0)
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_one_stale_call_of_three_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = right.change
    changes: list[nn.Module] = []

    def forgetful(module: nn.Module) -> None:
        changes.append(module)
        if len(changes) != 6:  # the lazy model misses its last change
            real(module)

    monkeypatch.setattr(right, "change", forgetful)
    found = faults("resnet18", torch.float32, torch.device("cpu"))
    assert [text for text in found if text.startswith("lazy")]
    assert not [text for text in found if text.startswith("compiled")]


def test_pooled_keeps_the_calls_apart() -> None:
    (result,) = pooled([[torch.zeros(2)], [torch.ones(2)]])
    assert result.tolist() == [[0.0, 0.0], [1.0, 1.0]]
