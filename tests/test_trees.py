"""Outputs of transformers: made as their constructor makes them."""

import functools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lazytorch.frontend import trees

outputs = pytest.importorskip("transformers.modeling_outputs")


def parts(value: Any) -> tuple[object, ...]:
    return type(value), list(OrderedDict.items(value)), list(vars(value).items()), value.to_tuple()


@pytest.mark.parametrize("hidden", [None, (torch.ones(1), torch.ones(2))])
def test_an_output_is_made_like_the_first_one(hidden: Any) -> None:
    kind = outputs.BaseModelOutputWithPooling
    first = kind(last_hidden_state=torch.ones(3), pooler_output=torch.ones(4), hidden_states=hidden)
    _, spec = trees.flatten(first)
    for _ in range(3):
        leaves = [torch.randn(n) for n in range(spec.num_leaves)]
        states = None if hidden is None else tuple(leaves[2:])
        wanted = kind(last_hidden_state=leaves[0], pooler_output=leaves[1], hidden_states=states)
        assert repr(parts(trees.unflatten(spec, leaves))) == repr(parts(wanted))


@pytest.mark.parametrize(("first", "calls"), [(torch.ones(3), 0), ((torch.ones(1),) * 2, 3)])
def test_a_constructor_that_may_do_more_than_store_is_called(
    monkeypatch: pytest.MonkeyPatch, first: Any, calls: int
) -> None:
    kind = outputs.BaseModelOutput
    leaves, spec = trees.flatten(kind(last_hidden_state=first))
    trees.unflatten(spec, leaves)
    called: list[object] = []
    monkeypatch.setattr(kind, "__init__", functools.wraps(kind.__init__)(counted(called, kind)))
    for _ in range(3):
        made = trees.unflatten(spec, leaves)
        assert type(made.last_hidden_state) is type(first)
    assert len(called) == calls


def counted(called: list[object], kind: Any) -> Any:
    real = kind.__init__

    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        called.append(self)
        real(self, *args, **kwargs)

    return construct


def test_another_librarys_constructor_is_always_called() -> None:
    calls: list[int] = []

    @dataclass
    class Counted(OrderedDict[str, Any]):
        x: Any = None

        def __post_init__(self) -> None:
            calls.append(1)
            self["x"] = self.x

    _, spec = trees.flatten(Counted(torch.ones(1)))
    for _ in range(3):
        assert isinstance(trees.unflatten(spec, [torch.ones(2)]), Counted)
    assert len(calls) == 4
