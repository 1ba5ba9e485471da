"""``report.html``: one evaluation as one file that opens from disk and fetches nothing.

A pure function of its ``Document``: the same document gives the same bytes, so no clock and no
machine's path may be in it. Every text is escaped by the template's autoescaping; what stands in a
script is JSON that cannot end it. The policy in the head lets nothing else run or load.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segkit.report import charts
from segkit.report.contents import Document, contents

_TEMPLATES = Path(__file__).parent / "templates"


def page(document: Document) -> bytes:
    """The file's content, UTF-8."""
    found = contents(document)
    found["data"] = script_json(found["data"])
    return rendered("report.html.j2", found, css=_style(), js=_script())


def rendered(template: str, found: Mapping[str, Any], *, css: str, js: str = "") -> bytes:
    """A page of one file, UTF-8: what ``template`` makes of ``found``, with its style and script
    and a policy that lets nothing else in."""
    fixed = {"css": Markup(css), "js": Markup(js), "policy": _policy(css, js)}
    return _environment().get_template(template).render({**found, **fixed}).encode()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined
    )


@lru_cache(maxsize=1)
def _style() -> str:
    shades = [
        _shades(charts.LIGHT),
        f"@media (prefers-color-scheme: dark) {{{_shades(charts.DARK)}}}",
    ]
    return "\n".join([stylesheet("report.css"), *shades])


def stylesheet(name: str) -> str:
    """A file beside the templates."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _shades(theme: tuple[charts.Rgb, charts.Rgb]) -> str:
    rules = []
    for number in range(charts.SHADES):
        ground, text = map(charts.hexadecimal, charts.shade(number / (charts.SHADES - 1), theme))
        rules.append(f".s{number}{{background:{ground};color:{text}}}")
    return "".join(rules)


@lru_cache(maxsize=1)
def _script() -> str:
    return (_TEMPLATES / "report.js").read_text(encoding="utf-8")


def _policy(css: str, js: str) -> str:
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js)
    ]
    script = f"'sha256-{digests[1]}'" if js else "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; "
        f"script-src {script}; base-uri 'none'; form-action 'none'"
    )


def script_json(value: object) -> Markup:
    """``value`` as JSON inside a script element: no text in it ends the element or a line."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
