"""``python -m service`` is ``warptune``."""

from service.cli import app

app(prog_name="warptune")
