"""The one direction in which files may import: their own layer and the layers below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    ("options", "errors", "types", "devices", "report", "accuracy"),
    ("op", "ir", "data", "text", "verify", "interpret", "accuracy"),
    ("ops",),
    (
        *("straight", "peak", "cut", "grouping", "alone", "recompute", "segments", "columns"),
        *("jobs", "offload"),
    ),
    ("offsets", "packing", "priorities", "skyline"),
    ("passes",),
    ("frontend",),
    ("autodiff",),
    ("lower", "runtime"),
    ("view",),
    ("guards", "varying"),
    ("trail", "plan", "fastpath", "differentiable", "prediction", "staging", "compiled"),
    ("compiled_module",),
    (
        "compile",
        "lazy",
        "derivatives",
        "recorded_step",
        "skipped_step",
        "first_step",
        "training",
        "forecast",
    ),
    ("zoo",),
    ("bench",),
    ("commands",),
    ("cli",),
    ("",),  # lazytorch/__init__.py: the public names
)
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(p for folder in ("lazytorch", "passes") for p in (ROOT / folder).rglob("*.py"))


def module(file: Path) -> tuple[str, ...]:
    """`("passes", "cse")` for passes/cse.py, `("ops",)` for lazytorch/ops/__init__.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return tuple(p for p in parts if p not in ("lazytorch", "__init__"))


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every module of ours that runs when this tree runs, inside functions too."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from (found for other in node.orelse for found in imports(other, package))
            case ast.Import():
                named = [tuple(alias.name.split(".")) for alias in node.names]
                yield from (name[1:] for name in named if name[0] == "lazytorch")
            case ast.ImportFrom(module=source, level=level):
                base = ("lazytorch", *package)[: len(package) + 2 - level] if level else ()
                base += tuple(source.split(".")) if source else ()
                if base[:1] == ("lazytorch",):
                    yield from ((*base[1:], alias.name) for alias in node.names)
            case _:
                yield from imports(node, package)


def breaks(importer: tuple[str, ...], imported: tuple[str, ...]) -> bool:
    """Whether a module may not import another (or a name in it)."""
    if importer[:1] == imported[:1] == ("passes",) and len(importer) > 1:
        return importer[1] != "".join(imported[1:2])
    top = imported[0] if imported and imported[0] in LAYER else ""
    return LAYER[top] > LAYER[importer[0] if importer else ""]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_file_imports_only_its_own_layer_and_lower_ones(file: Path) -> None:
    name = module(file)
    package = name if file.stem == "__init__" else name[:-1]
    found = imports(ast.parse(file.read_text()), package)
    assert [".".join(other) for other in found if breaks(name, other)] == []


TESTS = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]


@pytest.mark.parametrize("file", [*FILES, *TESTS], ids=lambda file: str(file.relative_to(ROOT)))
def test_file_says_what_it_is_for_and_stays_short(file: Path) -> None:
    source = file.read_text()
    assert ast.get_docstring(ast.parse(source))
    assert len(source.splitlines()) <= 400


@pytest.mark.parametrize(
    ("file", "source", "broken"),
    [
        ("passes/cse.py", "from lazytorch.ir import Graph", False),
        ("passes/cse.py", "from lazytorch.passes.fuse import fuse", True),
        ("passes/cse.py", "from .fuse import fuse", True),
        ("passes/__init__.py", "from .fuse import fuse", False),
        ("lazytorch/ir.py", "def f():\n    import lazytorch.ops.norm", True),
        ("lazytorch/ir.py", "if TYPE_CHECKING:\n    from lazytorch import ops", False),
        ("lazytorch/ops/norm.py", "from ..lower import cpp", True),
        ("lazytorch/cli.py", "import lazytorch as lt", True),
        ("lazytorch/__init__.py", "from lazytorch.cli import main", False),
    ],
)
def test_the_rule_itself(file: str, source: str, broken: bool) -> None:
    name = module(ROOT / file)
    package = name if file.endswith("__init__.py") else name[:-1]
    assert any(breaks(name, other) for other in imports(ast.parse(source), package)) == broken
