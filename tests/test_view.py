"""Pictures and words: what they show, that they stay small, what they refuse."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lazytorch as lt
from lazytorch.errors import LazyTorchError
from lazytorch.ir import Graph
from lazytorch.view.dot import DrawingError
from lazytorch.view.html import Tab, page
from lazytorch.view.layout import Block, blocks, layout
from lazytorch.view.scene import scene

CHAIN = """graph(%x: f32[4], %w: f32[4] state) {
  %0: f32[4] = exp %x
  %1: f32[4] = mul %0 %w
  %2: f32[4] = mul %1 2.0
  return %2
}"""


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.linear(x)) * 2 + 1
        return self.act(x.sort().values - 1).sigmoid()


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Inner(), Inner())
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.last(self.blocks(x)))


@pytest.fixture(scope="module")
def fast() -> lt.Compiled:
    compiled = lt.compile(Outer().eval())
    with torch.no_grad():
        compiled(torch.randn(3, 16))
    compiled.wait()
    return compiled


@pytest.fixture(scope="module")
def recorded(fast: lt.Compiled) -> Graph:
    return fast.programs()[0].piece.graph


def data_of(file: Path) -> list[dict[str, Any]]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', file.read_text(), re.DOTALL
    )
    assert found is not None
    return json.loads(found[1])


def boxes_in(block: Block) -> list[int]:
    return [c for b in blocks(block) for row in b.rows for c in row if isinstance(c, int)]


# What a picture shows.


def test_weights_and_numbers_are_named_where_they_are_read() -> None:
    shown = scene(lt.parse(CHAIN))
    assert [box.title for box in shown.boxes] == ["x", "exp", "mul", "mul", "output 0"]
    assert shown.boxes[2].weights == ("w",)
    assert shown.boxes[3].reads == ("%1: f32[4]", "2.0: float")
    assert shown.edges == tuple((i, i + 1, "f32[4]") for i in range(4))


def test_what_depends_on_weights_alone_is_marked() -> None:
    text = """graph(%x: f32[4], %w: f32[4] state, %s: f32[4] state) {
      %0: f32[4] = exp %w
      %1: f32[4] = add %x %0
      %2: f32[4] = mul %s 2.0
      %3: f32[4] = write %s %2
      effects %3
      return %1
    }"""
    once = {box.title: box.once for box in scene(lt.parse(text)).boxes}
    assert once["exp"] and not once["add"]
    assert not once["mul"]  # `s` is written: it is another one at the next call


def test_boxes_know_their_module_and_the_users_line(recorded: Graph) -> None:
    boxes = scene(recorded).boxes
    modules = [box.module for box in boxes if box.title == "aten.sort.default"]
    assert modules == ["blocks.0", "blocks.1"]
    norm = next(box for box in boxes if box.title == "batch_norm")
    assert norm.module == "norm" and {"norm.weight", "norm.bias"} < set(norm.weights)
    added = [box for box in boxes if box.title == "add"]
    assert Path(__file__).name in added[0].line and "+ 1" in added[0].source


# Where the boxes go.


def test_every_box_has_one_place_and_values_flow_down(recorded: Graph) -> None:
    shown = scene(recorded)
    root = layout(shown)
    assert sorted(boxes_in(root)) == list(range(len(shown.boxes)))
    names = {block.path for block in blocks(root)}
    assert {"blocks", "blocks.0"} <= names or {"blocks.0", "blocks.1"} <= names
    assert not any("act" in name for name in names)  # called twice, between other modules
    top = [child for row in root.rows for child in row]
    assert [shown.boxes[c].title for c in (top[0], top[-1]) if isinstance(c, int)] == [
        "x",
        "output 0",
    ]
    for block in blocks(root):
        row = {child: i for i, r in enumerate(block.rows) for child in r}
        for a, b, _ in shown.edges:
            if a in row and b in row:
                assert row[a] < row[b]


def test_a_crowd_is_put_together_in_runs() -> None:
    count = 5_000
    lines = [f"  %{i + 1}: f32[4] = exp %{i}" for i in range(count)]
    text = "\n".join(
        ["graph(%x: f32[4]) {", "  %0: f32[4] = exp %x", *lines, f"  return %{count}", "}"]
    )
    root = layout(scene(lt.parse(text)))
    assert sorted(boxes_in(root)) == list(range(count + 3))
    assert max(len(block.children) for block in blocks(root)) <= 300
    assert len(root.rows) == len(root.children)  # a chain stays a chain


def test_siblings_stand_side_by_side_up_to_a_limit() -> None:
    made = "".join(f"  %{i}: f32[4] = mul %x {i + 2}.0\n" for i in range(20))
    names = ", ".join(f"%{i}" for i in range(20))
    root = layout(scene(lt.parse(f"graph(%x: f32[4]) {{\n{made}  return {names}\n}}")))
    assert [len(row) for row in root.rows] == [1, 8, 8, 4, 8, 8, 4]


# Files.


def test_html_holds_all_and_needs_no_network(fast: lt.Compiled, tmp_path: Path) -> None:
    file = lt.view(fast, tmp_path / "model.html")
    assert file == tmp_path / "model.html"
    assert not re.search(
        r"""(?:src|href)=|url\(\s*["']?(?!#)|@import|https?://(?!www\.w3\.org/2000/svg)""",
        file.read_text(),
    )
    tabs = {tab["name"]: tab for tab in data_of(file)}
    assert list(tabs) == ["recorded", "optimized", "program", "kernels", "explain"]
    assert "def program(" in tabs["program"]["text"] and tabs["explain"]["text"] == fast.explain()
    titles = [box["title"] for box in tabs["recorded"]["boxes"]]
    assert "batch_norm" in titles and titles.count("aten.sort.default") == 2
    assert any(box["family"] == "fused" for box in tabs["optimized"]["boxes"])


def test_html_cannot_be_broken_by_a_text(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script><!-- {data} {title} &amp;"
    text = page(nasty, [Tab(nasty, text=nasty), Tab("graph", graph=lt.parse(CHAIN))])
    file = tmp_path / "a.html"
    file.write_text(text)
    assert text.count("<script") == 2 and "alert(1)</script>" not in text
    assert data_of(file)[0] == {"name": nasty, "text": nasty}
    assert text.count("&lt;/script&gt;&lt;script&gt;") == 2  # the page's title, twice


def test_the_pages_script_is_javascript(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    lt.view(lt.parse(CHAIN), tmp_path / "a.html")
    source = (tmp_path / "a.html").read_text().split("<script>")[1].split("</script>")[0]
    (tmp_path / "a.js").write_text(source)
    subprocess.run([node, "--check", tmp_path / "a.js"], check=True)


def test_dot_has_clusters_by_module_and_typed_edges(fast: lt.Compiled, tmp_path: Path) -> None:
    text = lt.view(fast, tmp_path / "a.dot").read_text()
    assert text.startswith("digraph {")
    assert 'label="blocks.0"' in text and 'label="blocks.1"' in text
    assert re.search(r'-> \d+ \[label="f32\[3, 16\]"\]', text)
    assert text.count("{") == text.count("}")
    one = lt.view(lt.parse(CHAIN), tmp_path / "b.dot").read_text()
    assert "cluster" not in one and "exp" in one


@pytest.mark.parametrize("kind", ["graph", "compiled"])
def test_svg_is_drawn_by_dot(
    kind: str, fast: lt.Compiled, recorded: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\ncat > /dev/null\necho "<svg>$1</svg>"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file = lt.view(fast if kind == "compiled" else recorded, tmp_path / "a.svg")
    assert file.read_text().strip() == "<svg>-Kdot</svg>"


def test_svg_without_dot_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DrawingError, match=r"install graphviz .* an \.html and a \.dot") as caught:
        lt.view(lt.parse(CHAIN), tmp_path / "a.svg")
    assert isinstance(caught.value, LazyTorchError) and not (tmp_path / "a.svg").exists()
    lt.view(lt.parse(CHAIN), tmp_path / "a.html")
    lt.view(lt.parse(CHAIN), tmp_path / "a.dot")


def test_other_files_and_uncalled_functions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LazyTorchError, match=r"an \.html, \.svg or \.dot file, not 'a\.png'"):
        lt.view(lt.parse(CHAIN), tmp_path / "a.png")
    with pytest.raises(LazyTorchError, match="recorded at its first call"):
        lt.view(lt.compile(nn.Linear(2, 2)), tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


# Words.


def test_explain_before_the_first_call() -> None:
    assert lt.compile(nn.Linear(2, 2)).explain() == (
        "Linear: nothing is recorded yet; the first call does it"
    )


def test_explain_tells_stages_kernels_groups_and_what_stayed_apart(fast: lt.Compiled) -> None:
    text = fast.explain()
    assert text.startswith("Outer: 1 plan")
    assert re.search(r"fuse +\d+ -> \d+ +\d+\.\d", text)
    assert re.search(r"(\d+) for \d+ call sites?: \1 in use, 0 not yet", text)
    assert re.search(
        r"2 x relu mul add +at tests/test_view\.py:\d+ \(blocks\.0 \.\.\. blocks\.1\)", text
    )
    assert re.search(r"\d+ x not elementwise: .*2 aten", text)
    assert "2 x aten.sort.default" in text
    assert re.search(r"prologue, run once: \d+ values?, ", text)
    assert "backward" not in text
    assert len(text.splitlines()) <= 60


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    monkeypatch.setenv("LAZYTORCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.filterwarnings(r"ignore:the C\+\+ compiler")
def test_explain_tells_that_no_kernel_could_be_compiled() -> None:
    def chain(x: torch.Tensor) -> torch.Tensor:
        return x.exp().sin() + 1

    compiled = lt.compile(chain, wait=True)
    compiled(torch.randn(3))
    assert "no generated kernels, torch's own run instead" in compiled.explain()
    assert "0 in use, 1 not yet" in compiled.explain()


def test_explain_tells_of_the_backward_and_of_every_plan() -> None:
    compiled = lt.compile(nn.Linear(4, 4))
    compiled(torch.randn(2, 4))
    compiled(torch.randn(3, 4))
    text = compiled.explain()
    assert "2 plans" in text and "plan 2: " in text
    assert text.count("torch's own on the saved inputs, not compiled yet (2 parameters") == 2


def test_explain_tells_where_a_recording_was_cut() -> None:
    def branching(x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x.exp() + 1
        return x.sin()

    compiled = lt.compile(branching)
    compiled(torch.ones(3))
    text = compiled.explain()
    assert re.search(r"bool\(\) of a tensor at .*test_view\.py.*; seen: True", text)
    compiled(-torch.ones(3))
    assert "seen: False, True" in compiled.explain() or "seen: True, False" in compiled.explain()
