"""Cases to tables: scores per class, case and modality, each with its unit."""

from collections.abc import Collection, Sequence
import csv
import io
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from data import atomic
from dbdc_jax.evaluation import metrics

NATIVE = ('dice', 'hd95', 'assd', 'nsd')
PREPARED = ('dice', 'hd95_voxel', 'hd95_union_voxel')
_CSV_HEADER = ('modality', 'case', 'patient', 'class', 'grid')
_CSV_HEADER += ('metric', 'unit', 'value', 'empty')
AGGREGATION = (
  'per class the mean over the cases of a modality that have a value; then the'
  ' mean over classes; then the mean over modalities'
)

Scores = dict[str, dict[str, Any]]


def _score(prediction, reference, spacing, classes, names) -> Scores:
  """The named metrics of every foreground class."""
  if prediction.shape != reference.shape:
    raise ValueError(
      f'prediction of shape {prediction.shape}, reference of shape'
      f' {reference.shape}: they must lie on the same grid'
    )
  dice = metrics.dice(prediction, reference, len(classes))
  out: Scores = {}
  for index, name in enumerate(classes):
    if index == 0:
      continue
    p, r = prediction == index, reference == index
    empty = int(not p.any()) + int(not r.any())
    row: dict[str, Any] = {
      'empty': {0: '', 1: 'one empty', 2: 'both empty'}[empty],
      'dice': 100 * float(dice[index]),
    }
    distances = metrics.surface_distances(p, r, spacing)
    values = metrics.from_distances(distances, max(spacing))
    if set(names) & {'hd95_union_voxel'}:
      row['hd95_voxel'] = values['hd95']
      row['hd95_union_voxel'] = values['hd95_union']
    else:
      row['hd95'], row['assd'] = values['hd95'], values['assd']
      row['nsd'] = 0.0 if empty == 1 else 100 * values['nsd']
    out[name] = {
      key: None if isinstance(v, float) and math.isnan(v) else v
      for key, v in row.items()
    }
  return out


def score_case(
  prediction: np.ndarray,
  reference: np.ndarray,
  spacing: tuple[float, float, float],
  classes: Sequence[str],
) -> Scores:
  """Scores on the scan's own grid.

  Args:
    prediction: `[S, h, w]` class indices.
    reference: `[S, h, w]` class indices.
    spacing: (slice, row, column), mm.
    classes: names, background first.

  Returns:
    Class -> dice (percent), hd95 (mm), assd (mm), nsd (percent) and `empty`;
    values are None where both masks are empty.
  """
  return _score(prediction, reference, spacing, classes, NATIVE)


def score_prepared(
  prediction: np.ndarray, reference: np.ndarray, classes: Sequence[str]
) -> Scores:
  """Scores on the prepared grid, in voxels, as the literature prints them."""
  return _score(prediction, reference, (1.0, 1.0, 1.0), classes, PREPARED)


def only(classes: Collection[str], scores: Scores) -> Scores:
  """The scores of some classes: those that the reference can contain."""
  return {name: row for name, row in scores.items() if name in classes}


def _mean(values: Sequence[float | None]) -> float | None:
  """Mean of what has a value; None if nothing has."""
  found = [v for v in values if v is not None]
  return float(np.mean(found)) if found else None


def _aggregate(cases, grid, names, classes):
  """Per class and mean of one modality's cases."""
  out: dict[str, Any] = {'classes': {}, 'mean': {}}
  for name in classes[1:]:
    rows = [case[grid][name] for case in cases if name in case[grid]]
    if not rows:
      continue  # Not labelled in this modality.
    entry: dict[str, Any] = {m: _mean([r[m] for r in rows]) for m in names}
    entry['cases'] = sum(r['dice'] is not None for r in rows)
    entry['both_empty'] = sum(r['empty'] == 'both empty' for r in rows)
    entry['one_empty'] = sum(r['empty'] == 'one empty' for r in rows)
    out['classes'][name] = entry
  for metric in names:
    out['mean'][metric] = _mean(
      [entry[metric] for entry in out['classes'].values()]
    )
  return out


def summarize(
  cases: Sequence[dict[str, Any]],
  classes: Sequence[str],
  modalities: Sequence[str],
  info: dict[str, Any],
) -> dict[str, Any]:
  """All results of a test.

  Args:
    cases: dicts of `case`, `patient`, `modality`, `native`, `prepared`.
    classes: names, background first.
    modalities: names, in bank order.
    info: facts about the run, kept under 'run'.

  Returns:
    What `results.json` holds.
  """
  results: dict[str, Any] = {
    'run': info,
    'definitions': metrics.DEFINITIONS,
    'aggregation': AGGREGATION,
    'classes': list(classes),
    'modalities': {},
    'mean': {},
    'cases': list(cases),
  }
  for grid, names in (('native', NATIVE), ('prepared', PREPARED)):
    key = 'native_grid' if grid == 'native' else 'prepared_grid'
    for modality in modalities:
      mine = [case for case in cases if case['modality'] == modality]
      entry = results['modalities'].setdefault(
        modality, {'test_cases': len(mine)}
      )
      entry[key] = _aggregate(mine, grid, names, classes)
    results['mean'][key] = {
      metric: _mean(
        [results['modalities'][m][key]['mean'][metric] for m in modalities]
      )
      for metric in names
    }
  return results


def write_results(results: dict[str, Any], workdir: str | os.PathLike) -> None:
  """Writes results.json and results.csv; each is whole or not there."""
  folder = pathlib.Path(workdir)
  text = json.dumps(results, indent=2, allow_nan=False) + '\n'
  atomic.write(folder / 'results.json', text.encode())
  table = io.StringIO(newline='')
  writer = csv.writer(table)
  writer.writerow(_CSV_HEADER)
  for case in results['cases']:
    for grid, names in (('native', NATIVE), ('prepared', PREPARED)):
      for name, row in case[grid].items():
        for metric in names:
          unit = metrics.DEFINITIONS[metric]['unit']
          value = '' if row[metric] is None else f'{row[metric]:.4f}'
          writer.writerow(
            [
              *(case[key] for key in ('modality', 'case', 'patient')),
              *(name, grid, metric, unit, value, row['empty']),
            ]
          )
  atomic.write(folder / 'results.csv', table.getvalue().encode())


def _line(label: str, values: Sequence[float | None]) -> str:
  shown = ['-' if v is None else f'{v:.2f}' for v in values]
  return f'{label:<16s}' + ''.join(f'{s:>20s}' for s in shown)


def table(results: dict[str, Any]) -> str:
  """DSC and HD95 per modality and class, for the terminal."""
  classes = results['classes'][1:]
  lines = []
  for metric, title in (('dice', 'DSC (%)'), ('hd95', 'HD95 (mm)')):
    head = ''.join(f'{name[:18]:>20s}' for name in [*classes, 'mean'])
    lines.append(f'{"test " + title:<16s}' + head)
    for modality, entry in results['modalities'].items():
      grid = entry['native_grid']
      values = [grid['classes'].get(c, {}).get(metric) for c in classes]
      lines.append(_line(modality, [*values, grid['mean'][metric]]))
    mean = results['mean']['native_grid'][metric]
    blank = [None] * len(classes)
    lines.append(_line('mean', [*blank, mean]).replace(' -', '  '))
  cases = ', '.join(
    f'{m} {e["test_cases"]}' for m, e in results['modalities'].items()
  )
  lines.append(f'test scans: {cases}; native grid, region of interest')
  return '\n'.join(lines)
