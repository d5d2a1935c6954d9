"""The encoder in other systems: ONNX (`.onnx`), StableHLO (`.stablehlo`), a PyTorch module (`.torch_module`)."""
