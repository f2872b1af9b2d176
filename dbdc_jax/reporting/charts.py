"""Charts as inline SVG: nothing is fetched, and the page can filter classes.

Every mark that belongs to a class lies in a group with the attribute
`data-class`, which the page's filter hides.
"""

from collections.abc import Sequence
from html import escape
import math
from typing import NamedTuple

from matplotlib import ticker
import numpy as np

WIDTH, HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 34
# Half of a box's width.
_HALF = 8


class Line(NamedTuple):
  """A curve: points with a value that is no number are left out."""

  name: str
  x: Sequence[float]
  y: Sequence[float | None]
  colour: str
  dashed: bool = False


class Box(NamedTuple):
  """Values of one class in one modality."""

  group: str
  name: str
  values: Sequence[float | None]
  colour: str


class Dots(NamedTuple):
  """Points `[n, 2]` of one class in one modality."""

  name: str
  modality: str
  points: np.ndarray
  colour: str


def _finite(values: Sequence[float | None]) -> list[float]:
  return [v for v in values if v is not None and math.isfinite(v)]


def ticks(low: float, high: float) -> list[float]:
  """About five round numbers from `low` to `high`."""
  found = ticker.MaxNLocator(5, steps=(1, 2, 5, 10)).tick_values(low, high)
  return [float(value) for value in found if low <= value <= high]


def _text(x, y, words, anchor='middle') -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
    f'{escape(words)}</text>'
  )


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
  return (
    f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    f' role="img" aria-label="{escape(title)}">'
    f'<title>{escape(title)}</title>{"".join(parts)}</svg>'
  )


class _Axes:
  """From values to pixels, with the frame and its ticks."""

  def __init__(self, x, y, width=WIDTH):
    self.x, self.y = x, y
    self.right, self.bottom = width - _RIGHT, HEIGHT - _BOTTOM

  def across(self, value: float) -> float:
    return float(np.interp(value, self.x, (_LEFT, self.right)))

  def up(self, value: float) -> float:
    return float(np.interp(value, self.y, (self.bottom, _TOP)))

  def frame(self, label: str, numbers_x: bool) -> list[str]:
    parts = []
    for value in ticks(*self.y):
      at = self.up(value)
      parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{self.right}"/>')
      parts.append(_text(_LEFT - 5, at + 4, f'{value:g}', 'end'))
    if numbers_x:
      for value in ticks(*self.x):
        parts.append(_text(self.across(value), self.bottom + 14, f'{value:g}'))
    corner = f'{_LEFT} {_TOP}V{self.bottom}H{self.right}'
    parts.append(f'<path class="axis" d="M{corner}"/>')
    parts.append(_text((_LEFT + self.right) / 2, HEIGHT - 4, label))
    return parts


def _nothing(title: str) -> str:
  """A chart without any values."""
  return _svg(WIDTH, 40, title, [_text(WIDTH / 2, 24, 'no values')])


def _range(values: Sequence[float]) -> tuple[float, float]:
  low, high = min(values), max(values)
  margin = 0.05 * (high - low) or 0.5
  return low - margin, high + margin


def lines(title: str, curves: Sequence[Line]) -> str:
  """Curves over epochs, with their names beside.

  Args:
    title: for those who cannot see it.
    curves: empty ones are left out.
  """
  kept = []
  for curve in curves:
    pairs = zip(curve.x, curve.y, strict=True)
    points = [(x, y) for x, y in pairs if y is not None and math.isfinite(y)]
    if points:
      kept.append((curve, points))
  if not kept:
    return _nothing(title)
  xs, ys = zip(*(p for _, points in kept for p in points), strict=True)
  axes = _Axes(_range(xs), _range(ys))
  parts = axes.frame('epoch', numbers_x=True)
  for curve, points in kept:
    path = 'L'.join(f'{axes.across(x):.1f} {axes.up(y):.1f}' for x, y in points)
    dash = ' stroke-dasharray="4 3"' if curve.dashed else ''
    parts.append(
      f'<path class="line" d="M{path}" stroke="{curve.colour}"{dash}>'
      f'<title>{escape(curve.name)}</title></path>'
    )
    if len(points) == 1:
      x, y = path.split()
      parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{curve.colour}"/>')
  return _svg(WIDTH, HEIGHT, title, parts) + _legend([c for c, _ in kept])


