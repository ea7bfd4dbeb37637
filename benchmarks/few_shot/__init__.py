"""Measures whether a P learned on some tasks helps on others, over several families of real data."""
