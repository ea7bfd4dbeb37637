"""The atlas: jobs of the service over a grid of scenarios, to find out when a learned P helps.

    python -m benchmarks.atlas run       # runs the scenarios that have no result yet; stop it and start it again
    python -m benchmarks.atlas report    # writes docs/atlas.md, its pictures, and what the service knows of them

Each scenario is one spec. Its data comes from the service or from a function in data.py, so that the spec alone
reproduces it.
"""