def _legend(curves: Sequence[Line]) -> str:
  entries = ''.join(
    f'<li><span class="key{" dashed" * c.dashed}"'
    f' style="border-color:{c.colour}"></span>{escape(c.name)}</li>'
    for c in curves
  )
  return f'<ul class="legend">{entries}</ul>'


def _one_box(axes: _Axes, box: Box, at: float) -> list[str]:
  values, half = _finite(box.values), _HALF
  if not values:
    return []
  quartiles = np.percentile(values, [0, 25, 50, 75, 100])
  low, bottom, middle, top, high = map(axes.up, quartiles)
  median = f'median {quartiles[2]:.2f}, n = {len(values)}'
  label = f'{box.name}, {box.group}: {median}'
  parts = [
    f'<path class="whisker" d="M{at:.1f} {low:.1f}V{high:.1f}"/>',
    f'<rect x="{at - half:.1f}" y="{top:.1f}" width="{2 * half:.1f}"'
    f' height="{max(bottom - top, 1):.1f}" fill="{box.colour}">'
    f'<title>{escape(label)}</title></rect>',
    f'<path class="median" d="M{at - half:.1f} {middle:.1f}h{2 * half:.1f}"/>',
  ]
  parts += [
    f'<circle class="value" cx="{at:.1f}" cy="{axes.up(v):.1f}" r="1.8"/>'
    for v in values
  ]
  return parts


def boxes(title: str, groups: Sequence[Box], unit: str) -> str:
  """Box plots: quartiles, median, whiskers to the extremes, every value.

  Args:
    title: for those who cannot see it.
    groups: in order; those of one `group` stand together.
    unit: under the axis.
  """
  values = [v for box in groups for v in _finite(box.values)]
  if not values:
    return _nothing(title)
  width = max(WIDTH, 60 + 26 * len(groups))
  axes = _Axes((0, len(groups)), _range(values), width=width)
  parts = axes.frame(unit, numbers_x=False)
  for index, box in enumerate(groups):
    inner = ''.join(_one_box(axes, box, axes.across(index + 0.5)))
    parts.append(f'<g data-class="{escape(box.name)}">{inner}</g>')
  for name in dict.fromkeys(box.group for box in groups):
    places = [i for i, box in enumerate(groups) if box.group == name]
    middle = axes.across((places[0] + places[-1] + 1) / 2)
    parts.append(_text(middle, axes.bottom + 15, name))
  return _svg(width, HEIGHT, title, parts)


def _mark(shape: int, x: float, y: float, size: float) -> str:
  """A circle, square, triangle or diamond, as a path."""
  s = size
  if shape % 4 == 0:
    return (
      f'M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z'
    )
  if shape % 4 == 1:
    return f'M{x - s:.1f} {y - s:.1f}h{2 * s}v{2 * s}h{-2 * s}z'
  if shape % 4 == 2:
    return (
      f'M{x:.1f} {y - 1.2 * s:.1f}l{1.2 * s:.1f} {2.2 * s:.1f}h{-2.4 * s:.1f}z'
    )
  r = 1.4 * s
  return (
    f'M{x:.1f} {y - r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}z'
  )


def scatter(title: str, groups: Sequence[Dots], size: float = 2.2) -> str:
  """Points in [-1, 1]: colour is the class, shape the modality.

  Args:
    title: for those who cannot see it.
    groups: of points.
    size: of a mark, in pixels.
  """
  side, margin = 340, 12
  shapes = list(dict.fromkeys(group.modality for group in groups))
  place = lambda v: margin + (v + 1) / 2 * (side - 2 * margin)
  parts = [f'<rect class="field" width="{side}" height="{side}"/>']
  for group in groups:
    shape = shapes.index(group.modality)
    path = ''.join(
      _mark(shape, place(x), side - place(y), size) for x, y in group.points
    )
    name = escape(group.name)
    parts.append(
      f'<g data-class="{name}"><path class="dots" fill="{group.colour}"'
      f' d="{path}"><title>{escape(f"{group.name}, {group.modality}")}</title>'
      '</path></g>'
    )
  keys = ''.join(
    f'<li><svg width="12" height="12"><path d="{_mark(i, 6, 6, 4)}"/></svg>'
    f'{escape(name)}</li>'
    for i, name in enumerate(shapes)
  )
  return _svg(side, side, title, parts) + f'<ul class="legend">{keys}</ul>'
