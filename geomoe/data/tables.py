"""Text files that name patches, one a line: lists and CSV tables, read with errors that name the file and the line."""

import codecs
import csv
import io
import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

# What pandas and spreadsheets write where a value is missing.
_MISSING = {"", "nan", "NaN", "NaT", "NA", "N/A", "n/a", "<NA>", "#N/A", "NULL", "null", "None"}


class Row(NamedTuple):
    """A line of a table: where it stands, for errors, and the text of each column, "" where it is missing."""

    where: str
    fields: dict[str, str]


def is_missing(text: str) -> bool:
    """Whether a text stands for a missing value: "", "nan", "NA", "NULL" and the like."""
    return text.strip() in _MISSING


def read_text(path: str | os.PathLike[str], compose: bool = True) -> str:
    """Read a text file in UTF-8, or in UTF-16 with its mark; accents are composed (NFC) unless `compose` is False.

    Raises:
        ValueError: it is in another encoding.
    """
    with open(path, "rb") as file:
        raw = file.read()
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    advice = "save it as UTF-8"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        advice = f"{advice} (Latin-1 or Windows-1252 is likely)" if encoding == "utf-8-sig" else advice
        raise ValueError(f"{os.fspath(path)}, line {line}: no {encoding[:6].upper().strip('-')} text; {advice}") from None
    if "\0" in text:
        raise ValueError(f"{os.fspath(path)}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL, no text; {advice}")
    return unicodedata.normalize("NFC", text) if compose else text


def read_lines(path: str | os.PathLike[str], compose: bool = True) -> list[tuple[str, str]]:
    """Read the lines of a list that are not empty, without the blanks around them: (where it stands, text) each.

    `compose` as for `read_text`; lines that are names of files are not to be changed.

    Raises:
        ValueError: the file is no text.
    """
    lines = enumerate(io.StringIO(read_text(path, compose), newline=None), start=1)
    return [(f"{os.fspath(path)}, line {number}", line.strip()) for number, line in lines if line.strip()]


def read_table(path: str | os.PathLike[str], columns: Sequence[str]) -> list[Row]:
    """Read a CSV table with a header, of commas; lines without any text are left out.

    Args:
        columns: names of the columns that it may have; it must have the first one.

    Raises:
        ValueError: the file is no such table; the message names it and the line.
    """
    name, rows = os.fspath(path), list[Row]()
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        if twice := [column for column in header if header.count(column) > 1]:
            raise ValueError(f"{name}: column {twice[0]!r} stands twice")
        if columns[0] not in header or set(header) - set(columns):
            hint = "; the fields of a line are separated by commas" if len(header) == 1 and set(header[0]) & set(";\t") else ""
            foreign = [repr(column) for column in header if column not in columns]
            wrong = f"{', '.join(foreign)} stands for nothing" if columns[0] in header else f"there is no column {columns[0]}"
            raise ValueError(f"{name}: {wrong}; its columns are {header}, and may be {', '.join(columns)}{hint}")
        for cells in reader:
            texts, where = [cell.strip() for cell in cells], f"{name}, line {reader.line_num}"
            if not any(texts):
                continue
            if len(texts) < len(header) or any(texts[len(header) :]):
                fields = f"{len(texts)} field{'s' * (len(texts) != 1)}"
                quotes = "; a field with a comma in it needs quotes" if len(texts) > len(header) else ""
                raise ValueError(f"{where}: {fields}, and the header has {len(header)} ({', '.join(header)}){quotes}")
            if broken := [text for text in texts if len(text.splitlines()) > 1]:
                raise ValueError(f"{where}: the field {broken[0]!r} holds a line break")
            row = dict(zip(header, texts))
            if not row[columns[0]]:
                raise ValueError(f"{where}: the {columns[0]} is empty")
            rows.append(Row(where, {c: "" if c != columns[0] and is_missing(text) else text for c, text in row.items()}))
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: no line of a CSV table: {error}") from None
    return rows
