"""The results file: what comes back, for which key, and what a torn or another file does."""

import concurrent.futures
import dataclasses
import multiprocessing

import pytest

from geomoe.probing import ResultKey, Results
from geomoe.probing.results import RowFile

BASE = dict(
    dataset='a, "b"',
    train_split="train",
    test_split="test",
    task="multilabel",
    protocol="none",
    probe="linear",
    features="pretrained",
    encoder="runs/a step 4 0123456789ab",
    pool="mean+metadata",
    settings="drop=('lat','lon');C=1.0",
    seed=0,
)


@dataclasses.dataclass(frozen=True)
class Small:
    name: str
    count: int
    value: float


def add(path, key, value=0.5, intervals=None, **more):
    Results(path).add(key, {"accuracy": value, **more}, intervals or {}, unit="collection2_dn", statistics="computed: x")


def add_rows(path, seeds):
    for seed in seeds:
        add(path, ResultKey(**{**BASE, "seed": seed}), seed / 100, micro_mAP=0.25)


def test_results_are_safe_under_parallel_runs_and_survive_a_torn_line(tmp_path):
    path = tmp_path / "results.csv"
    with concurrent.futures.ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(add_rows, [path] * 4, [range(i * 5, i * 5 + 5) for i in range(4)]))
    assert sorted(key.seed for key in Results(path).read()) == list(range(20))
    whole = path.read_text()
    assert len(whole.splitlines()) == 1 + 2 * 20  # a line for each metric
    path.write_text(whole[:-9])  # the last line of the last result is torn
    assert len(Results(path).read()) == 19
    add_rows(path, [20])
    assert 20 in {key.seed for key in Results(path).read()} and len(Results(path).read()) == 20
    assert Results(path).find(ResultKey(**{**BASE, "seed": 7})).metrics == {"accuracy": 0.07, "micro_mAP": 0.25}


def test_a_row_is_found_by_every_part_of_its_key_and_no_other(tmp_path):
    path = tmp_path / "folder" / "results.csv"
    add(path, ResultKey(**BASE), 0.123456789, {"accuracy": (0.1, 0.2)}, ece=0.5)
    scores = Results(path).find(ResultKey(**BASE))
    assert scores.metrics == {"accuracy": pytest.approx(0.12345679), "ece": 0.5} and scores.intervals == {
        "accuracy": (0.1, 0.2)
    }
    for name, value in BASE.items():
        other = ResultKey(**{**BASE, name: value + 1 if name == "seed" else value + "x"})
        assert Results(path).find(other) is None, name
    add(path, ResultKey(**BASE), 0.75)
    assert Results(path).find(ResultKey(**BASE)).metrics == {"accuracy": 0.75}  # the last one
    assert Results(tmp_path / "none.csv").read() == {}


def test_a_file_of_another_format_is_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("dataset,seed,metrics\na,1,accuracy=0.5;ece=0.1\n")
    for use in (lambda: Results(path).read(), lambda: add(path, ResultKey(**BASE))):
        with pytest.raises(ValueError, match=r"results.csv has other columns .*move it away"):
            use()
    assert path.read_text().endswith("ece=0.1\n")


def test_rows_of_any_kind_come_back_with_their_types(tmp_path):
    file = RowFile(tmp_path / "rows.csv", Small)
    assert file.read() == []
    file.append([Small("a, b", 1, 0.1), Small("c", 2, float("inf"))])
    file.append([Small("d", 3, 1e-9)])
    assert file.read() == [Small("a  b", 1, 0.1), Small("c", 2, float("inf")), Small("d", 3, 1e-9)]
    with open(file.path, "a") as out:
        out.write("e,4,0.")
    assert len(file.read()) == 3
    file.append([Small("f", 5, 0.5)])
    assert [row.name for row in file.read()] == ["a  b", "c", "d", "f"]
    with open(file.path, "a") as out:
        out.write("g,6\n")
    with pytest.raises(ValueError, match="line 6 has 2 cells, not 3"):
        file.read()
