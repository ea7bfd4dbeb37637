"""Engines run trials: in slot processes on one machine, or on a Ray cluster."""
