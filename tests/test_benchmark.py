"""The benchmark: its count of operations, and a run of its command."""

import json

import jax
import jax.numpy as jnp
import pytest

from geomoe.benchmark import PARTS, decoder_flops, encoder_flops, training_flops
from geomoe.cli import bench
from geomoe.models import ModelConfig, build_encoder


def test_the_count_is_that_of_the_compiled_program_where_every_expert_is_chosen():
    """With K = E nothing is wasted, so the compiler's own count of a large model is the matmuls and a little more."""
    config = ModelConfig.from_dict(dict(size="S", depth=3, top_k=3, stage_experts=(3, 3, 3)))
    encoder = build_encoder("S", depth=3, top_k=3, stage_experts=(3, 3, 3))
    images, pair = jnp.zeros((4, 40, 40, 7)), jnp.zeros((4, 2))
    params = jax.eval_shape(encoder.init, jax.random.key(0), images, pair, pair, pair, pair)
    counted = jax.jit(encoder.apply).lower(params, images, pair, pair, pair, pair).compile().cost_analysis()["flops"] / 4
    assert encoder_flops(config) < counted < 1.15 * encoder_flops(config)


def test_the_published_size_by_hand():
    config = ModelConfig()
    assert config.num_visible == 25 and encoder_flops(config, 30) < encoder_flops(config) * 30 / 105
    # a decoder block for a token: q, k, v, out 108 * (108 + 54 + 54 + 108); attention 2 * 105 * 108; router; two experts, V, W2
    block = 105 * (108 * 324 + 2 * 105 * 108 + 108 * 6 + 4 * 108 * 54)
    assert decoder_flops(config) == 2 * (30 * 144 * 108 + 2 * block + 100 * 108 * 112)
    assert training_flops(config) == 3 * (encoder_flops(config, 30) + decoder_flops(config))


@pytest.mark.long
def test_the_command_writes_rows(tmp_path, capsys):
    bench.main(["--part", "embed", "--size", "tiny", "--json", str(tmp_path / "b.json")])
    (row,) = json.loads((tmp_path / "b.json").read_text())
    assert row["part"] == "embed" and row["per_s"] > 0 and 0 < row["peak_share"] < 1 and row["memory_gb"] > 0
    assert row["compile_s"] > 0 and row["compile_cached_s"] > 0
    assert "matmul peak" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Huge"):
        bench.main(["--part", "train", "--size", "Huge"])
    for part, option in (("kernels", ["--size", "XS"]), ("scene", ["--scaling"])):
        with pytest.raises(ValueError, match=f"{option[0]} is for --part .*; {part} would ignore it"):
            bench.main(["--part", part, *option])


def test_the_step_lowers_for_accelerators_without_calls_to_the_host():
    here, *there = PARTS["program"]("tiny", 8)
    assert here["model_gflop"] < here["gflop"] < 2 * here["model_gflop"]
    assert [row["platform"] for row in there] == ["tpu, lowered", "cuda, lowered"]
    assert all(row["host_calls"] == 0 for row in (here, *there)) and all(row["dots"] > 50 for row in there)


def test_kernels_are_timed_in_both_versions():
    rows = PARTS["kernels"](batch=2, repeats=1)
    assert [row["operation"] for row in rows] == ["layer_norm", "attention", "shared_mixture"]
    assert all(row["plain_ms"] > 0 and row["fast_ms"] > 0 for row in rows)


def test_hosts_share_the_records_of_an_epoch():
    one, two = PARTS["hosts"](counts=(1, 2), shards=4, repeats=2, count=160, batches=1)
    assert (one["patches"], two["patches"]) == (1280, 640) and two["gbyte"] == pytest.approx(one["gbyte"] / 2)
    assert one["per_s"] > 0 and two["seconds"] > 0
