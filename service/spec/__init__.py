# What a user may ask for: the fields of a job, their ranges and defaults. Knows nothing of how it is done.
"""Job specs."""
