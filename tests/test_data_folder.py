"""The GeoTIFFs of a folder, and the names that find them."""

import os

import pytest

from geomoe.data.folder import File, Names, find_geotiffs, fingerprint, plain_name


def touch(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "ab").close()


def ids(folder):
    return [file.id for file in find_geotiffs(folder)]


def test_endings_in_any_case_and_brackets_in_paths(tmp_path):
    folder = tmp_path / "winter [2021]"
    touch(folder, "._a.tif", "a.tif", "b.TIF", "c.Tiff", "[x]/*.tIf", "d.txt", "e.tif.aux.xml", "tif")
    os.makedirs(folder / "folder.tif")
    assert ids(folder) == ["[x]/*", "a", "b", "c"]
    assert [os.path.relpath(file.path, folder) for file in find_geotiffs(folder)] == ["[x]/*.tIf", "a.tif", "b.TIF", "c.Tiff"]


def test_names_that_differ_in_their_endings_alone_keep_them(tmp_path):
    touch(tmp_path, "a.tif", "a.TIF", "a.tiff", "b.tif", "c/a.tif")
    assert ids(tmp_path) == ["a.TIF", "a.tif", "a.tiff", "b", "c/a"]


def test_accents_are_composed_where_that_tells_files_apart(tmp_path):
    touch(tmp_path, "o\u0308.tif")
    assert ids(tmp_path) == ["\u00f6"]
    touch(tmp_path, "\u00f6.tif")
    assert sorted(ids(tmp_path)) == ["o\u0308.tif", "\u00f6.tif"]


def test_names_that_are_no_text_have_ids_that_are(tmp_path):
    touch(tmp_path, b"Z\xfcrich.tif")
    (file,) = find_geotiffs(tmp_path)
    assert file.id == r"Z\xfcrich" and file.id.encode() and os.path.exists(file.path)
    assert Names(tmp_path, [file]).find(r"Z\xfcrich") == file


def test_linked_folders_are_followed_and_every_folder_is_listed_once(tmp_path):
    touch(tmp_path / "elsewhere", "x.tif", "deep/y.tif")
    touch(tmp_path / "in", "real/a.tif")
    for link, target in (
        ("to_elsewhere", tmp_path / "elsewhere"),
        ("again", tmp_path / "elsewhere"),
        ("a_cycle", tmp_path / "in"),
        ("real/up", ".."),
        ("before_real", "real"),
        ("itself", "itself"),
    ):
        os.symlink(target, tmp_path / "in" / link)
    os.symlink(tmp_path / "elsewhere" / "x.tif", tmp_path / "in" / "linked.tif")
    os.symlink("nowhere", tmp_path / "in" / "broken.tif")  # listed, so that the reader says that it is missing
    assert ids(tmp_path / "in") == ["again/deep/y", "again/x", "broken", "linked", "real/a"]


def test_a_fingerprint_changes_with_names_sizes_and_times(tmp_path):
    touch(tmp_path, "a.tif", "b.tif")
    seen = [fingerprint(find_geotiffs(tmp_path))]
    assert fingerprint(find_geotiffs(tmp_path)) == seen[0]
    for change in (
        lambda: (tmp_path / "a.tif").write_bytes(b"x"),
        lambda: os.utime(tmp_path / "a.tif", (1, 1)),
        lambda: os.rename(tmp_path / "b.tif", tmp_path / "c.tif"),
        lambda: (tmp_path / "c.tif").unlink(),
        lambda: os.symlink("nowhere", tmp_path / "d.tif"),
        lambda: (tmp_path / "a.tif.msk").write_bytes(b"x"),  # which says where a.tif holds data
    ):
        change()
        seen.append(fingerprint(find_geotiffs(tmp_path)))
    assert len(set(seen)) == 7


FILES = [File(name, f"/in/{name}.tif") for name in ("Forest/0", "River/0", "River/1", "a", "x/a", "b.c", "k.TIF", "k.tif")]


@pytest.mark.parametrize(
    "text, found",
    [
        ("Forest/0", "Forest/0"),
        ("Forest/0.tif", "Forest/0"),
        ("./Forest//0.TIFF", "Forest/0"),
        (r"Forest\0.tif", "Forest/0"),
        (r".\River\1", "River/1"),
        ("/in/River/0.tif", "River/0"),
        ("1", "River/1"),
        ("1.tif", "River/1"),
        ("a", "a"),
        ("b.c", "b.c"),
        ("k.tif", "k.tif"),
        ("c", None),
        ("River", None),
        ("k", None),
        ("2.tif", None),
    ],
)
def test_names_find_files_by_path_or_by_its_end(text, found):
    file = Names("/in", FILES).find(text)
    assert (file and file.id) == found


@pytest.mark.parametrize(
    "text", ["../a", "Forest/../a", r"..\a", "/elsewhere/a.tif", "/inside/a", r"C:\in\a.tif", "c:/a", "/a"]
)
def test_names_that_lead_out_of_the_folder_are_refused(text):
    for find in (plain_name, Names("/in", FILES).find):
        with pytest.raises(ValueError, match="leads out of the folder"):
            find(text)


def test_a_name_of_several_files_is_refused():
    with pytest.raises(ValueError, match=r"'0.tif' names 2 files \(Forest/0, River/0 ...\); write the path"):
        Names("/in", FILES).find("0.tif")
