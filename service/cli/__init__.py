"""The ``warptune`` command, and the processes it starts."""
