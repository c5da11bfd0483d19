"""The notebooks among the examples run as they are, and show what they say."""

import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = {
    "explain_a_photo": (
        "Trace of ",
        r"Heatmap of class 5 by smoothgrad, sound",
        "Visualization of class:5",
        r"Diagnosis of 3 methods",
        r">saliency</td><td[^>]*>sound<",
        r">input_x_gradient</td><td[^>]*>sound<",
    ),
    "explain_a_row": ("Trace of Sequential", "Heatmap of class 1 by integrated_gradients, sound", ">flavanoids<"),
}
FOLDER = Path(__file__).resolve().parents[1] / "examples"
MOST_BYTES = 30_000

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel, of the extra 'dev'")


def test_every_notebook_is_run() -> None:
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_kept_without_outputs(name: str) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)


@pytest.mark.filterwarnings("default")  # of what runs notebooks
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for variable in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    work = tmp_path / "work"
    work.mkdir()
    resources = {"metadata": {"path": str(work)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "stream"] == []  # no warnings either
    pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert all(len(page.encode()) < MOST_BYTES for page in pages)
    assert all(len(_plain(output)) < 300 for output in outputs)
    for expected in NOTEBOOKS[name]:
        assert any(re.search(expected, page) for page in pages), expected
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert list(work.iterdir()) == []


def _plain(output: Any) -> str:
    return str(output.get("data", {}).get("text/plain", ""))
