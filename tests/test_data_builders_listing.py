"""Split files and tables of labels: read, or refused with a message that names them."""

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from geomoe.data.builders import BigearthnetLandsat, EurosatLandsat, LandsatFolder
from geomoe.data.builders.landsat_folder import read_labels
from geomoe.data.builders.listing import Entry, Listing, Skipped, read_skipped, write_skipped

fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
    write_skipped(tmp_path, [*rows, Skipped("clouds", "c", "/Z\udcfcrich.tif", "")])  # a path in bytes that are no text
    assert read_skipped(tmp_path) == [*rows, Skipped("clouds", "c", r"/Z\udcfcrich.tif", "")]


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
    "first, ids",
    [
        ("patch", ["S2_1", "S2_2"]),
        ("patch_id", ["S2_1", "S2_2"]),
        ("S2_0", ["S2_0", "S2_1", "S2_2"]),
        ('"S2_0.tif",5', ["S2_0", "S2_1", "S2_2"]),
    ],
)
def test_a_first_line_that_names_no_patch_is_a_header(tmp_path, first, ids):
    (tmp_path / "images").mkdir()
    (tmp_path / "bigearthnet-val.csv").write_text(f"{first}\nS2_1,x\n\nS2_2\n")
    listing = BigearthnetLandsat(source=tmp_path, data_dir=tmp_path / "data").list_source()
    assert [entry.id for entry in listing.splits["val"]] == ids and list(listing.splits) == ["val"]


@pytest.mark.parametrize("text", ["../up", "/etc/x", "S2_1/../../x", "C:\\S2_1", "a\\..\\b"])
def test_ids_that_lead_out_of_the_source_are_refused(tmp_path, text):
    (tmp_path / "images").mkdir()
    for name, builder in (("bigearthnet-train.csv", BigearthnetLandsat), ("eurosat-train.txt", EurosatLandsat)):
        (tmp_path / name).write_text(f"S2_1\n{text}\n")
        with pytest.raises(ValueError, match=f"{name}, line 2: .* leads out of the folder"):
            builder(source=tmp_path, data_dir=tmp_path / "data").list_source()


@pytest.mark.parametrize("split", ["../up", "/tmp/x", "all", "a/b", "a b", ""])
def test_splits_that_are_no_names_are_refused_before_anything_is_written(tmp_path, split, monkeypatch):
    monkeypatch.setattr(EurosatLandsat, "list_source", lambda self: Listing({split: [Entry("a", "a.tif")]}))
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="is no name of a split"):
        EurosatLandsat(source=tmp_path / "in", data_dir=tmp_path / "data").download_and_prepare()
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))


@pytest.mark.parametrize("config", ["..", "../x", "/x", "a/b"])
def test_configurations_that_are_no_names_are_refused(tmp_path, config):
    with pytest.raises(ValueError, match="is no name for a dataset"):
        LandsatFolder(data_dir=tmp_path, config=config)


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,klass\none,field\n", "labels.csv: 'klass' stands for nothing"),
        ("id,split\none,../up\n", "labels.csv, line 2: '../up' is no name of a split"),
        ("id,split\none,train\ntwo,all\n", "labels.csv, line 3: 'all' is no name of a split"),
        ("id,split\none,train\ntwo,TEST\nthree,Train\n", "line 4: split 'Train' differs from 'train' of .*line 2 in .*alike"),
        ("id,split\none,\ntwo,Train\n", "line 3: split 'Train' differs from 'train' of .*line 2"),
        ("id,split\none,Train\ntwo,\n", "line 3: no split, so 'train', which differs from 'Train' of .*line 2"),
        ("id,label,split\n", "labels.csv: there is a header and no row"),
        ("id,label\n,\n\n", "labels.csv: there is a header and no row"),
        ("id,label,labels\none,a,a;b\n", "columns label .* and labels .*: keep one"),
    ],
)
def test_flaws_of_tables_of_labels_are_named(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(path)


def test_blanks_around_a_split_say_nothing_and_its_case_is_kept(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.tif").touch()
    (tmp_path / "t.csv").write_text("id,split\na, Test\nb,Test \nc,\n")
    listing = LandsatFolder(source=tmp_path / "in", labels=tmp_path / "t.csv", data_dir=tmp_path).list_source()
    assert {split: [entry.id for entry in entries] for split, entries in listing.splits.items()} == {
        "Test": ["a", "b"],
        "train": ["c"],
    }


@fast
@given(st.text('ab,";/\\.\n\r ', max_size=60).map(lambda text: f"id,labels,split\n{text}"))
def test_any_table_of_labels_lists_patches_or_is_named(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text, newline="")
    (tmp_path / "source").mkdir(exist_ok=True)
    (tmp_path / "source" / "a.tif").touch()
    try:
        listing = LandsatFolder(source=tmp_path / "source", labels=tmp_path / "labels.csv", data_dir=tmp_path).list_source()
    except ValueError as error:
        assert "labels.csv" in str(error)
    else:
        entries = [entry for entries in listing.splits.values() for entry in entries]
        assert [entry.path for entry in entries] in ([], [str(tmp_path / "source" / "a.tif")])
