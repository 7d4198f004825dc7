"""Which paths the blocks of diffusers' models take after patch: a row for each model class of the installed
release that can hold a BasicTransformerBlock. Run with --readme it writes the table into README.md."""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
if find_spec("ds_diffusers") is None:
    sys.path.insert(0, str(ROOT / "scripts"))

import ds_diffusers  # noqa: E402
from model_cases import CASES, WITHOUT_BLOCKS, Case  # noqa: E402

BLOCK = "BasicTransformerBlock"
_MODELS = ("ModelMixin", "PreTrainedModel")
_BEGIN, _END = "<!-- begin model coverage -->\n", "<!-- end model coverage -->\n"


class Coverage(NamedTuple):
    """How the blocks of one model run, and why not as one operator, with the number of blocks."""

    model: str
    fused: int
    segmented: int
    original: int
    reasons: Counter[str]


def model_classes() -> list[str]:
    """Names of the model classes whose code creates, directly or through other classes and functions, a
    BasicTransformerBlock, or may: found in the sources of the installed diffusers."""
    definitions = _definitions(Path(find_spec("diffusers").origin).parent)
    holders = {key for key in definitions if key[1] == BLOCK}
    while True:
        found = {key for key, used in definitions.items() if used.created & holders}
        if found <= holders:
            break
        holders |= found
    return sorted({name for path, name in holders if _is_model((path, name), definitions)})


def coverage(name: str) -> Coverage:
    """Of the class's small instance, by a call in float32 on the CPU where it has a forward of its own."""
    case = CASES[name]
    torch.manual_seed(0)
    model = ds_diffusers.patch(case.make().eval())
    if case.arguments is not None:
        run(model, case, torch.float32)
    return coverage_of(name, model)


def coverage_of(name: str, model: nn.Module) -> Coverage:
    """Of a patched model."""
    report = ds_diffusers.report(model)
    reasons = report.reasons("segments") + report.reasons("original")
    return Coverage(name, report.fused, report.segmented, report.original, reasons)


def run(model: nn.Module, case: Case, dtype: torch.dtype) -> Tensor:
    """All results of the model's forward in one vector, in float64."""
    torch.manual_seed(1)
    arguments = tree_map_only(
        Tensor, lambda value: value.to(dtype) if value.is_floating_point() else value, case.arguments()
    )
    with torch.no_grad():
        result = model(**arguments)
    leaves = tree_leaves(dict(result) if isinstance(result, Mapping) else result)
    return torch.cat([leaf.double().flatten() for leaf in leaves if isinstance(leaf, Tensor)])


def table() -> str:
    """In Markdown."""
    rows = [row(coverage(name)) for name in model_classes() if name not in WITHOUT_BLOCKS]
    head = "| Model class | Blocks | One operator | In segments | Original | Why not as one operator |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows]) + "\n"


def row(found: Coverage) -> str:
    counts = (found.fused + found.segmented + found.original, found.fused, found.segmented, found.original)
    reasons = "; ".join(f"{reason} ({count})" for reason, count in found.reasons.most_common())
    reasons = re.sub(r"diffusers\.[\w.]*\.(\w+)", r"\1", reasons)
    return f"| {found.model} | {' | '.join(str(count or '') for count in counts)} | {reasons} |"


class _Definition(NamedTuple):
    created: set[tuple[str, str]]  # classes and functions that it calls or derives from: path, name
    bases: list[str]


def _definitions(package: Path) -> dict[tuple[str, str], _Definition]:
    """The classes and functions of models, and of pipelines' models, by file and name."""
    trees = {str(path): ast.parse(path.read_text(encoding="utf-8")) for path in _model_sources(package)}
    places: dict[str, set[tuple[str, str]]] = {}
    for path, tree in trees.items():
        for node in _top_level(tree):
            places.setdefault(node.name, set()).add((path, node.name))
    return {
        (path, node.name): _definition(node, lambda name: _resolve(name, path, imports, places))
        for path, tree in trees.items()
        for imports in [_imports(tree)]
        for node in _top_level(tree)
    }


def _imports(tree: ast.Module) -> dict[str, str]:
    """The names that a file imports from modules, and the modules' own names."""
    return {
        alias.name: (node.module or "").rpartition(".")[2]
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _resolve(
    name: str, path: str, imports: dict[str, str], places: dict[str, set[tuple[str, str]]]
) -> set[tuple[str, str]]:
    """Where a name that is used in a file may be defined: several places where a package hands it on."""
    everywhere = places.get(name, set())
    imported = {place for place in everywhere if Path(place[0]).stem == imports.get(name)}
    return everywhere & {(path, name)} or imported or everywhere


def _model_sources(package: Path) -> Iterator[Path]:
    yield from (package / "models").rglob("*.py")
    for path in (package / "pipelines").rglob("*.py"):
        if "nn.Module" in (text := path.read_text(encoding="utf-8")) or any(base in text for base in _MODELS):
            yield path


def _top_level(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    return (node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)))


def _definition(
    node: ast.ClassDef | ast.FunctionDef, resolve: Callable[[str], set[tuple[str, str]]]
) -> _Definition:
    bases = [ast.unparse(base).rpartition(".")[2] for base in getattr(node, "bases", [])]
    called = {
        part.func.id
        for part in ast.walk(node)
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)
    }
    return _Definition(set().union(*map(resolve, called.union(bases))), bases)


def _is_model(key: tuple[str, str], definitions: dict[tuple[str, str], _Definition]) -> bool:
    return any(
        base.endswith(_MODELS)
        or any(_is_model(other, definitions) for other in definitions if other[1] == base)
        for base in definitions[key].bases
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    if not parser.parse_args().readme:
        print(table(), end="")
        return 0
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(_BEGIN)
    readme.write_text(before + _BEGIN + table() + _END + rest.partition(_END)[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
