"""An experiment's tables: what the runs gave, beside what the paper prints."""

from collections.abc import Mapping, Sequence
import itertools
import pathlib
import shlex
import statistics
from typing import Any

from data.files import atomic, destination
from dbdc_jax.evaluation import components, scoring
from dbdc_jax.experiments import (
  comparison,
  curves,
  page,
  plan,
  scores,
  sizes,
  variants,
  views,
)
from dbdc_jax.experiments.page import METRICS
from dbdc_jax.experiments.plan import Options, PlannedRun
from dbdc_jax.experiments.variants import REFERENCE, Table, Variant

VARIES = {
  'weights': 'the seed of weights, batches and augmentation; all runs have the'
  ' same split, so another split may move all rows by more than this',
  'split': 'the split into training, validation and test patients; all runs'
  ' have the same seed of weights',
  'both': 'the split into training, validation and test patients, and the seed'
  ' of weights, batches and augmentation',
  'folds': 'the fold of the test patients (seed modulo 5), and with every fifth'
  ' seed that of weights, batches and augmentation',
}
_CSV = (
  *('row', 'modality', 'metric', 'unit', 'mean', 'standard_deviation', 'n'),
  *('of', 'paper'),
)
_KEYS = ('title', 'task', 'seeds', 'rows', 'difference_method')
# Each file, and how it is told from another of its name.
_KNOWN = {
  'table.json': lambda text: destination.has_keys(text, _KEYS),
  'table.csv': lambda text: text.startswith(','.join(_CSV)),
  'scores.csv': lambda text: text.startswith(','.join(scores.HEADER)),
  'table.md': lambda text: text.startswith('# ') and '\n| row | runs |' in text,
}
# Seed -> the results of a row.
_BySeed = dict[int, dict[str, Any]]


def _spread(values: Sequence[float]) -> dict[str, Any]:
  """Mean and standard deviation over the seeds, with their number."""
  return {
    'mean': statistics.fmean(values) if values else None,
    'sd': statistics.stdev(values) if len(values) > 1 else None,
    'n': len(values),
  }


