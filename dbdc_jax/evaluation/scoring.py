"""Cases to tables: scores per class, case and modality, each with its unit."""

from collections.abc import Collection, Iterable, Mapping, Sequence
import math
import os
import pathlib
from typing import Any

import numpy as np

from data.files import atomic
from dbdc_jax.evaluation import components, metrics

NATIVE = ('dice', 'hd95', 'assd', 'nsd')
PREPARED = ('dice', 'hd95_voxel', 'hd95_union_voxel')
_GRIDS = {'native': NATIVE, 'prepared': PREPARED}
# By how many of a class's two masks are empty.
EMPTY = ('', 'one empty', 'both empty')
_CSV_HEADER = (
  'modality', 'case', 'patient', 'class', 'grid', 'metric', 'unit', 'value',
  'empty',
)  # fmt: skip
AGGREGATION = (
  'per class the mean over the cases of a modality that have a value; then the'
  ' mean over classes; then the mean over modalities'
)

Scores = dict[str, dict[str, Any]]


def _in_voxels(pair, spacing, found):
  """Distances with a voxel side of 1, from those in mm where that is enough."""
  if found is None or len(set(spacing)) > 1:
    return metrics.distances(pair, (1.0,) * len(spacing))
  forward, backward = (d / spacing[0] for d in (found.forward, found.backward))
  return found._replace(forward=forward, backward=backward)


def _surface_scores(pair, spacing, names, tolerance) -> dict[str, float]:
  """Every metric of a class's surfaces, those in voxels if they are asked."""
  found = metrics.distances(pair, spacing)
  values = metrics.from_distances(found, tolerance)
  values['nsd'] *= 100
  if {'hd95_voxel', 'hd95_union_voxel'} & set(names):
    voxel = metrics.from_distances(_in_voxels(pair, spacing, found), 0.0)
    values['hd95_voxel'] = voxel['hd95']
    values['hd95_union_voxel'] = voxel['hd95_union']
  return values


def score(
  prediction: np.ndarray,
  reference: np.ndarray,
  spacing: Sequence[float],
  classes: Sequence[str],
  names: Sequence[str],
  tolerance: float | None = None,
) -> Scores:
  """The named metrics of every foreground class.

  Args:
    prediction: class indices.
    reference: class indices on the same grid.
    spacing: voxel sides along the arrays' axes, mm.
    classes: names, background first.
    names: keys of `metrics.DEFINITIONS`.
    tolerance: of the NSD, mm; None is the largest voxel side.

  Returns:
    Class -> metric -> value in its unit, None where there is none; and `empty`.

  Raises:
    ValueError: arrays of different shapes.
  """
  if prediction.shape != reference.shape:
    raise ValueError(
      f'prediction of shape {prediction.shape}, reference of shape'
      f' {reference.shape}: they must lie on the same grid'
    )
  tolerance = max(spacing) if tolerance is None else tolerance
  joint = metrics.joint_histogram(prediction, reference, len(classes))
  dice = metrics.dice_of(joint)
  millilitres = float(np.prod(spacing)) / 1000
  pairs = metrics.surfaces(prediction, reference, len(classes))
  out: Scores = {}
  for index, (name, pair) in enumerate(zip(classes[1:], pairs, strict=True), 1):
    voxels = int(joint[:, index].sum()), int(joint[index].sum())
    values = {
      'dice': 100 * float(dice[index]),
      'volume_prediction': voxels[0] * millilitres,
      'volume_reference': voxels[1] * millilitres,
      **_surface_scores(pair, spacing, names, tolerance),
    }
    out[name] = {
      'empty': EMPTY[voxels.count(0)],
      **{m: None if math.isnan(values[m]) else values[m] for m in names},
    }
  return out


def only(classes: Collection[str], scores: Scores) -> Scores:
  """The scores of some classes: those that the reference can contain."""
  return {name: row for name, row in scores.items() if name in classes}


