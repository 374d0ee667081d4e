"""The notebooks run from their first cell to their last, and hold no output: it would be of some day's machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
Config = pytest.importorskip("traitlets.config").Config
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = [pytest.param(path, id=path.name) for path in sorted((ROOT / "docs").rglob("*.ipynb"))]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "passive"), ("IPYTHONDIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    with tempfile.TemporaryDirectory() as sockets:  # a short path, which nobody else on the machine can reach
        config = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        options = {"timeout": 120, "kernel_name": "python3", "resources": resources, "config": config}
        nbclient.NotebookClient(notebook, **options).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_it_holds_no_output(path: Path) -> None:
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
