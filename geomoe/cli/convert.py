"""Converts an encoder: published weights (.pth) to a run directory, a run to published weights, either to StableHLO or ONNX.

python -m geomoe.cli.convert --checkpoint RUN --output encoder.safetensors  one file, to pass on
python -m geomoe.cli.convert --checkpoint RUN --output weights.pth          for PyTorch users
python -m geomoe.cli.convert --checkpoint RUN --output encoder.stablehlo    without this package
python -m geomoe.cli.convert --checkpoint RUN --output encoder.onnx         without JAX
python -m geomoe.cli.convert --checkpoint weights.pth --output probe_me/    a run directory
"""

import argparse
import os
import sys

from geomoe.cli.setup import clear_errors, program, start

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
    args = parser.parse_args(argv)
    if os.path.exists(args.output):
        raise ValueError(f"{args.output} is there already; remove it or take another name")
    for option, endings in _ONLY_FOR.items():
        if getattr(args, option) is not None and not args.output.endswith(endings):
            raise ValueError(f"--{option} is for {' and '.join(endings)} files, which {args.output} is none of")
    start()
    from geomoe.models.pooling import parse_pool
    from geomoe.pretrained import load

    pool = parse_pool(args.pool or "mean")
    encoder = load(args.checkpoint, args.which)
    if args.output.endswith(".stablehlo"):
        from geomoe.export.stablehlo import export_encoder

        facts = export_encoder(encoder, args.output, pool=pool, platforms=(args.platforms or "cpu,cuda,tpu").split(","))
        platforms = ", ".join(facts["platforms"])
        print(f"{args.output}: {facts['bytes'] / 1e6:.1f} MB, for {platforms}; inputs in {args.output}.json")
        print(facts["guarantee"])
    elif args.output.endswith(".onnx"):
        from geomoe.export.onnx import export_onnx

        facts = export_onnx(encoder, args.output, pool=pool)
        print(f"{args.output}: {facts['bytes'] / 1e6:.1f} MB, opset {facts['opset']}; inputs in {args.output}.json")
    elif args.output.endswith(".safetensors"):
        encoder.save(args.output, dtype=args.dtype or "float32")
        print(f"{args.output}: {os.path.getsize(args.output) / 1e6:.1f} MB, {encoder.num_params:,} parameters")
    elif args.output.endswith(".pth"):
        from geomoe.weights import save_torch_checkpoint

        save_torch_checkpoint(args.output, encoder.params, encoder.config, encoder.statistics, encoder.normalised_targets)
        size = os.path.getsize(args.output) / 1e6
        print(f"{args.output}: {size:.1f} MB, PyTorch's format, {encoder.num_params:,} parameters")
    else:
        encoder.save_run(args.output)
        print(f"{args.output}: a run directory for geomoe.load, probe.py and geomoe.cli.embed")


if __name__ == "__main__":
    sys.exit(clear_errors(main))
