"""HTML that escapes whatever it is given."""

import html


class Markup(str):
    """HTML as it is; any other text is escaped where it becomes part of a page."""

    __slots__ = ()


def markup(*parts: object) -> Markup:
    """Joins parts; None is left out, and what is no `Markup` is escaped."""
    texts = [part if isinstance(part, Markup) else html.escape(str(part)) for part in parts if part is not None]
    return Markup("".join(texts))


def tag(name: str, /, *parts: object, **attributes: object) -> Markup:
    """An element: `tag("p", "a < b", class_="note")`; attributes that are None are left out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    if name in ("img", "meta"):
        return Markup(f"<{name}{opening}>")
    return Markup(f"<{name}{opening}>{markup(*parts)}</{name}>")
