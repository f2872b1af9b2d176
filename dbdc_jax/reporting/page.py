"""The page: one HTML file with its style, script and pictures inside."""

import base64
from collections.abc import Sequence
from html import escape
import os
import pathlib
from typing import NamedTuple

from data.files import atomic, destination

# What every page starts with, and by which one is known: no other file does.
_START = (
  '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
  '<meta name="generator" content="python -m dbdc_jax.report">'
)


def _asset(name: str) -> str:
  """A file that lies beside this one."""
  return pathlib.Path(__file__).with_name(name).read_text()


class Section(NamedTuple):
  """A part that folds: a heading and HTML."""

  title: str
  html: str


class Tab(NamedTuple):
  """A run, or the comparison of several."""

  title: str
  sections: Sequence[Section]


def table(
  head: Sequence[str],
  rows: Sequence[Sequence[str]],
  classes: Sequence[str] | None = None,
) -> str:
  """A table of texts.

  Args:
    head: of the columns.
    rows: of texts.
    classes: the class that each row is of, which the filter hides.
  """
  cells = lambda kind, row: ''.join(
    f'<{kind}>{escape(str(cell))}</{kind}>' for cell in row
  )
  marks = [''] * len(rows)
  if classes is not None:
    marks = [f' data-class="{escape(name)}"' for name in classes]
  body = ''.join(
    f'<tr{mark}>{cells("td", row)}</tr>'
    for mark, row in zip(marks, rows, strict=True)
  )
  return (
    f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead>'
    f'<tbody>{body}</tbody></table></div>'
  )


def note(text: str) -> str:
  """A paragraph of explanation."""
  return f'<p class="note">{escape(text)}</p>'


def folded(title: str, html: str) -> str:
  """A part that is folded at first."""
  return f'<details><summary>{escape(title)}</summary>{html}</details>'


def preformatted(text: str) -> str:
  """Text as it is, in a box that scrolls."""
  return f'<pre class="scroll">{escape(text)}</pre>'


def figure(drawn: str, caption: str) -> str:
  """A chart or a picture with its caption."""
  return f'<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>'


def picture(png: bytes, caption: str) -> str:
  """A PNG inside of the page, with its caption."""
  data, alt = base64.b64encode(png).decode(), escape(caption)
  image = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
  return figure(image, caption)


def row(*figures: str) -> str:
  """Figures side by side, where there is room."""
  return f'<div class="row">{"".join(figures)}</div>'


def _filter(classes: Sequence[tuple[str, str]]) -> str:
  boxes = ''.join(
    f'<label><input type="checkbox" value="{escape(name)}" checked>'
    f'<span class="swatch" style="background:{colour}"></span>'
    f'{escape(name)}</label>'
    for name, colour in classes
  )
  return (
    f'<div class="filter">{boxes}<button data-fold="open">unfold all</button>'
    '<button data-fold="close">fold all</button></div>'
  )


def build(
  title: str, tabs: Sequence[Tab], classes: Sequence[tuple[str, str]]
) -> str:
  """The whole page.

  Args:
    title: its heading.
    tabs: its parts; one of them is seen at a time.
    classes: names and colours, for the filter.
  """
  buttons, articles = [], []
  for index, tab in enumerate(tabs):
    buttons.append(
      f'<button data-tab="tab{index}">{escape(tab.title)}</button>'
    )
    inner = ''.join(
      f'<details open><summary>{escape(part.title)}</summary>'
      f'{part.html}</details>'
      for part in tab.sections
    )
    articles.append(
      f'<article id="tab{index}"><h2>{escape(tab.title)}</h2>{inner}</article>'
    )
  return (
    f'{_START}'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{escape(title)}</title><style>\n{_asset("page.css")}</style></head><body>'
    f'<h1>{escape(title)}</h1><nav>{"".join(buttons)}</nav>'
    f'{_filter(classes)}{"".join(articles)}'
    f'<script>\n{_asset("page.js")}</script></body></html>\n'
  )


def check(output: str | os.PathLike) -> pathlib.Path:
  """The place of a page that is to be written, through links.

  Raises:
    ValueError: a folder, or a file that is no such page; nothing replaces it.
  """
  if str(output).endswith(os.sep) or os.path.isdir(output):
    raise ValueError(
      f'{output} is a folder: give --output a file, for example'
      f' {pathlib.Path(output) / "report.html"}'
    )
  place = destination.check(output)
  if not place.exists():
    return place
  start = b''
  if place.is_file():
    with place.open('rb') as file:
      start = file.read(len(_START))
  if start != _START.encode():
    raise ValueError(
      f'{output} is there and is no report of this program, nothing replaces'
      ' it: give --output another name, or move that file away'
    )
  return place


def write(html: str, output: str | os.PathLike) -> None:
  """Writes a page; it is whole or not there.

  Raises:
    ValueError: see `check`.
    OSError: the disk is full.
  """
  # Once more: something may have been put there in the meantime.
  place = check(output)
  place.parent.mkdir(parents=True, exist_ok=True)
  atomic.write(place, html.encode())
