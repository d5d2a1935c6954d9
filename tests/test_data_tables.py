"""Lists and tables of names: read, or refused with a message that names the file and the line."""

import csv
import io
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from geomoe.data.tables import read_lines, read_table

fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
COLUMNS = ("id", "label", "split")
PLAIN = st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"))
LINE = st.text(PLAIN, min_size=1, max_size=12).map(str.strip)
CELL = st.text(PLAIN, max_size=8).map(str.strip)
nfc = lambda text: unicodedata.normalize("NFC", text)


@fast
@given(st.lists(LINE.filter(bool), max_size=6))
def test_lines_come_back_with_where_they_stand(tmp_path, lines):
    path = tmp_path / "split.txt"
    path.write_text("\n\n".join(f"  {line}\t" for line in lines) + "\r\n", encoding="utf-8")
    expected = [(f"{path}, line {2 * i + 1}", nfc(line)) for i, line in enumerate(lines)]
    assert [(where, nfc(text)) for where, text in read_lines(path)] == expected


@fast
@given(st.lists(st.tuples(CELL.filter(bool), CELL), max_size=5))
def test_tables_come_back(tmp_path, rows):
    path = tmp_path / "labels.csv"
    text = io.StringIO()
    csv.writer(text).writerows([["id", "label"], *rows])
    path.write_text(nfc(text.getvalue()), encoding="utf-8", newline="")
    expected = [{"id": key, "label": label} for key, label in csv.reader(io.StringIO(nfc(text.getvalue()))) if key != "id"]
    read = [row.fields for row in read_table(path, COLUMNS) if row.fields["id"] != "id"]
    assert [row | {"label": ""} for row in read] == [row | {"label": ""} for row in expected]
    for row, before in zip(read, expected):
        assert row["label"] in ("", before["label"].strip())


@fast
@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(max_size=60).map(lambda text: f"id,label,split\n{text}".encode("utf-8", "surrogatepass")),
        st.text('ab,";\n\r\0 .tif', max_size=60).map(lambda text: f"id,label\n{text}".encode()),
    )
)
def test_any_table_is_read_or_named(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    try:
        rows = read_table(path, COLUMNS)
    except ValueError as error:
        assert "labels.csv" in str(error)
    else:
        assert all(row.fields["id"] and "\n" not in "".join(row.fields.values()) for row in rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are_and_accents_in_either_form(tmp_path, encoding):
    """An o with two dots, as one character and as two: one class."""
    path = tmp_path / "labels.csv"
    path.write_bytes("id,label\r\np1,Gew\u00f6lbe\r\np2,Gewo\u0308lbe\r\n".encode(encoding))
    assert [row.fields["label"] for row in read_table(path, COLUMNS)] == ["Gew\u00f6lbe"] * 2


@pytest.mark.parametrize("text", ["nan", "NaN", "NA", "N/A", "<NA>", "NULL", "None", "", "  "])
def test_what_stands_for_a_missing_value(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(f" id , label \n{text.strip() or 'x'},{text}\nb,none\n,\n")
    assert [row.fields for row in read_table(path, COLUMNS)] == [
        {"id": text.strip() or "x", "label": ""},
        {"id": "b", "label": "none"},
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"name\none\n", "labels.csv: there is no column id"),
        (b"", "there is no column id"),
        (b"id,klass\na,b\n", "'klass' stands for nothing; its columns are"),
        (b"id;label\none;a\n", "separated by commas"),
        (b"id,label,label\none,a,b\n", "labels.csv: column 'label' stands twice"),
        (b"id,label\none,Beaches, dunes, sands\n", r"line 2: 4 fields, and the header has 2 \(id, label\); .*quotes"),
        (b"label,id\na,one\nb\n", "line 3: 1 field, and the header has 2"),
        (b"id,label\n,a\n", "line 2: the id is empty"),
        (b'id,label\none,"a\nb"\n', "holds a line break"),
        (b'id,label\none,"a"b\n', "line 2: no line of a CSV table"),
        (b'id,label\none,"a\ntwo,b\n', "no line of a CSV table"),
        (
            "id,label\none,a\ntwo,Gew\u00e4sser\n".encode("latin-1"),
            "labels.csv, line 3: no UTF-8 text; save it as UTF-8.*Latin-1",
        ),
        ("id,label\none,a\n".encode("utf-16-le"), "labels.csv, line 1: a NUL"),
        (b"\xff\xfei\x00d\x00x", "labels.csv, line 1: no UTF-16 text"),
    ],
)
def test_flaws_are_named_with_file_and_line(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(path, COLUMNS)


def test_a_line_that_ends_in_empty_fields_is_no_flaw(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("id,label\none,a,,\n,,,\n\n")
    assert [(row.where, row.fields) for row in read_table(path, COLUMNS)] == [(f"{path}, line 2", {"id": "one", "label": "a"})]