def mean(values: Iterable[float | None]) -> float | None:
  """Mean of what has a value, which None and NaN are not; None for nothing."""
  found = [v for v in values if v is not None and not math.isnan(v)]
  return float(np.mean(found)) if found else None


def aggregate(
  cases: Sequence[Scores], names: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
  """Means over cases, and then over classes.

  Args:
    cases: the scores of each.
    names: metrics.
    classes: names, without the background.

  Returns:
    'classes' (class -> metric -> mean, and how many cases there are with a
    value, with both masks empty and with one empty) and 'mean'.
  """
  out: dict[str, Any] = {'classes': {}, 'mean': {}}
  for name in classes:
    rows = [case[name] for case in cases if name in case]
    if not rows:
      continue  # Not labelled in this modality.
    entry: dict[str, Any] = {m: mean(r[m] for r in rows) for m in names}
    entry['cases'] = sum(r['empty'] != EMPTY[2] for r in rows)
    entry['both_empty'] = sum(r['empty'] == EMPTY[2] for r in rows)
    entry['one_empty'] = sum(r['empty'] == EMPTY[1] for r in rows)
    out['classes'][name] = entry
  for metric in names:
    out['mean'][metric] = mean(e[metric] for e in out['classes'].values())
  return out


def summarize(
  cases: Sequence[dict[str, Any]],
  classes: Sequence[str],
  modalities: Sequence[str],
  info: dict[str, Any],
) -> dict[str, Any]:
  """All results of a test.

  Args:
    cases: dicts of `case`, `patient`, `modality`, `native`, `prepared` and, of
      the way that the results are not (`evaluation.components`), `beside`; of
      the last checkpoint, if it was tested, `last` with these three.
    classes: names, background first.
    modalities: names, in bank order.
    info: facts about the run, kept under 'run'.

  Returns:
    What `results.json` holds.
  """
  results: dict[str, Any] = {
    'run': info,
    'definitions': {m: metrics.DEFINITIONS[m] for m in NATIVE + PREPARED},
    'aggregation': AGGREGATION,
    'classes': list(classes),
    **_means(cases, classes, modalities),
  }
  results |= _besides(cases, classes, modalities)
  if cases and all('last' in case for case in cases):
    last = [{**case, **case['last']} for case in cases]
    results['last'] = _means(last, classes, modalities)
    results['last'] |= _besides(last, classes, modalities)
  return {**results, 'cases': list(cases)}


def _besides(
  cases: Sequence[dict[str, Any]],
  classes: Sequence[str],
  modalities: Sequence[str],
) -> dict[str, Any]:
  """`beside`: the means of the other way; runs of before had but one."""
  if not cases or not all('beside' in case for case in cases):
    return {}
  others = [{**case, **case['beside']} for case in cases]
  return {'beside': _means(others, classes, modalities)}


def _means(
  cases: Sequence[dict[str, Any]],
  classes: Sequence[str],
  modalities: Sequence[str],
) -> dict[str, Any]:
  """The means of each modality, and over all of them."""
  results: dict[str, Any] = {'modalities': {}, 'mean': {}}
  entries = results['modalities']
  for modality in modalities:
    mine = [case for case in cases if case['modality'] == modality]
    entries[modality] = {'test_cases': len(mine)}
    for grid, names in _GRIDS.items():
      scores = [case[grid] for case in mine]
      entries[modality][f'{grid}_grid'] = aggregate(scores, names, classes[1:])
  for grid, names in _GRIDS.items():
    means = [entries[name][f'{grid}_grid']['mean'] for name in modalities]
    results['mean'][f'{grid}_grid'] = {
      metric: mean(of_one[metric] for of_one in means) for metric in names
    }
  return results


def write(
  results: Mapping[str, Any],
  stem: pathlib.Path,
  header: Sequence[str],
  rows: Iterable[Sequence[str | float | None]],
) -> None:
  """Writes STEM.json and STEM.csv; each is whole, or what was there stays.

  Args:
    results: what the JSON file holds.
    stem: folder and name of both.
    header: of the CSV file.
    rows: of the CSV file; numbers get four digits, None stays empty.

  Raises:
    OSError: the disk took no more; the text names the file.
  """
  atomic.write_json(stem.with_suffix('.json'), results)
  shown = lambda v: '' if v is None else v if isinstance(v, str) else f'{v:.4f}'
  table = [header, *(map(shown, row) for row in rows)]
  atomic.write_csv(stem.with_suffix('.csv'), table)


def write_results(results: dict[str, Any], workdir: str | os.PathLike) -> None:
  """Writes results.json and results.csv; see `write`."""
  rows = [
    [
      *(case['modality'], case['case'], case['patient'], name, grid, metric),
      *(metrics.DEFINITIONS[metric]['unit'], row[metric], row['empty']),
    ]
    for case in results['cases']
    for grid, names in _GRIDS.items()
    for name, row in case[grid].items()
    for metric in names
  ]
  write(results, pathlib.Path(workdir, 'results'), _CSV_HEADER, rows)


def number(
  value: float | None, digits: int = 2, spread: float | None = None
) -> str:
  """A number for a table, with its spread if it has one; '-' for none."""
  if value is None or not math.isfinite(value):
    return '-'
  tail = '' if spread is None else f' ± {spread:.{digits}f}'
  return f'{value:.{digits}f}{tail}'


def rows(results: dict[str, Any], metric: str) -> list[list[str]]:
  """The means on the scans' own grids, as texts.

  Returns:
    For each modality its name, each class's mean and their mean; then the mean
    of all.
  """
  classes = results['classes'][1:]
  out = []
  for modality, entry in results['modalities'].items():
    grid = entry['native_grid']
    # A class that this modality's labels do not have has no scores.
    values = [grid['classes'].get(c, {}).get(metric) for c in classes]
    out.append([modality, *map(number, [*values, grid['mean'][metric]])])
  whole = number(results['mean']['native_grid'][metric])
  return [*out, ['mean', *[''] * len(classes), whole]]


def table(results: dict[str, Any]) -> str:
  """DSC and HD95 per modality and class, for the terminal."""
  classes = [name[:18] for name in results['classes'][1:]]
  lines = []
  for metric, title in (('dice', 'DSC (%)'), ('hd95', 'HD95 (mm)')):
    head = ['test ' + title, *classes, 'mean']
    for label, *cells in (head, *rows(results, metric)):
      line = f'{label:<16s}' + ''.join(f'{cell:>20s}' for cell in cells)
      lines.append(line)
  cases = ', '.join(
    f'{m} {e["test_cases"]}' for m, e in results['modalities'].items()
  )
  lines.append(f'test scans: {cases}; native grid, region of interest')
  return '\n'.join([*lines, *components_lines(results)])


def by_components(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Results without and with the components that validation scans chose.

  Returns:
    Both of `components.WAYS` -> a dict with 'modalities' and 'mean'; empty for
    results of before there were two.
  """
  if 'beside' not in results:
    return {}
  own = results['run']['components']
  (other,) = {*components.WAYS} - {own}
  return {own: dict(results), other: results['beside']}


def components_lines(results: Mapping[str, Any]) -> list[str]:
  """What the validation scans chose, and the means without and with it."""
  ways = by_components(results)
  if not ways:
    return []
  classes = results['classes']
  chosen = {
    modality: [classes[i] for i in components.kept(choice, classes)]
    for network in results['run']['networks'].values()
    for modality, choice in network['components'].items()
    if modality in results['modalities']
  }
  said = '; '.join(f'{m} {", ".join(c) or "none"}' for m, c in chosen.items())
  lines = [f'largest component alone, chosen by the validation scans: {said}']
  for way in components.WAYS if any(chosen.values()) else ():
    mean = ways[way]['mean']['native_grid']
    words = {components.NONE: 'without', components.VALIDATION: 'with'}[way]
    here = ', the scores above' if way == results['run']['components'] else ''
    lines.append(
      f'{words}: DSC {number(mean["dice"])} %, HD95'
      f' {number(mean["hd95"])} mm{here}'
    )
  return lines
