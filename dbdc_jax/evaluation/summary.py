"""Scores of two folders of label maps as evaluation.json, .csv and a table."""

from collections.abc import Sequence
import csv
import io
import json
import pathlib
from typing import Any

import numpy as np

from data import atomic
from data.scan_error import ScanError
from dbdc_jax.evaluation import folders, metrics, scoring

_AGGREGATION = (
  'mean over the cases that have a value, per class; then the mean over classes'
)
_SPREAD = (
  'sample standard deviation (n - 1) over the cases that have a value; none'
  ' for a single one'
)
# Metric -> its column in the terminal, and the digits shown there.
_COLUMNS = {
  'dice': ('DSC', 2),
  'hd95': ('HD95', 2),
  'hd95_union_voxel': ('HD95 union', 2),
  'assd': ('ASSD', 2),
  'nsd': ('NSD', 2),
  'volume_prediction': ('predicted', 1),
  'volume_reference': ('reference', 1),
}


def _definitions(tolerance: float | None) -> dict[str, dict[str, str]]:
  """What each number is, with the tolerance that was used."""
  out = {
    name: {**metrics.DEFINITIONS[name], 'aggregation': _AGGREGATION}
    for name in folders.METRICS
  }
  if tolerance is not None:
    out['nsd']['definition'] = (
      f'share of both surfaces within {tolerance:g} mm of the other, times 100'
    )
  return out


def _absent() -> dict[str, Any]:
  """The scores of a class that is in neither mask."""
  values = dict.fromkeys(folders.METRICS)
  return {
    'empty': scoring.EMPTY[2],
    **values,
    'volume_prediction': 0.0,
    'volume_reference': 0.0,
  }


def _classes(good: Sequence[folders.Outcome], codes) -> dict[str, list[int]]:
  """Class -> its codes: those asked for, or all that a reference holds."""
  if codes is None:
    found = {
      int(name)
      for outcome in good
      for name, row in outcome.scores.items()
      if row['volume_reference'] > 0
    }
    codes = {code: str(code) for code in sorted(found)}
  out: dict[str, list[int]] = {}
  for code, name in codes.items():
    out.setdefault(name, []).append(code)
  return out


def _not_scored(good: Sequence[folders.Outcome], classes) -> dict[str, Any]:
  """Codes of no class -> in how many predictions and references they are."""
  counts: dict[int, dict[str, int]] = {}

  def add(code: int, kind: str) -> None:
    entry = counts.setdefault(code, {'prediction': 0, 'reference': 0})
    entry[kind] += 1

  for outcome in good:
    for kind, codes in outcome.others.items():
      for code in codes:
        add(code, kind)
    for name in outcome.scores.keys() - classes.keys():
      add(int(name), 'prediction')
  return {str(code): counts[code] for code in sorted(counts)}


def _spread(rows: Sequence[dict[str, Any]], metric: str) -> float | None:
  values = [row[metric] for row in rows if row[metric] is not None]
  return float(np.std(values, ddof=1)) if len(values) > 1 else None


def summarize(
  found: folders.Found,
  outcomes: Sequence[folders.Outcome],
  codes: dict[int, str] | None,
  tolerance: float | None,
  info: dict[str, Any],
) -> dict[str, Any]:
  """All results of an evaluation.

  Args:
    found: what the folders hold.
    outcomes: of `found.cases`.
    codes: code -> class name, None for all codes of the references.
    tolerance: of the NSD, mm; None is each case's largest voxel side.
    info: what was evaluated, kept at the top.

  Returns:
    What `evaluation.json` holds.
  """
  good = [o for o in outcomes if o.scores is not None]
  classes = _classes(good, codes)
  rows = [
    {name: o.scores.get(name) or _absent() for name in classes} for o in good
  ]
  total = scoring.aggregate(rows, folders.METRICS, list(classes))
  for name, entry in total['classes'].items():
    mine = [row[name] for row in rows]
    entry['spread'] = {m: _spread(mine, m) for m in folders.METRICS}
  return {
    **info,
    'cases_scored': len(good),
    'cases_found': found.total,
    'definitions': _definitions(tolerance),
    'spread': _SPREAD,
    'classes': classes,
    'codes_not_scored': _not_scored(good, classes),
    'summary': total,
    'cases': [
      {
        'case': o.case.name,
        'spacing_mm': list(o.spacing),
        'tolerance_mm': o.tolerance,
        'scores': row,
      }
      for o, row in zip(good, rows, strict=True)
    ],
    'missing': _described(found.missing),
    'bad': _described(problems(found, outcomes)),
  }


