"""User code as models and datasets: tried in child processes, so that the API and the worker never import it."""
