"""The notebooks: they run from top to bottom, and stand in the repository without outputs."""

import re

import pytest
from conftest import ROOT

REASON = "needs nbclient and ipykernel: pip install -r requirements-dev.txt"
nbclient = pytest.importorskip("nbclient", reason=REASON)
nbformat = pytest.importorskip("nbformat", reason=REASON)
pytest.importorskip("ipykernel", reason=REASON)

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped_and_links_lead_somewhere(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type != "code" or (cell.outputs, cell.execution_count) == ([], None), f"outputs in {path}: strip them"
        for target in re.findall(r"\]\((?!http)([^)#]+)", cell.source if cell.cell_type == "markdown" else ""):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        assert f"notebooks/{path.name}" in page.read_text()


def printed(path, monkeypatch, changes):
    """Run a notebook, with some of its text replaced, and give what its cells print."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    for old, new in changes.items():
        assert any(old in cell.source for cell in notebook.cells)
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


@pytest.mark.long
def test_embed_and_map_runs(run_dir, monkeypatch):
    text = printed(ROOT / "notebooks" / "embed_and_map.ipynb", monkeypatch, {"../runs/demo": str(run_dir)})
    assert "676 of 676 windows embedded" in text and "accuracy 0." in text  # (240 - 40) / 8 + 1 = 26 windows a side


@pytest.mark.long
def test_pretrain_and_probe_runs(monkeypatch):
    text = printed(ROOT / "notebooks" / "pretrain_and_probe.ipynb", monkeypatch, {})
    score = {name: float(value) for name, value in re.findall(r"^(\w[\w ]+?) +micro mAP (\S+)", text, re.M)}
    assert score["pretrained"] > score["random weights"] + 0.03
    assert set(score) == {"pretrained", "random weights", "band statistics"}
