"""The commands: every option that a command reads has a use."""

import re

import pytest
from conftest import ROOT

from geomoe.cli import convert, embed, report

COMMANDS = sorted(path for path in (ROOT / "geomoe" / "cli").glob("*.py") if "add_argument(" in path.read_text())


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_every_option_is_used(path):
    text = path.read_text()
    options = re.findall(r'add_argument\(\s*"(?:--)?(\w+)"', text)
    assert options
    by_name = re.findall(r'"(\w+)"', "".join(re.findall(r"getattr\(args.*|.*in \(\"[^)]*\)", text)))
    assert [name for name in options if f"args.{name}" not in text and name not in by_name] == []


@pytest.mark.parametrize("command", [convert, embed, report], ids=lambda module: module.__name__)
def test_a_checkpoint_that_is_not_there_is_named(command, run_dir, synthetic_dir, tmp_path):
    """The run has one checkpoint, of step 4."""
    if command is report:
        arguments = [str(run_dir), "--data_dir", str(tmp_path)]
    else:
        arguments = ["--checkpoint", str(run_dir)]
    if command is embed:
        arguments += ["--dataset", "synthetic_landsat/small", "--data_dir", str(synthetic_dir)]
    with pytest.raises(FileNotFoundError, match="no checkpoint '?3"):
        command.main([*arguments, "--which", "3", "--output", str(tmp_path / "out.npz")])
