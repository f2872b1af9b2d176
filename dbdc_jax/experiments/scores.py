"""The scores of an experiment's runs in one small file, `scores.csv`.

A line for each run and test scan: what is needed to make the tables again, to
add up experiments that were made in parts, and to publish with a table.
"""

from collections.abc import Mapping, Sequence
import csv
import io
import pathlib
from typing import Any

from dbdc_jax.evaluation import components, scoring
from dbdc_jax.experiments import views

METRICS = ('dice', 'hd95')
_SCORES = tuple(f'{m}_{view}' for view in views.VIEWS for m in METRICS)
_SCAN = ('modality', 'case', 'patient')
HEADER = ('row', 'seed', *_SCAN, *_SCORES, 'scored', 'minutes')
# Stands for the mean over a scan's classes, which is what is kept of them.
_MEAN = 'mean over classes'

# (row, seed) -> results of a run's form.
Scores = Mapping[tuple[str, int], dict[str, Any]]


def _of_scan(classes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """The means over the classes that have a value."""
  return {m: scoring.mean(c[m] for c in classes.values()) for m in METRICS}


def lines(
  row: str, by_seed: Mapping[int, Mapping[str, Any]]
) -> list[list[str | float | None]]:
  """The lines of a row's runs.

  Args:
    row: its name.
    by_seed: seed to the contents of its `results.json`.
  """
  out: list[list[str | float | None]] = []
  for seed, results in by_seed.items():
    networks = results['run']['networks'].values()
    minutes = sum(network['train_seconds'] for network in networks) / 60
    scored = results['run'].get('components', components.NONE)
    ways = views.of(results)
    for index, case in enumerate(results['cases']):
      means = {
        f'{metric}_{view}': value
        for view, found in ways.items()
        for metric, value in _of_scan(found['cases'][index]['native']).items()
      }
      scan = [case[key] for key in _SCAN]
      values = [means.get(name) for name in _SCORES]
      out.append([row, str(seed), *scan, *values, scored, minutes])
  return out


def text(rows: Sequence[Sequence[str | float | None]]) -> bytes:
  """`scores.csv`: two digits, empty where there is none."""
  shown = lambda v: '' if v is None else v if isinstance(v, str) else f'{v:.2f}'
  out = io.StringIO(newline='')
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(HEADER)
  writer.writerows(map(shown, row) for row in rows)
  return out.getvalue().encode()


def _case(line: Mapping[str, str]) -> dict[str, Any]:
  """A test scan as `results.json` has it, with one class for all."""

  def of(view: str) -> dict[str, Any]:
    values = {m: line[f'{m}_{view}'] for m in METRICS}
    numbers = {m: float(v) if v else None for m, v in values.items()}
    return {'native': {_MEAN: numbers}}

  own = views.OWN[line['scored']]
  (other,) = {views.PLAIN, views.CHOSEN} - {own}
  last = of(views.LAST)
  case = {key: line[key] for key in _SCAN} | of(own) | {'beside': of(other)}
  return {**case, 'last': {'beside': last} if own == views.CHOSEN else last}


def _means(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The means of each modality and of them."""
  modalities = {}
  for name in dict.fromkeys(case['modality'] for case in cases):
    mine = [c['native'][_MEAN] for c in cases if c['modality'] == name]
    means = {m: scoring.mean(of_scan[m] for of_scan in mine) for m in METRICS}
    modalities[name] = {'native_grid': {'mean': means}}
  found = [entry['native_grid']['mean'] for entry in modalities.values()]
  mean = {m: scoring.mean(of_one[m] for of_one in found) for m in METRICS}
  return {'modalities': modalities, 'mean': {'native_grid': mean}}


def _results(found: Sequence[Mapping[str, str]]) -> dict[str, Any]:
  """A run's results from its lines."""
  cases = [_case(line) for line in found]
  minutes = float(found[0]['minutes'])
  run = {
    'components': found[0]['scored'],
    'devices': '',
    'networks': {
      '': {'parameters': None, 'macs': None, 'train_seconds': 60 * minutes}
    },
  }
  results = {'run': run, **_means(cases), 'cases': cases}
  there = lambda view: any(line[f'dice_{view}'] for line in found)
  if there(views.PLAIN) and there(views.CHOSEN):
    results['beside'] = _means([{**case, **case['beside']} for case in cases])
  if there(views.LAST):
    lasts = [case['last'] for case in cases]
    key = 'native' if 'native' in lasts[0] else 'beside'
    plain = [last if key == 'native' else last['beside'] for last in lasts]
    means = _means(
      [{**case, **last} for case, last in zip(cases, plain, strict=True)]
    )
    results['last'] = means if key == 'native' else {'beside': means}
  return results


def read(path: pathlib.Path) -> Scores:
  """The runs of a `scores.csv`; several of them, one behind the other, too.

  Raises:
    ValueError: it is none, or a run's scan is there twice; says where.
  """
  try:
    rows = list(csv.reader(path.read_text(encoding='utf-8').splitlines()))
  except (OSError, ValueError, csv.Error) as error:
    raise ValueError(f'{path}: not a readable scores.csv ({error})') from error
  if not rows or rows[0] != [*HEADER]:
    raise ValueError(
      f'{path}: not a scores.csv of an experiment: its first line is not'
      f' {",".join(HEADER)}'
    )
  runs: dict[tuple[str, int], list[dict[str, str]]] = {}
  seen: set[tuple[str, ...]] = set()
  for number, row in enumerate(rows, 1):
    if row == [*HEADER]:
      continue
    try:
      line = dict(zip(HEADER, row, strict=True))
      key = line['row'], int(line['seed'])
      _case(line), float(line['minutes'])
    except ValueError as error:
      raise ValueError(f'{path}, line {number}: {error}') from error
    scan = tuple(row[: 2 + len(_SCAN)])
    if scan in seen:
      raise ValueError(f'{path}, line {number}: {", ".join(scan)} twice')
    seen.add(scan)
    runs.setdefault(key, []).append(line)
  return {key: _results(found) for key, found in runs.items()}
