# One arm of a job: what to try next, what to stop early, and the Optuna study that goes with it.
"""The search of one arm."""
