"""Split files and tables of labels: read, or refused with a message that names them."""

import csv
import io

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from geomoe.data.builders import BigearthnetLandsat, EurosatLandsat
from geomoe.data.builders.landsat_folder import read_table
from geomoe.data.builders.listing import Entry, Listing, Skipped, read_lines, read_skipped, write_skipped

fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LINE = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12).map(str.strip)


def test_the_first_of_entries_with_one_id_stays_over_all_splits():
    listing = Listing({"train": [Entry("a", "1"), Entry("b", "2"), Entry("a", "3")], "val": [Entry("b", "4"), Entry("c", "5")]})
    listing.drop_duplicates()
    assert {split: [entry.path for entry in entries] for split, entries in listing.splits.items()} == {
        "train": ["1", "2"],
        "val": ["5"],
    }
    assert [(row.kind, row.id, row.path) for row in listing.skipped] == [("duplicate id", "a", "3"), ("duplicate id", "b", "4")]
    assert "split train" in listing.skipped[1].message


def test_what_was_skipped_comes_back(tmp_path):
    rows = [Skipped("all nodata", "a", "/x,y/a.tif", 'with "quotes"'), Skipped("clouds", "b", "/b", "line\nbreak")]
    assert read_skipped(tmp_path) == []
    write_skipped(tmp_path, rows)
    assert read_skipped(tmp_path) == rows


@fast
@given(st.lists(LINE.filter(bool), max_size=6))
def test_lines_of_a_split_file_come_back(tmp_path, lines):
    path = tmp_path / "split.txt"
    path.write_text("\n\n".join(f"  {line}\t" for line in lines) + "\r\n", encoding="utf-8")
    assert read_lines(path) == lines


@fast
@given(st.binary(max_size=60))
def test_any_split_file_lists_patches_or_is_named(tmp_path, content):
    (tmp_path / "images").mkdir(exist_ok=True)
    for name, builder in (("bigearthnet-train.csv", BigearthnetLandsat), ("eurosat-train.txt", EurosatLandsat)):
        (tmp_path / name).write_bytes(content)
        try:
            listing = builder(source=tmp_path, data_dir=tmp_path / "data").list_source()
        except ValueError as error:
            assert name in str(error)
        else:
            ids = [entry.id for entry in listing.splits["train"]]
            assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "first, ids", [("patch", ["S2_1", "S2_2"]), ("S2_0", ["S2_0", "S2_1", "S2_2"]), ('"S2_0.tif",5', ["S2_0", "S2_1", "S2_2"])]
)
def test_a_first_line_that_names_no_patch_is_a_header(tmp_path, first, ids):
    (tmp_path / "images").mkdir()
    (tmp_path / "bigearthnet-val.csv").write_text(f"{first}\nS2_1,x\n\nS2_2\n")
    listing = BigearthnetLandsat(source=tmp_path, data_dir=tmp_path / "data").list_source()
    assert [entry.id for entry in listing.splits["val"]] == ids and list(listing.splits) == ["val"]


CELL = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=8).map(str.strip)


@fast
@given(st.dictionaries(CELL.filter(lambda text: text and not text.lower().endswith((".tif", ".tiff"))), CELL, max_size=5))
def test_tables_of_labels_come_back(tmp_path, labels):
    path = tmp_path / "labels.csv"
    text = io.StringIO()
    csv.writer(text).writerows([["id", "label"], *((f"{key}.tif", label) for key, label in labels.items())])
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    assert read_table(path) == {key: {"id": f"{key}.tif", "label": label} for key, label in labels.items()}


@fast
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(max_size=60).map(lambda text: f"id,label,split\n{text}".encode("utf-8", "surrogatepass")),
        st.text('ab,";\n\r\0 .tif', max_size=60).map(lambda text: f"id,labels,time\n{text}".encode()),
    )
)
def test_any_table_is_read_or_named(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    try:
        rows = read_table(path)
    except ValueError as error:
        assert "labels.csv" in str(error)
    else:
        assert all(isinstance(value, str) for row in rows.values() for value in row.values()) and "" not in rows


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,klass\none,field\n", "labels.csv: columns are .*klass"),
        ("name\none\n", "needed: id"),
        ("id,label\none,a\none,b\n", "line 3: the id 'one' stands twice"),
        ("id,label\none,a,b\n", "line 2: more fields than the 2 columns"),
        ("id,label\n,a\n", "line 2: the id is empty"),
        ("id,split\none,../up\n", "line 2: '../up' is no name of a split"),
        ("id,split\none,all\n", "'all' is no name of a split"),
        ('id,label\none,"a\nb"\n', "holds a line break"),
    ],
)
def test_flaws_of_tables_are_named(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(path)
