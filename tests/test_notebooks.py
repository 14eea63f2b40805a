"""The notebooks run from top to bottom, and are stored as they were written: short, and without outputs."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_a_notebook_is_stored_without_outputs_for_any_python_3(path):
    notebook = read(path)
    assert notebook["nbformat"] == 4
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_a_notebook_is_python_of_at_most_130_lines(path):
    cells = code(read(path))
    for source in cells:
        ast.parse(source)
    assert sum(bool(line.strip()) for source in cells for line in source.splitlines()) <= 130


@pytest.mark.slow
def test_a_notebook_runs_from_top_to_bottom(path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="running notebooks needs nbformat, nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="running notebooks needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="running notebooks needs ipykernel")
    monkeypatch.delenv("XLA_FLAGS")  # it runs longer than it compiles
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert pictures
