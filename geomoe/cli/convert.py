"""Converts an encoder: published weights (.pth) to a run directory, a run to published weights, either to StableHLO or ONNX.

python -m geomoe.cli.convert --checkpoint RUN --output encoder.safetensors  one file, to pass on
python -m geomoe.cli.convert --checkpoint RUN --output weights.pth          for PyTorch users
python -m geomoe.cli.convert --checkpoint RUN --output encoder.stablehlo    without this package
python -m geomoe.cli.convert --checkpoint RUN --output encoder.onnx         without JAX
python -m geomoe.cli.convert --checkpoint weights.pth --output probe_me/    a run directory
"""

import argparse
import dataclasses
import os
import sys

from geomoe.cli.options import statistics_of_file
from geomoe.cli.setup import clear_errors, program, start

_ENDINGS = (".safetensors", ".pth", ".stablehlo", ".onnx")
# Options that other outputs would ignore.
_ONLY_FOR = {"pool": (".stablehlo", ".onnx"), "platforms": (".stablehlo",), "dtype": (".safetensors",)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=program("convert"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="run directory of train.py, or published weights (.pth)")
    parser.add_argument("--which", default="last", help="checkpoint of a run directory: last, best or a step")
    parser.add_argument(
        "--output", required=True, help="a .safetensors, .pth, .stablehlo or .onnx file, or a folder that is not there yet"
    )
    parser.add_argument("--pool", help="of the exported function: mean (default), stages+metadata, tokens ...")
    parser.add_argument("--platforms", help="of a .stablehlo file (default: cpu,cuda,tpu)")
    parser.add_argument("--dtype", choices=("float32", "float16"), help="of the weights in .safetensors (default: float32)")
    whose = "a file of `geomoe prepare --statistics`: those that the encoder z-scores images by (default: those of its run)"
    parser.add_argument("--statistics", metavar="FILE", help=whose)
    args = parser.parse_args(argv)
    if os.path.exists(args.output):
        raise ValueError(f"{args.output} is there already; remove it or take another name")
    output = args.output.lower()
    for option, endings in _ONLY_FOR.items():
        if getattr(args, option) is not None and not output.endswith(endings):
            raise ValueError(f"--{option} is for {' and '.join(endings)} files, which {args.output} is none of")
    ending = os.path.splitext(output)[1]
    if ending[1:2].isalpha() and not output.endswith((*_ENDINGS, "/")):
        kinds = f"{', '.join(_ENDINGS)}, or without an ending, or with a / at its end, for a run directory"
        raise ValueError(f"--output {args.output} has an ending that is none of {kinds}")
    start()
    from geomoe.models.pooling import parse_pool
    from geomoe.pretrained import load

    pool = parse_pool(args.pool or "mean")
    encoder = load(args.checkpoint, args.which)
    if args.statistics is not None:
        encoder = dataclasses.replace(encoder, statistics=statistics_of_file(args.statistics))
    if output.endswith(".stablehlo"):
        from geomoe.export.stablehlo import export_encoder

        platforms = [name.strip() for name in (args.platforms or "cpu,cuda,tpu").split(",")]
        facts = export_encoder(encoder, args.output, pool=pool, platforms=platforms)
        print(f"{args.output}: {facts['bytes'] / 1e6:.1f} MB, for {', '.join(platforms)}; inputs in {args.output}.json")
        print(facts["guarantee"])
    elif output.endswith(".onnx"):
        from geomoe.export.onnx import export_onnx

        facts = export_onnx(encoder, args.output, pool=pool)
        print(f"{args.output}: {facts['bytes'] / 1e6:.1f} MB, opset {facts['opset']}; inputs in {args.output}.json")
    elif output.endswith(".safetensors"):
        encoder.save(args.output, dtype=args.dtype or "float32")
        print(f"{args.output}: {os.path.getsize(args.output) / 1e6:.1f} MB, {encoder.num_params:,} parameters")
    elif output.endswith(".pth"):
        from geomoe.weights import save_torch_checkpoint

        save_torch_checkpoint(args.output, encoder.params, encoder.config, encoder.statistics, encoder.normalised_targets)
        size = os.path.getsize(args.output) / 1e6
        print(f"{args.output}: {size:.1f} MB, PyTorch's format, {encoder.num_params:,} parameters")
    else:
        encoder.save_run(args.output)
        print(f"{args.output}: a run directory for geomoe.load, probe.py and geomoe.cli.embed")


if __name__ == "__main__":
    sys.exit(clear_errors(main))
