"""Measurements, run by `python -m benchmarks`: ratios within one run, medians of several rounds."""
