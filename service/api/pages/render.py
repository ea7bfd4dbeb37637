"""Renders the templates of the pages, and errors as pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from service.api.field_errors import field_errors
from service.api.pages.words import answer_of, duration, extension_of, name_of
from service.api.problems import STATUS
from service.errors import ServiceError
from service.result.effects import difference, percent
from service.version import VERSION

FOLDER: Final = Path(__file__).parent / "assets"
"""Style sheet and script of the pages."""

ASSETS: Final = StaticFiles(directory=FOLDER)


class PageRoute(APIRoute):
    """A route whose errors are pages too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route."""
        handle = super().get_route_handler()

        async def page(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
                return page_of("error", status=int(status), title=_upper(str(error)), details=[])
            except RequestValidationError as error:
                wrong = list(map(str, field_errors(error.errors(), None, [])))
                return page_of("error", status=404, title="There is nothing at this address", details=wrong)

        return page


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def page_of(template: str, status: int = 200, **values: object) -> HTMLResponse:
    """Return a page: the template of this name with these values."""
    return HTMLResponse(fill(template, **values), status)


def fill(template: str, **values: object) -> str:
    """Return the HTML of a template with these values."""
    return _templates().get_template(f"{template}.html.jinja").render(version=VERSION, **values)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("service", "api/pages/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=_as_json)
    environment.filters["share"] = percent
    environment.filters["answer"] = answer_of
    environment.filters["difference"] = difference
    environment.filters["duration"] = duration
    environment.filters["extension"] = extension_of
    environment.filters["optimizer"] = name_of
    environment.filters["number"] = lambda value: "-" if value is None else f"{value:.4g}"
    environment.filters["upper_first"] = _upper
    return environment


def _as_json(value: object) -> object:
    assert isinstance(value, BaseModel)
    return value.model_dump(mode="json")
