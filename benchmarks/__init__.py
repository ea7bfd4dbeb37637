# Measurements, each run from the folder of the project; nothing here is installed with it.
"""What the project measures of itself."""
