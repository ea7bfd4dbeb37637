"""The pages for people: home, a new job, a job.

They are rendered here, from what the API would answer. The script ``page.js`` sends files and specs to the API, and
loads a page again while something in it moves; without it, the pages can still be read.
"""

from service.api.pages.render import ASSETS
from service.api.pages.routes import router

__all__ = ["ASSETS", "router"]
