"""What a job may ask for: the fields of a spec, and the models, tasks and metrics that it can name."""
