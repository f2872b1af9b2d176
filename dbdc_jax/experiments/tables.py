"""An experiment's tables: what the runs gave, beside what the paper prints."""

from collections.abc import Mapping, Sequence
import itertools
import pathlib
import shlex
import statistics
from typing import Any

from data.files import atomic, destination
from dbdc_jax.evaluation import components, scoring
from dbdc_jax.evaluation.scoring import number
from dbdc_jax.experiments import comparison, plan, sizes
from dbdc_jax.experiments.plan import Options, PlannedRun
from dbdc_jax.experiments.variants import REFERENCE, Table

METRICS = {'dice': ('DSC', '%'), 'hd95': ('HD95', 'mm')}
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


def _components(found) -> dict[str, Any]:
  """The row's means without and with the largest components, if it has both.

  They are chosen by each run's validation scans, see `scoring.by_components`.
  """
  both = {
    seed: scoring.by_components(results) for seed, results in found.items()
  }
  if not both or not all(both.values()):
    return {}
  first = next(iter(found.values()))
  out: dict[str, Any] = {'scored': first['run']['components']}
  for way in components.WAYS:
    of_way = {seed: ways[way] for seed, ways in both.items()}
    out[way] = _scores(of_way, lambda r: r['mean'], None)
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


def _row(runs: Sequence[PlannedRun], found, reference) -> dict[str, Any]:
  variant = runs[0].variant
  first = next(iter(found.values()), None)
  modalities = list(first['modalities']) if first else []
  mine, other = comparison.by_scan(found), comparison.by_scan(reference)
  differences = None
  if variant.name != REFERENCE and reference:
    differences = {
      metric: comparison.paired(comparison.differences(mine, other, metric))
      for metric in METRICS
    }
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
    'difference': differences,
    'components': _components(found),
    **_cost(found),
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
    'rows': [
      _row(group, found[name], reference) for name, group in by_variant.items()
    ],
  }


def _markdown_table(
  title: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> list[str]:
  lines = (
    '| ' + ' | '.join(cell.replace('|', '/') for cell in row) + ' |'
    for row in (head, ['---'] * len(head), *rows)
  )
  return [f'## {title}', '', *lines, '']


def _score_table(content, index: int, metric: str) -> list[str]:
  """One metric: each modality and the mean, ours and the paper's."""
  names = (name for row in content['rows'] for name in row['modalities'])
  columns = [*dict.fromkeys(names), 'mean']
  head = ['row', 'runs', *columns, 'paper: ' + ', '.join(columns)]
  if metric == 'dice':
    head.append(f'difference to {content["reference"]}')
  rows = []
  for row in content['rows']:
    scores = {**row['modalities'], 'mean': row['mean']}
    printed = [row['paper'].get(column) for column in columns]
    cells = [row['label'], f'{row["n"]} of {row["of"]}']
    cells += [
      _score(scores[c][metric]) if c in scores else '-' for c in columns
    ]
    cells.append(', '.join(number(p and p[index]) for p in printed))
    if metric == 'dice':
      cells.append(_interval(row['difference'] and row['difference'][metric]))
    rows.append(cells)
  name, unit = METRICS[metric]
  return _markdown_table(f'{name} ({unit})', head, rows)


def _score(found: Mapping[str, Any], digits: int = 2) -> str:
  return number(found['mean'], digits, found['sd'])


def _interval(found: Mapping[str, Any] | None) -> str:
  if found is None:
    return '-'
  text = f'{found["mean"]:+.2f}'
  if found['low'] is not None:
    text += f' [{found["low"]:+.2f}, {found["high"]:+.2f}]'
  return f'{text}, {found["patients"]} patients'


def _components_table(content) -> list[str]:
  """Both ways of the rows that have them."""
  head = ['row', 'scores above']
  head += [
    f'{name} ({unit}), {way}'
    for name, unit in METRICS.values()
    for way in ('without', 'with')
  ]
  words = {components.NONE: 'without', components.VALIDATION: 'with'}
  rows = [
    [
      row['label'],
      words[row['components']['scored']],
      *(
        _score(row['components'][way][metric])
        for metric in METRICS
        for way in components.WAYS
      ),
    ]
    for row in content['rows']
    if row['components']
  ]
  title = 'Largest components, chosen by the validation scans'
  return _markdown_table(title, head, rows) if rows else []


def _size(found: Mapping[str, Any] | None) -> list[str]:
  """Millions of parameters, and giga multiply-accumulates."""
  sizes = [(found or {}).get(name) for name in ('parameters', 'macs')]
  units = zip(sizes, (1e6, 1e9), strict=True)
  return [number(size and size / unit, 3) for size, unit in units]


def _cost_table(content) -> list[str]:
  head = ['row', 'networks', 'parameters (M)', 'GMAC', 'full size: M, GMAC']
  head += ['paper: M, GMAC', 'minutes', 'devices']
  rows = [
    [
      row['label'],
      str(row['networks'] or '-'),
      *_size(row),
      ', '.join(_size(row['paper_size'])),
      ', '.join(map(number, row['paper'].get('size', (None, None)))),
      _score(row['minutes'], 1),
      ', '.join(row['devices']) or '-',
    ]
    for row in content['rows']
  ]
  return _markdown_table('Size and time', head, rows)


def markdown(content: Mapping[str, Any]) -> str:
  """`table.md`."""
  seeds = ', '.join(map(str, content['seeds']))
  lines = [f'# {content["title"]}', '']
  for index, metric in enumerate(METRICS):
    lines += _score_table(content, index, metric)
  lines += _components_table(content)
  lines += _cost_table(content)
  lines += [
    f'* Mean ± standard deviation over the seeds {seeds}. What varies:'
    f' {content["varies"]}. "Runs" says how many are finished.',
    '* Scores on each test scan as a volume on its own grid. The paper has'
    ' other data and another definition of HD95: beside ours, not against it.',
    f'* {content["difference_method"]}',
    '* Parameters: what the optimizer moves, in one of the networks;'
    ' GMAC: giga multiply-accumulates of the prediction of one training patch.'
    " Full size: the row at the paper's settings, counted as the paper does:"
    ' all networks that training has, averages included, one training patch'
    ' passing each once (of MASS one registration). The paper has its'
    ' prototypes count double, and VarDA at 160 x 160 pixels.',
    "* Minutes are those of training all of a row's networks, with validation.",
    *(f'* {note}' for note in content['notes']),
    '',
    'Commands, with the first seed:',
    '',
    '```',
    *(line for row in content['rows'] for line in row['commands']),
    '```',
    '',
  ]
  return '\n'.join(lines)


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


def write(content: Mapping[str, Any], folder: pathlib.Path) -> None:
  """Writes table.json, table.csv and table.md; each is whole or not there.

  Raises:
    ValueError: see `check`.
    OSError: the disk is full.
  """
  check(folder)
  folder.mkdir(parents=True, exist_ok=True)
  scoring.write(content, folder / 'table', _CSV, _csv(content))
  atomic.write(folder / 'table.md', markdown(content).encode())
