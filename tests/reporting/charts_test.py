import re
from xml.etree import ElementTree

import numpy as np
import pytest

from dbdc_jax.reporting import charts
from dbdc_jax.reporting.charts import Box, Dots, Line


def _svg(text):
  """The first chart of a figure, without its legend."""
  return ElementTree.fromstring(text[: text.index('</svg>') + len('</svg>')])


def _numbers(path):
  return [float(x) for x in re.findall(r'-?\d+(?:\.\d+)?', path)]


@pytest.mark.parametrize(
  ('low', 'high'), [(0, 1), (-3.2, 17), (93.1, 93.4), (0, 1e-5), (4.5, 5.5)]
)
def test_ticks_are_round_inside_and_not_too_many(low, high):
  found = charts.ticks(low, high)
  margin = 1e-6 * max(high - low, 1e-9)
  assert low - margin <= found[0] and found[-1] <= high + margin
  assert 1 <= len(found) <= 7
  assert all(len(f'{value:g}') <= 7 for value in found)


def test_larger_values_lie_higher_and_missing_ones_are_left_out():
  curve = Line('a', [1, 2, 3, 4], [1.0, None, float('nan'), 3.0], '#000000')
  (path,) = [
    e
    for e in _svg(charts.lines('t', [curve])).iter('path')
    if e.get('class') == 'line'
  ]
  x1, y1, x2, y2 = _numbers(path.get('d'))
  assert x1 < x2 and y1 > y2


def test_a_chart_of_nothing_says_so():
  empty = [Line('a', [], [], '#000000'), Line('b', [1], [None], '#000000')]
  assert 'no values' in charts.lines('t', empty)
  assert 'no values' in charts.boxes('t', [Box('ct', 'x', [], '#000000')], '%')


def test_a_box_is_its_quartiles():
  values = [0.0, 10.0, 20.0, 30.0, 40.0]
  groups = [Box('ct', 'liver', [*values, float('nan')], '#123456')]
  svg = _svg(charts.boxes('t', groups, '%'))
  (group,) = svg.iter('g')
  assert group.get('data-class') == 'liver'
  (rect,) = group.iter('rect')
  top, height = float(rect.get('y')), float(rect.get('height'))
  dots = sorted(float(c.get('cy')) for c in group.iter('circle'))
  assert len(dots) == 5
  np.testing.assert_allclose([top, top + height], [dots[1], dots[3]], atol=0.2)


def test_every_point_is_a_mark_of_its_class():
  rng = np.random.default_rng(0)
  groups = [
    Dots(name, modality, rng.uniform(-1, 1, (7, 2)), '#123456')
    for name in ('liver', 'spleen')
    for modality in ('ct', 't2')
  ]
  svg = _svg(charts.scatter('t', groups))
  marks = {}
  for group in svg.iter('g'):
    (path,) = group.iter('path')
    name = group.get('data-class')
    marks[name] = marks.get(name, 0) + path.get('d').count('M')
  assert marks == {'liver': 14, 'spleen': 14}


def test_names_are_text_and_not_markup():
  curve = Line('<b>&"', [1, 2], [1.0, 2.0], '#000000')
  text = charts.lines('a < "b"', [curve])
  assert '<b>' not in text
  assert _svg(text).get('aria-label') == 'a < "b"'
