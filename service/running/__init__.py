"""Runs one job: search, confirmation, recommendation."""
