"""The comparison in Markdown."""

import pytest

from geomoe.experiments import BEGIN, END, VIEWS, Comparison, NestedChoice, Score, describe_choice, markdown, write_markdown

NAN = float("nan")


def score(recipe, seed, minutes, pool, view, micro, transfer=NAN, rate=80.7, least=0.25):
    scored_on = ("0123", "some 4567", "train", "", "89ab", "masked")
    return Score(recipe, seed, minutes, *scored_on, 1.0, 2, rate, least, pool, view, micro, micro / 2, transfer)


def test_rows_are_means_over_seeds_longest_runs_first():
    whole, bare, small = VIEWS
    scores = [
        score("a", 0, 3, "mean", whole, 0.6, 0.9),
        score("a", 1, 3, "mean", whole, 0.7, 0.8, least=0.125),
        score("a", 0, 3, "mean", bare, 0.5),
        score("a", 0, 3, "mean", small, 0.4),
        score("b", 0, 10, "cls", whole, 0.6),
        score("band statistics", 0, 0, "", bare, 0.3, rate=NAN, least=NAN),
    ]
    header, line, *rows = markdown(scores).splitlines()
    assert header == (
        "| recipe | minutes | seeds | pooling | micro mAP | macro mAP | no metadata | 22 x 22 | transfer | images/s | "
        "least used expert |"
    )
    assert line == "|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
    assert rows == [
        "| b | 10 | 1 | cls | 0.600 | 0.300 |  |  |  | 81 | 0.250 |",
        "| a | 3 | 2 | mean | 0.650 ± 0.071 | 0.325 ± 0.035 | 0.500 | 0.400 | 0.850 ± 0.071 | 81 | 0.125 |",
        "| band statistics | 0 | 1 |  | 0.300 | 0.150 | 0.300 |  |  |  |  |",
    ]


def test_a_table_goes_between_its_marks(tmp_path):
    path = tmp_path / "page.md"
    write_markdown(path, "first\n")
    assert path.read_text() == f"# Recipes\n\n{BEGIN}\nfirst\n{END}\n"
    path.write_text(f"# Ours\n\nbefore\n{BEGIN}\nstale\n{END}\nafter\n")
    write_markdown(path, "fresh\n")
    assert path.read_text() == f"# Ours\n\nbefore\n{BEGIN}\nfresh\n{END}\nafter\n"
    path.write_text("nothing to put it between")
    with pytest.raises(ValueError, match="has no line"):
        write_markdown(path, "fresh\n")


def test_a_choice_in_words():
    comparison = Comparison(3, "out", "some", "train", "data")
    text = describe_choice(NestedChoice(0.61, 0.49, {"a, mean": 9, "b, cls": 6}), comparison, 2)
    assert "runs of 3 minutes with seed 2: micro mAP 0.610, macro mAP 0.490" in text
    assert text.endswith("in 15 folds: a, mean: 9; b, cls: 6.\n")
