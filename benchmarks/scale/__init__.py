"""Measure how the service copes with many trials: ``python -m benchmarks.scale`` and ``benchmarks.scale.asks``."""
