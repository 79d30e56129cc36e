"""What compiled code asks of tensors and dictionaries: the same that Python finds, every change."""

import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.frontend.dicts import Dicts
from lazytorch.lower.cpp import toolchain
from lazytorch.options import environment
from lazytorch.runtime import asker, background
from lazytorch.runtime.asker import Asker
from lazytorch.runtime.marks import FEW, Marks


@pytest.fixture(params=["compiled", "python"])
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Who asks: compiled code, or Python."""
    compiled = request.param == "compiled"
    if compiled and toolchain.find_compiler() is None:
        pytest.skip("needs a C++ compiler")
    if compiled:
        if Asker.ready is None:
            Asker.build(environment())
        assert Asker.ready is not None
    else:
        monkeypatch.setattr(Asker, "ready", None)
        monkeypatch.setattr(Dicts, "compiled", None)
    return compiled


CHANGES: dict[str, Callable[[Any], object]] = {
    "written": lambda x: x.add_(1),
    "moved": lambda x: setattr(x, "data", x.data.clone()),
    "transposed": lambda x: setattr(x, "data", x.data.t()),
    "another size": lambda x: setattr(x, "data", x.data[:2]),
    "another rank": lambda x: setattr(x, "data", x.data.view(1, 3, 3)),
    "another type": lambda x: setattr(x, "data", x.data.view(torch.int32)),
    "stepped": lambda x: setattr(x, "data", x.data.as_strided((3, 3), (2, 1))),
    "made longer": lambda x: x.resize_(2, 2),
    "empty": lambda x: x.set_(),
}
OF_TYPES = set(CHANGES) - {"written", "moved"}


def weights() -> list[torch.Tensor]:
    return [torch.randn(3, 3) for _ in range(2 * FEW)]


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_a_tensor_is_seen(asked: bool, name: str) -> None:
    for what in ((True, True), (True, False), (False, False)):
        if (not what[0] and name not in OF_TYPES) or (not what[1] and name == "written"):
            continue
        for i in (0, FEW, -1):
            tensors = weights()
            marks = Marks(tensors, *what)
            assert marks.same() and marks.same()
            assert (marks.answers is not None) == asked
            CHANGES[name](tensors[i])
            assert not marks.same()
            assert Marks(tensors, *what).same()


def test_a_change_before_compiled_code_asks_first_is_seen(asked: bool) -> None:
    tensors = weights()
    marks = Marks(tensors, True, True)
    tensors[3].mul_(2)
    assert not marks.same()
    assert marks.answers is None


def test_inference_tensors_have_no_version(asked: bool) -> None:
    with torch.inference_mode():
        tensors = [*weights(), torch.empty(0), torch.tensor(1.0)]
    marks = Marks([*tensors, *weights()], True, True)
    assert marks.same() and marks.same()
    tensors[0] = torch.randn(1)
    assert marks.same()
    marks.tensors[-1].data = torch.randn(3, 3)
    assert not marks.same()


def test_writes_do_not_count_without_versions(asked: bool) -> None:
    tensors = weights()
    for addresses in (True, False):
        marks = Marks(tensors, addresses, False)
        assert marks.same()
        tensors[0].mul_(2)
        assert marks.same()


def test_few_tensors_are_asked_by_python(asked: bool) -> None:
    marks = Marks(weights()[: FEW - 1], True, True)
    assert marks.same() and marks.answers is None
    assert Marks([], True, True).same() and Marks([], False, False).same()


def test_tensors_are_given_back(asked: bool) -> None:
    tensors = weights()
    marks = Marks(tensors, True, True)
    assert marks.same()
    kept = [weakref.ref(x.untyped_storage()) for x in tensors[:1]]
    dead = weakref.ref(tensors[0])
    del tensors, marks
    gc.collect()
    assert dead() is None and kept[0]() is None


DICTS: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    "replaced": lambda a, _: a.update(x=2.5),
    "equal, but another object": lambda a, _: a.update(x=float("1.5")),
    "added": lambda a, _: a.update(z=1),
    "removed": lambda a, _: a.pop("y"),
    "order": lambda a, _: a.update(x=a.pop("x")),
    "renamed": lambda a, _: a.update(z=a.pop("y")),
    "filled": lambda _, b: b.update(x=1),
}


@pytest.mark.parametrize("name", DICTS)
def test_every_change_of_a_dictionary_is_seen(asked: bool, name: str) -> None:
    looks: list[bool] = []

    def look(answer: bool) -> bool:
        looks.append(answer)
        return answer

    a, b, c = {"x": 1.5, "y": "word"}, dict[str, Any](), OrderedDict[str, Any]()
    dicts = Dicts([a, b, c])
    for _ in range(3):
        assert dicts.same(lambda: look(True))
    assert len(looks) == (2 if asked else 3)
    DICTS[name](a, b)
    looks.clear()
    assert not dicts.same(lambda: look(False))
    assert looks
    assert dicts.same(lambda: look(True)) and dicts.same(lambda: look(True))


def test_ordered_dictionaries_with_entries_are_compared_by_python(asked: bool) -> None:
    looks: list[int] = []
    dicts = Dicts([OrderedDict(x=1)])
    for _ in range(3):
        assert dicts.same(lambda: not looks.append(1))
    assert len(looks) == 3


def test_a_write_between_two_looks_is_not_taken_for_what_was_there(asked: bool) -> None:
    a = {"x": 1}
    dicts = Dicts([a])

    def look() -> bool:
        found = a == {"x": 1}
        a["x"] += 1
        return found

    assert dicts.same(look)
    assert not dicts.same(look)


def test_where_torch_lacks_a_function_python_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asker, "ready", None)
    monkeypatch.setattr(Dicts, "compiled", None)
    for fault in (
        (asker, "_QUESTIONS", ("no_such_function",)),
        (background, "load", lambda *_, **__: nothing()),
        (Asker, "agrees", lambda _: False),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(*fault)
            Asker.build(environment())
        assert Asker.ready is None and Dicts.compiled is None


def nothing() -> Any:
    raise toolchain.NoCompilerError("there is none")


def test_a_model_with_many_weights(asked: bool) -> None:
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        for _ in range(FEW)
    ]
    net = nn.Sequential(*blocks).eval()
    fast = lt.compile(net, wait=True)
    x = torch.randn(2, 4, 5, 5)
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: net.get_parameter("0.1.weight").mul_(2),
        lambda: setattr(net.get_parameter("1.0.weight"), "data", torch.randn(4, 4, 3, 3)),
        lambda: setattr(net[2][0], "bias", nn.Parameter(torch.randn(4))),
        lambda: net[3][1]._buffers.update(running_mean=torch.randn(4)),
        lambda: net[4]._modules.update({"2": nn.Tanh()}),
        lambda: net[5][2].register_forward_hook(lambda m, a, y: y + 1),
        lambda: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
        lambda: net.train(),
    ]
    with torch.no_grad():
        for change in changes:
            change()
            for _ in range(3):
                twin = [b.clone() for b in net.buffers()]
                ours = fast(x)
                for buffer, before in zip(net.buffers(), twin, strict=True):
                    buffer.copy_(before)
                torch.testing.assert_close(ours, net(x), rtol=1e-4, atol=1e-4)
