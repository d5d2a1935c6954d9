"""The encoder in other systems: StableHLO (`.stablehlo`), a PyTorch module (`.torch_module`)."""
