"""The parts of a web page that holds everything in one file: no script, no font and no picture from elsewhere.

The page is also well-formed XML. Its security policy tells the browser to fetch nothing at all, so that what a
run folder says (names of folders, messages of errors) can neither run nor reach out.
"""

import base64
import html
import io
import re
from collections.abc import Iterable
from pathlib import Path
from string import Template

from PIL import Image

PICTURE_BYTES = 250_000
"""A still picture with more bytes is embedded as JPEG instead of in its own format."""

ANIMATION_BYTES = 4_000_000
"""An animation with more bytes is not embedded."""

_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(value: object) -> str:
    """The text of any value, harmless inside an element or a quoted attribute."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", str(value)))


def document(title: str, body: str) -> str:
    """A whole page; `title` is text, `body` is HTML."""
    return _DOCUMENT.substitute(title=escape(title), style=_STYLE, body=body)


def section(name: str, title: str, body: str) -> str:
    """A titled section, to be linked to as #name."""
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>{body}</section>'


def missing(sentence: str) -> str:
    """What stands where something is not there yet."""
    return f'<p class="missing">{escape(sentence)}</p>'


def warning(sentence: str) -> str:
    """What the person should know before anything else here."""
    return f'<p class="warning">{escape(sentence)}</p>'


def facts(title: str, pairs: Iterable[tuple[str, str]]) -> str:
    """A titled list of names and values, both text."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<div class="facts"><h3>{escape(title)}</h3><dl>{rows}</dl></div>'


def table(names: list[str], rows: list[list[str]]) -> str:
    """A table of text; on a phone each row becomes a card, which is why a cell carries its column's name."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = ""
    for row in rows:
        cells = (
            f'<td data-name="{escape(name)}" class="{"long" if len(cell) > 20 else "short"}">{escape(cell)}</td>'
            for name, cell in zip(names, row, strict=True)
        )
        body += f"<tr>{''.join(cells)}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def command(line: str) -> str:
    """A line to copy, which breaks only between its words where the page is narrow."""
    words = " ".join(f"<span>{escape(word)}</span>" for word in line.split(" "))
    return f"<pre><code>{words}</code></pre>"


def picture(path: Path, alt: str) -> str | None:
    """The picture at `path` as an element that carries its bytes; None if it is broken, gone, or far too large.

    A large still picture is embedded as JPEG; an animation stands still for those who asked their device for that.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            kind, size, frames = image.format, image.size, getattr(image, "n_frames", 1)
            if frames > 1:
                image.seek(frames - 1)
            elif len(content) > PICTURE_BYTES:
                content, kind = _encoded(image, "JPEG"), "JPEG"
            last = _encoded(image, "PNG") if frames > 1 else b""
    # Pillow raises many kinds of exception on a broken file, SyntaxError and EOFError among them.
    except Exception:
        return None
    if len(content) > ANIMATION_BYTES:
        return None
    element = (
        f'<img src="{_data_uri(content, kind)}" alt="{escape(alt)}" width="{size[0]}" height="{size[1]}" '
        f'class="{"animation" if frames > 1 else "still"}"/>'
    )
    if frames == 1:
        return element
    still = f'<source media="(prefers-reduced-motion: reduce)" srcset="{_data_uri(last, "PNG")}"/>'
    return f"<picture>{still}{element}</picture>"


def aspect(path: Path) -> float:
    """Width over height of the picture at `path`; 1 if it is broken or gone."""
    try:
        with Image.open(path) as image:
            return image.width / image.height
    except Exception:
        return 1.0


def _encoded(image: Image.Image, kind: str) -> bytes:
    encoded = io.BytesIO()
    image.convert("RGB").save(encoded, kind, quality=80)
    return encoded.getvalue()


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"


_DOCUMENT = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"/>
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
</body>
</html>
""")

