"""Recipes compared at equal wall time: each pretrained for the same minutes and probed in the same way, in one table."""

from etils import epy

with epy.lazy_api_imports(globals()):
    from geomoe.experiments.comparison import Comparison, NestedChoice, Score, choose, compare, nested_choice, read_scores
    from geomoe.experiments.recipe import load_recipe, pretrain, steps_in
    from geomoe.experiments.scoring import POOLS, VIEWS, Protocol, Scorer, cross_validated, load_patches
    from geomoe.experiments.table import BEGIN, END, describe_choice, markdown, write_markdown

__all__ = ["POOLS", "VIEWS", "Protocol", "Scorer", "cross_validated", "load_patches", "load_recipe", "pretrain", "steps_in"]
__all__ += ["Comparison", "NestedChoice", "Score", "choose", "compare", "nested_choice", "read_scores"]
__all__ += ["BEGIN", "END", "describe_choice", "markdown", "write_markdown"]
