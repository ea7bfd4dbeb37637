# From a spec to what will be run, and whether its parts fit together. Nothing here runs, asks a sampler or writes.
"""From a spec to a plan."""
