"""A run on one page, a self-contained HTML file: config, curves, reconstructions, routing, sensitivity, probes, projection."""

from geomoe.analysis.report.page import write_report

__all__ = ["write_report"]