def problems(
  found: folders.Found, outcomes: Sequence[folders.Outcome]
) -> list[ScanError]:
  """What is wrong with cases that have both files."""
  return found.twice + [ScanError(*o.problem) for o in outcomes if o.problem]


def _described(errors: Sequence[ScanError]) -> list[dict[str, str]]:
  return [
    {'file': e.file, 'reason': e.reason, 'remedy': e.remedy} for e in errors
  ]


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
  """Writes evaluation.json and .csv; each is whole or what was there stays.

  Raises:
    OSError: the disk took no more; the text names the file.
  """
  text = json.dumps(results, indent=2, allow_nan=False) + '\n'
  atomic.write(folder / 'evaluation.json', text.encode())
  table_ = io.StringIO(newline='')
  writer = csv.writer(table_)
  units = {m: metrics.DEFINITIONS[m]['unit'] for m in folders.METRICS}
  columns = [f'{metric}_{unit}' for metric, unit in units.items()]
  writer.writerow(['case', 'class', *columns, 'tolerance_mm', 'empty'])
  for case in results['cases']:
    for name, row in case['scores'].items():
      values = [row[metric] for metric in units] + [case['tolerance_mm']]
      shown = ['' if v is None else f'{v:.4f}' for v in values]
      writer.writerow([case['case'], name, *shown, row['empty']])
  atomic.write(folder / 'evaluation.csv', table_.getvalue().encode())


def _cell(mean: float | None, spread: float | None, digits: int) -> str:
  if mean is None:
    return '-'
  tail = '' if spread is None else f' ± {spread:.{digits}f}'
  return f'{mean:.{digits}f}{tail}'


def table(results: dict[str, Any]) -> str:
  """Mean and spread of each class, and the mean, for the terminal."""
  lines = [
    ['class', *(title for title, _ in _COLUMNS.values()), 'cases', 'empty'],
    ['', *(f'({metrics.DEFINITIONS[m]["unit"]})' for m in _COLUMNS), '', '1|2'],
  ]
  classes, mean = (results['summary'][key] for key in ('classes', 'mean'))
  for name, entry in classes.items():
    cells = [
      _cell(entry[m], entry['spread'][m], digits)
      for m, (_, digits) in _COLUMNS.items()
    ]
    empty = f'{entry["one_empty"]}|{entry["both_empty"]}'
    lines.append([name[:24], *cells, str(entry['cases']), empty])
  cells = [_cell(mean[m], None, digits) for m, (_, digits) in _COLUMNS.items()]
  lines.append(['mean', *cells, '', ''])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  out = []
  for first, *others in lines:
    cells = zip(others, widths[1:], strict=True)
    text = first.ljust(widths[0]) + ''.join(f'  {c:>{w}}' for c, w in cells)
    out.append(text.rstrip())
  return '\n'.join([*out, *_notes(results)])


def _notes(results: dict[str, Any]) -> list[str]:
  """What the table's numbers are, and what is not among them."""
  lines = [
    f'{results["cases_scored"]} of {results["cases_found"]} cases scored; mean'
    ' ± standard deviation over cases; HD95: the larger direction',
    'empty 1|2: cases with one mask empty (they count as a miss), with both'
    ' (left out)',
    f'NSD: {results["definitions"]["nsd"]["definition"]}',
  ]
  if results['codes_not_scored']:
    found = ', '.join(
      f'{code} ({n["prediction"]} predictions, {n["reference"]} references)'
      for code, n in list(results['codes_not_scored'].items())[:8]
    )
    more = len(results['codes_not_scored']) - 8
    lines.append(
      f'codes not scored: {found}' + (f' and {more} more' if more > 0 else '')
    )
  return lines