_STYLE = """
:root {
  --paper: #faf9f6; --card: #fff; --ink: #1c1f24; --soft: #646973; --line: #e5e2da; --accent: #136f8a;
  --good: #2b7a3d; --wait: #9a6200; --bad: #b3261e;
  --serif: "Iowan Old Style", Palatino, Georgia, "Noto Serif", serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Roboto Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121416; --card: #1a1d20; --ink: #e9e7e2; --soft: #9ba1ab; --line: #2c3035; --accent: #6cc4de;
    --good: #7fc98f; --wait: #e0b060; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 68rem; padding: 3rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1, h2 { font-family: var(--serif); font-weight: 500; line-height: 1.15; letter-spacing: -.01em; }
h1 { margin: .2rem 0 .8rem; font-size: clamp(2rem, 6vw, 3rem); overflow-wrap: anywhere; }
h2 { margin: 0 0 1.1rem; font-size: 1.5rem; }
h3 { margin: 0 0 .4rem; font-size: .95rem; font-weight: 600; }
section { margin-top: 3.5rem; }
p { margin: 0 0 1rem; max-width: 44rem; }
figure { margin: 0; }
figcaption, .note { margin-top: .55rem; color: var(--soft); font-size: .875rem; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
a { color: var(--accent); }
code, .kind { font-family: var(--mono); font-size: .875em; }
.kind { margin: 0; color: var(--soft); }
.missing { max-width: none; padding: 1.1rem 1.25rem; border: 1px dashed var(--line); border-radius: 8px; color: var(--soft); }
.warning { max-width: none; padding: 1rem 1.25rem; border-left: 3px solid var(--wait); background: var(--card); }
.status { display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: baseline; margin: 0; max-width: none; }
.status b { color: var(--hue); white-space: nowrap; }
.status b::before { content: ""; display: inline-block; width: .6em; height: .6em; margin-right: .5em;
  border-radius: 50%; background: var(--hue); }
.status span { color: var(--soft); overflow-wrap: anywhere; }
.finished { --hue: var(--good); } .running { --hue: var(--accent); }
.stopped { --hue: var(--wait); } .failed { --hue: var(--bad); }
.progress { height: 3px; margin-top: 1.4rem; border-radius: 2px; background: var(--line); }
.progress i { display: block; height: 100%; border-radius: 2px; background: var(--accent); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1.2rem 1.5rem;
  margin: 1.6rem 0 0; }
.tiles dt { color: var(--soft); font-size: .875rem; }
.tiles dd { margin: 0; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; color: var(--soft); font-size: .8125rem; line-height: 1.4; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.75rem; }
.pair img, .wide img { width: 100%; }
.animation { image-rendering: pixelated; }
.smooth .animation { image-rendering: auto; }
.wide { margin-top: 1.75rem; }
.pair.wide > :only-child { max-width: 44rem; }
.film { display: flex; gap: .9rem; margin-top: 1.75rem; padding-bottom: .8rem; overflow-x: auto;
  scroll-snap-type: x proximity; }
.film figure { flex: 0 0 9.5rem; scroll-snap-align: start; }
.film figcaption { margin-top: .3rem; }
.film .close { display: none; }
.film figure:target { position: fixed; inset: 0; z-index: 1; display: grid; place-content: center; justify-items: center;
  background: var(--paper); }
.film figure:target img { width: min(94vw, 86vh); max-height: 86vh; object-fit: contain; }
.film figure:target .close { display: block; position: absolute; inset: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1.75rem; }
.chart { min-width: 0; color: var(--soft); }
.chart figcaption { display: flex; gap: .7rem; align-items: baseline; margin: 0 0 .5rem; }
.chart b { color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.chart output { margin-left: auto; color: var(--accent); font-weight: 600; font-variant-numeric: tabular-nums; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font-family: inherit !important; font-variant-numeric: tabular-nums; }
.columns { columns: 2 22rem; column-gap: 2.5rem; }
.facts { break-inside: avoid; margin-bottom: 1.6rem; }
dl { margin: 0; }
.facts div { display: flex; gap: 1rem; justify-content: space-between; padding: .3rem 0;
  border-bottom: 1px solid var(--line); font-size: .9rem; }
.facts dt { color: var(--soft); white-space: nowrap; }
.facts dd { margin: 0; text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
table { width: 100%; margin-bottom: 2rem; border-collapse: collapse; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 400; text-align: left; vertical-align: bottom; }
th, td { padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); }
.short { white-space: nowrap; }
.long { overflow-wrap: anywhere; }
#next p { margin: 0 0 .3rem; }
pre span { display: inline-block; max-width: 100%; }
pre { margin: 0 0 1.4rem; padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; }
@media (max-width: 44rem) {
  body { padding: 1.75rem 1.1rem 3rem; }
  section { margin-top: 2.75rem; }
  thead { display: none; }
  table, tbody, tr, td { display: block; }
  tr { padding: .7rem 0; border-bottom: 1px solid var(--line); }
  td { display: flex; gap: 1rem; justify-content: space-between; padding: .15rem 0; border: 0; text-align: right; }
  td::before { content: attr(data-name); color: var(--soft); white-space: nowrap; }
  td:empty { display: none; }
}
@media print { .film { flex-wrap: wrap; overflow: visible; } section { break-inside: avoid; } }
"""
