"""The version of the package, for everything that records what made it."""

__version__ = "0.2.0"
