"""What products say of themselves: names and metadata files, in all three forms, with keys that repeat."""

import contextlib
import json

import pytest
from hypothesis import given, strategies as st

from geomoe import landsat

NAME = "LC08_L2SP_193026_20210613_20210622_02_T1"
# As in real level-2 files: the record of the level-1 input repeats the keys of the product itself.
GROUPS = {
    "LEVEL1_PROCESSING_RECORD": {"PROCESSING_LEVEL": "L1TP", "SUN_ELEVATION": "1.0", "DATE_ACQUIRED": "1999-01-01"},
    "PRODUCT_CONTENTS": {"LANDSAT_PRODUCT_ID": NAME, "PROCESSING_LEVEL": "L2SP"},
    "IMAGE_ATTRIBUTES": {
        "SPACECRAFT_ID": "LANDSAT_8",
        "DATE_ACQUIRED": "2021-06-13",
        "SCENE_CENTER_TIME": "10:02:31.1234560Z",
        "SUN_ELEVATION": "61.0",
    },
    "LEVEL1_RADIOMETRIC_RESCALING": {"REFLECTANCE_MULT_BAND_1": "2.0E-05", "REFLECTANCE_ADD_BAND_1": "-0.1"},
}


def as_text(groups):
    lines = ["GROUP = LANDSAT_METADATA_FILE"]
    for name, values in groups.items():
        lines += [f"  GROUP = {name}", *(f'    {key} = "{value}"' for key, value in values.items()), f"  END_GROUP = {name}"]
    return "\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END", ""])


def as_xml(groups):
    inner = "".join(
        f"<{name}>{''.join(f'<{key}>{value}</{key}>' for key, value in values.items())}</{name}>"
        for name, values in groups.items()
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<LANDSAT_METADATA_FILE>{inner}</LANDSAT_METADATA_FILE>'


FORMS = {"text": as_text, "json": lambda groups: json.dumps({"LANDSAT_METADATA_FILE": groups}), "xml": as_xml}


@pytest.mark.parametrize("form", FORMS)
def test_a_product_is_not_taken_for_its_input(form):
    product = landsat.product_of(NAME, landsat.parse_mtl(FORMS[form](GROUPS)))
    assert (product.level, product.sensor, product.sun_elevation) == (2, "landsat8", 61.0)
    assert product.acquired == "2021-06-13T10:02:31.1234560Z"
    assert product.level1_factors == {"B1": (2e-5, -0.1)}


def test_what_is_said_of_the_input_counts_last_whatever_the_order():
    groups = {"LEVEL1_PROCESSING_RECORD": {"SUN_ELEVATION": "1.0"}, "SOLAR_ATTRIBUTES": {"SUN_ELEVATION": "61.0"}}
    for ordered in (groups, dict(reversed(groups.items()))):
        assert landsat.product_of(NAME, ordered).sun_elevation == 61.0


def test_products_of_all_ages():
    facts = lambda name, **values: landsat.product_of(name, {"PRODUCT_METADATA": values} if values else {})
    old = facts("L5226063_06319880814", SPACECRAFT_ID="Landsat5", PRODUCT_TYPE="L1T", ACQUISITION_DATE="1988-08-14")
    assert (old.sensor, old.level, old.acquired) == ("landsat5", 1, "1988-08-14")
    first = facts(
        "site", SPACECRAFT_ID="LANDSAT_7", DATA_TYPE="L1TP", DATE_ACQUIRED="2005-06-13", SCENE_CENTER_TIME="10:02:31Z"
    )
    assert (first.sensor, first.level, first.acquired) == ("landsat7", 1, "2005-06-13T10:02:31Z")
    assert (facts(NAME).sensor, facts(NAME).level) == ("landsat8", 2)
    assert facts("LT40130301987146XXX01").sensor == "landsat4"
    assert facts("my field") == landsat.Product()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"SPACECRAFT_ID": "LANDSAT_5"}, "SPACECRAFT_ID = 'LANDSAT_5', but by its name .* is landsat8's"),
        ({"PROCESSING_LEVEL": "L1TP"}, r"say level 1 \(L1TP\), but by its name .* of level 2"),
        ({"SPACECRAFT_ID": "SENTINEL_2"}, "SPACECRAFT_ID = 'SENTINEL_2' is none of"),
        ({"DATE_ACQUIRED": "2019-01-01"}, "DATE_ACQUIRED = 2019-01-01, but by its name .* is of 20"),
        ({"SUN_ELEVATION": "high"}, "SUN_ELEVATION = 'high' is no number"),
        ({"SUN_ELEVATION": "91"}, "beyond 90 degrees"),
        ({"REFLECTANCE_MULT_BAND_1": "x"}, "REFLECTANCE_MULT_BAND_1 = 'x'"),
    ],
)
def test_contradictions_and_nonsense_are_named(values, message):
    groups = {"PRODUCT_CONTENTS": values} if not any("REFLECTANCE" in key for key in values) else {"": values}
    with pytest.raises(ValueError, match=message):
        landsat.product_of(NAME, groups)


def test_xml_that_declares_entities_is_refused():
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><a><A><K>&c;</K></A></a>'
    with pytest.raises(ValueError, match="declares entities"):
        landsat.parse_mtl(bomb)
    for text in ("{", "<a>", "[" * 100_000, "{" + '"a":{' * 100_000):
        with contextlib.suppress(ValueError):
            landsat.parse_mtl(text)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Z_]{0,9}", fullmatch=True).filter(lambda name: name not in ("GROUP", "END_GROUP")),
        st.dictionaries(
            st.from_regex(r"[A-Z][A-Z_]{0,9}", fullmatch=True).filter(lambda key: key not in ("GROUP", "END_GROUP")),
            st.from_regex(r"[A-Za-z0-9.:-]{1,9}", fullmatch=True),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_every_form_says_the_same(groups):
    for form in FORMS.values():
        assert landsat.parse_mtl(form(groups)) == groups


@given(st.text(max_size=200))
def test_any_text_is_read_or_named(text):
    try:
        groups = landsat.parse_mtl(text)
    except ValueError:
        return
    assert all(isinstance(value, str) for values in groups.values() for value in values.values())


def test_the_collection_by_metadata_and_name():
    collection = lambda name, **values: landsat.product_of(name, {"METADATA_FILE_INFO": values}).collection
    for name, number in {
        "LC08_L1TP_193026_20180613_20180613_01_T1": 1,
        "x_lc08_l2sp_193026_20210613_20210622_02_t1_b": 2,
        "LC08_CU_012008_20180613_20190614_C01_V01": 1,
        "LC81930262015164LGN00": 0,
        "LC81930262015164LGN00_20180613_01": 0,
        "LC08_193026_20180613": None,
        "export": None,
    }.items():
        assert collection(name) == number
    assert collection("export", LANDSAT_SCENE_ID="LC81930262015164LGN00") == 0
    assert collection("export", LANDSAT_SCENE_ID="LC81930262018164LGN00", COLLECTION_NUMBER="01") == 1
    product = "LC08_L1TP_193026_20180613_20180613_01_T1"
    assert collection("export", LANDSAT_SCENE_ID="LC81930262018164LGN00", LANDSAT_PRODUCT_ID=product) == 1
