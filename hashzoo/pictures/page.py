"""A page that shows what was found: each picture with its nearest neighbours, all within one HTML file."""

from __future__ import annotations

import base64
import importlib.resources
import io
from collections.abc import Sequence
from typing import NamedTuple

from hashzoo.errors import ImageError
from hashzoo.pictures.decode import PictureLike, open_picture
from hashzoo.text import clean

SIDE = 160  # pixels of a picture on the page, at most
TINY = 64  # up to here a picture is kept as PNG: a JPEG of it would look worse and be no smaller


class Neighbour(NamedTuple):
    """One picture that was found: what to write below it and when a mouse rests on it, and a data URI to show, if any."""

    distance: int
    caption: str
    title: str
    picture: str | None


class Group(NamedTuple):
    """A picture that was searched for, and its neighbours, nearest first."""

    caption: str
    picture: str | None
    hits: list[Neighbour]


def thumbnail(picture: PictureLike) -> str | None:
    """Give a picture as a data URI of at most SIDE x SIDE pixels; None if it cannot be read (any more)."""
    try:
        small = open_picture(picture, least=(SIDE, SIDE)).copy()
    except ImageError:
        return None
    small.thumbnail((SIDE, SIDE))
    buffer, kind = io.BytesIO(), "png" if max(small.size) <= TINY else "jpeg"
    small.save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def render(title: str, groups: Sequence[Group]) -> str:
    """Write the page as HTML that needs no other file; all text is escaped and shown as one line, whatever it holds."""
    import jinja2

    template = importlib.resources.files("hashzoo.pictures").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=lambda value: clean(value, 1 << 20)
    )
    return environment.from_string(template).render(title=title, groups=groups)
