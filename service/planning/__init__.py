# From a spec to what will be run, and whether its parts fit together. No trial is run here, no sampler is asked and
# nothing is written.
"""From a spec to a plan."""
