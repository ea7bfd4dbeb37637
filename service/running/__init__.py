"""Runs one job: data, search, confirmation, result."""
