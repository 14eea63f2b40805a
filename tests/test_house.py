"""The layers of the house: who may import whom, and what an import may do."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("jaxgen/**/*.py"), *ROOT.glob("train/**/*.py")])
MATHEMATICS = {"numpy", "jax", "jaxtyping", "jaxgen"}
STANDARD = sys.stdlib_module_names


def imports(path):
    """Full names of all modules a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path):
    return {name.split(".")[0] for name in imports(path)} - STANDARD


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


@named([p for p in FILES if p.parent == ROOT / "jaxgen"])
def test_mathematics_imports_numpy_and_jax_alone(path):
    assert packages(path) <= MATHEMATICS
    assert not any(name.startswith("jaxgen.models") for name in imports(path))


@named([p for p in FILES if ROOT / "jaxgen" / "models" in p.parents])
def test_a_model_knows_no_loss_and_no_schedule(path):
    assert packages(path) <= MATHEMATICS | {"flax"}
    assert all(name.startswith("jaxgen.models") for name in imports(path) if name.startswith("jaxgen"))


@named([p for p in FILES if p.parent == ROOT / "train" / "common"])
def test_what_recipes_share_knows_no_recipe_no_model_and_no_loss(path):
    assert all(name.startswith("train.common") for name in imports(path) if name.startswith("train"))
    assert "jaxgen" not in packages(path)


def test_importing_touches_no_device():
    modules = ", ".join(
        str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in FILES if p.stem != "__init__"
    )
    subprocess.run(
        [sys.executable, "-c", f"import {modules}"],
        env=os.environ | {"JAX_PLATFORMS": "nonsense"},
        cwd=ROOT,
        check=True,
    )


@named(FILES)
def test_a_file_holds_one_idea(path):
    assert len(path.read_text().splitlines()) <= 300
