"""The scores of an experiment's runs in one small file, `scores.csv`.

A line for each run and test scan: what is needed to make the tables again, to
add up experiments that were made in parts, and to publish with a table.
"""

from collections.abc import Collection, Mapping, Sequence
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


def _way(line: Mapping[str, str], view: str) -> dict[str, Any]:
  """A test scan's scores in one way, as `scoring` has them, with one class."""
  found = {m: line[f'{m}_{view}'] for m in METRICS}
  values = {m: float(v) if v else None for m, v in found.items()}
  # Of the other metrics nothing is kept.
  scores = dict.fromkeys(scoring.NATIVE) | values | {'empty': ''}
  return {'native': {_MEAN: scores}, 'prepared': {}}


def _case(line: Mapping[str, str], there: Collection[str]) -> dict[str, Any]:
  """A test scan as `results.json` has it, in the ways that are there."""
  own = views.OWN[line['scored']]
  (other,) = {views.PLAIN, views.CHOSEN} - {own}
  case = {key: line[key] for key in _SCAN} | _way(line, own)
  if other in there:
    case['beside'] = _way(line, other)
  if views.LAST in there:
    last = _way(line, views.LAST)
    # Of a run with components it is the other way of its last checkpoint.
    unknown = {'native': {}, 'prepared': {}, 'beside': last}
    case['last'] = last if own == views.PLAIN else unknown
  return case


def _results(lines: Sequence[Mapping[str, str]]) -> dict[str, Any]:
  """A run's results from its lines."""
  there = {v for v in views.VIEWS if any(line[f'dice_{v}'] for line in lines)}
  cases = [_case(line, there) for line in lines]
  seconds = 60 * float(lines[0]['minutes'])
  network = {'parameters': None, 'macs': None, 'train_seconds': seconds}
  info = {
    'components': lines[0]['scored'],
    'devices': '',
    'networks': {'': network},
  }
  modalities = list(dict.fromkeys(line['modality'] for line in lines))
  return scoring.summarize(cases, ('', _MEAN), modalities, info)


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
      _case(line, views.VIEWS), float(line['minutes'])
    except ValueError as error:
      raise ValueError(f'{path}, line {number}: {error}') from error
    scan = tuple(row[: 2 + len(_SCAN)])
    if scan in seen:
      raise ValueError(f'{path}, line {number}: {", ".join(scan)} twice')
    seen.add(scan)
    runs.setdefault(key, []).append(line)
  return {key: _results(found) for key, found in runs.items()}
