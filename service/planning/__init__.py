"""From a spec to what a job will run, and whether its parts fit together."""
