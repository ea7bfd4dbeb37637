"""Benchmarks of the project. Run them from the project folder; they are not part of the package."""