def _join(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The results of a row's parts as those of one run."""
  if len(parts) == 1:
    return dict(parts[0])
  first = parts[0]
  names = [name for part in parts for name in part['modalities']]
  networks = {
    f'{index} {name}': facts
    for index, part in enumerate(parts)
    for name, facts in part['run']['networks'].items()
  }
  return scoring.summarize(
    [case for part in parts for case in part['cases']],
    first['classes'],
    names,
    {**first['run'], 'networks': networks},
  )


def _by_seed(runs: Sequence[PlannedRun]) -> _BySeed:
  """Results of the seeds of which every part is finished."""
  out = {}
  for seed in dict.fromkeys(run.seed for run in runs):
    mine = [plan.results(run) for run in runs if run.seed == seed]
    parts = [found for found in mine if found is not None]
    if len(parts) == len(mine):
      out[seed] = _join(parts)
  return out


def _scans(results: Mapping[str, Any]) -> set[tuple[str, str]]:
  """The test scans of a run, with their modalities."""
  return {(case['modality'], case['case']) for case in results['cases']}


def _states(runs: Sequence[PlannedRun]) -> dict[str, str]:
  """Where each run of a row stands, and why."""
  return {
    f'{run.seed} {run.part}'.strip(): ': '.join(filter(None, plan.state(run)))
    for run in runs
  }


def _scores(found, pick, paper) -> dict[str, Any]:
  """Both metrics of a modality (or of the mean) over the seeds."""
  out = {}
  for index, metric in enumerate(METRICS):
    values = [pick(results)['native_grid'] for results in found.values()]
    values = [v.get('mean', v)[metric] for v in values]
    out[metric] = _spread([v for v in values if v is not None])
    out[metric]['by_seed'] = dict(zip(found, values, strict=True))
    out[metric]['paper'] = paper[index] if paper else None
  return out


def _by_view(found: _BySeed) -> dict[str, _BySeed]:
  """A row's results by view; of those that all of its runs have."""
  by_seed = {seed: views.of(results) for seed, results in found.items()}
  return {
    view: {seed: of_seed[view] for seed, of_seed in by_seed.items()}
    for view in views.VIEWS
    if by_seed and all(view in of_seed for of_seed in by_seed.values())
  }


def _bound(everything: Mapping[str, _BySeed], name: str) -> _BySeed:
  """Results of the row that is a bound, see `variants.BOUNDS`."""
  bounds = (f for row, f in everything.items() if row.split('_')[-1] == name)
  return next(bounds, {})


def _share(
  mine: _BySeed, everything: Mapping[str, _BySeed]
) -> dict[str, Any] | None:
  """The share of the gap between the table's bounds, if it has both."""
  lower, upper = (
    comparison.by_scan(_bound(everything, name)) for name in variants.BOUNDS
  )
  return comparison.share(comparison.by_scan(mine), lower, upper)


def _viewed(
  variant: Variant, by_row: Mapping[str, Mapping[str, _BySeed]]
) -> dict[str, dict[str, Any]]:
  """A row's means and differences, all rows by the same view."""
  out = {}
  others = dict.fromkeys((REFERENCE, *variant.against))
  for view, mine in by_row[variant.name].items():
    # Rows without it are none here.
    rows = {name: found.get(view, {}) for name, found in by_row.items()}
    out[view] = {
      **_scores(mine, lambda r: r['mean'], None),
      'share': _share(mine, rows),
      'differences': {
        name: _difference(mine, rows.get(name, {}), 'dice')
        for name in others
        if name != variant.name
      },
    }
  return out


def _cost(found) -> dict[str, Any]:
  """Size and time of a row; every run of it has the same networks."""
  networks = [list(r['run']['networks'].values()) for r in found.values()]
  seconds = [sum(n['train_seconds'] for n in row) for row in networks]
  first = networks[0] if networks else []
  known = first and all('macs' in n for n in first)
  return {
    'networks': len(first) or None,
    'parameters': first[0]['parameters'] if first else None,
    'macs': first[0]['macs'] if known else None,
    'minutes': _spread([s / 60 for s in seconds]),
    'devices': sorted({r['run']['devices'] for r in found.values()}),
  }


def _difference(
  mine: _BySeed, other: _BySeed, metric: str
) -> dict[str, Any] | None:
  scans = comparison.by_scan(mine), comparison.by_scan(other)
  return comparison.paired(comparison.differences(*scans, metric))


def _differences(mine: _BySeed, other: _BySeed) -> dict[str, Any] | None:
  """Of both metrics; None without results."""
  if not (mine and other):
    return None
  return {metric: _difference(mine, other, metric) for metric in METRICS}


def _row(
  runs: Sequence[PlannedRun],
  everything: Mapping[str, _BySeed],
  by_row: Mapping[str, Mapping[str, _BySeed]],
) -> dict[str, Any]:
  variant = runs[0].variant
  found = everything[variant.name]
  first = next(iter(found.values()), None)
  modalities = list(first['modalities']) if first else []
  run = first['run'] if first else {}
  scored = run.get('components', components.NONE)
  mine = comparison.by_scan(found)
  to = lambda name: _differences(found, everything.get(name, {}))
  return {
    'name': variant.name,
    'label': variant.label,
    'commands': [
      shlex.join(('python', *run.command[1:]))
      for run in runs
      if run.seed == runs[0].seed and run.command
    ],
    'n': len(found),
    'of': len({run.seed for run in runs}),
    'states': _states(runs),
    'modalities': {
      name: _scores(
        found, lambda r, m=name: r['modalities'][m], variant.paper.get(name)
      )
      for name in modalities
    },
    'mean': _scores(found, lambda r: r['mean'], variant.paper.get('mean')),
    'difference': None if variant.name == REFERENCE else to(REFERENCE),
    'share': _share(found, everything),
    'against': {name: to(name) for name in variant.against},
    'scored': views.OWN[scored],
    'views': _viewed(variant, by_row),
    **_cost(found),
    'learning': curves.learning(runs),
    'paper_size': sizes.at_the_papers_settings(runs[0]),
    'paper': {name: list(pair) for name, pair in variant.paper.items()},
    'cases': [
      {'seed': seed, **{k: case[k] for k in ('modality', 'case', 'patient')}}
      | {'classes': case['native']}
      for (seed, _, _), case in sorted(mine.items())
    ],
  }


def collect(
  table: Table, runs: Sequence[PlannedRun], options: Options
) -> dict[str, Any]:
  """What `table.json` holds; reads the results of all finished runs.

  Args:
    table: what was planned.
    runs: of `plan.expand`.
    options: of the experiment.
  """
  grouped = itertools.groupby(runs, lambda run: run.variant.name)
  by_variant = {name: list(group) for name, group in grouped}
  found = {name: _by_seed(group) for name, group in by_variant.items()}
  by_row = {name: _by_view(of_row) for name, of_row in found.items()}
  reference = found.get(REFERENCE, {})
  strangers = [
    f'{variant.label}, seed {seed}: its test scans are not those of'
    f' {REFERENCE}; the difference is of those that both have.'
    for variant in table.variants
    if variant.results
    for seed in found.get(variant.name, {}).keys() & reference.keys()
    if _scans(found[variant.name][seed]) != _scans(reference[seed])
  ]
  return {
    'title': table.title,
    'task': table.task,
    'seeds': list(options.seeds),
    'varies': VARIES[options.vary],
    'reference': REFERENCE,
    'difference_method': comparison.METHOD,
    'notes': [*table.notes, *strangers],
    'rows': [_row(group, found, by_row) for group in by_variant.values()],
  }


def _csv(content: Mapping[str, Any]) -> list[list[str | float | None]]:
  """The rows of `table.csv`."""
  return [
    [
      *(row['name'], modality, metric, METRICS[metric][1]),
      *(value['mean'], value['sd'], str(value['n']), str(row['of'])),
      '' if value['paper'] is None else str(value['paper']),
    ]
    for row in content['rows']
    for modality, scores in {**row['modalities'], 'mean': row['mean']}.items()
    for metric, value in scores.items()
  ]


def check(folder: pathlib.Path) -> None:
  """Checks that tables can be written to a folder.

  Raises:
    ValueError: it is none, or a file there has a table's name and is not one.
  """
  destination.check(folder / 'table.json')
  destination.check_ours(
    folder,
    _KNOWN,
    ' is there and is no table of an experiment, nothing replaces it: choose'
    ' another --output, or move that file away',
  )


def scores_of(runs: Sequence[PlannedRun]) -> bytes:
  """`scores.csv` of all finished runs.

  Args:
    runs: of `plan.expand`.
  """
  grouped = itertools.groupby(runs, lambda run: run.variant.name)
  return scores.text(
    [
      line
      for name, group in grouped
      for line in scores.lines(name, _by_seed(list(group)))
    ]
  )


def write(
  content: Mapping[str, Any],
  folder: pathlib.Path,
  scores_csv: bytes | None = None,
) -> None:
  """Writes table.json, table.csv and table.md; each is whole or not there.

  Args:
    content: of `collect`.
    folder: of the experiment.
    scores_csv: of `scores_of`; None leaves a scores.csv as it is.

  Raises:
    ValueError: see `check`.
    OSError: the disk is full.
  """
  check(folder)
  folder.mkdir(parents=True, exist_ok=True)
  scoring.write(content, folder / 'table', _CSV, _csv(content))
  atomic.write(folder / 'table.md', page.markdown(content).encode())
  if scores_csv is not None:
    atomic.write(folder / 'scores.csv', scores_csv)
