"""What the log and the results say: curves, tables, box plots."""

from collections.abc import Sequence
import functools
import itertools
import json
from typing import Any

from dbdc_jax.evaluation import metrics, pictures, scoring
from dbdc_jax.evaluation.scoring import number
from dbdc_jax.reporting import charts, page
from dbdc_jax.reporting.charts import Box, Line
from dbdc_jax.reporting.runs import FinishedNetwork, FinishedRun

METRICS = {'dice': 'DSC (%)', 'hd95': 'HD95 (mm)'}
# What the loop, and not the method, logs for each modality.
_NO_LOSSES = {
  'kept',
  'train_dice',
  'validation_dice',
  'validation2_dice',
  'watched_dice',
  'weight',
}
BACKGROUND = '#8a8f98'
_AGGREGATION = 'Means: over scans, then classes, then modalities.'


def class_colours(classes: Sequence[str]) -> dict[str, str]:
  """Class to colour, as in all pictures; the background is grey."""
  colours = zip(classes[1:], itertools.cycle(pictures.COLOURS), strict=False)
  return {classes[0]: BACKGROUND, **dict(colours)}


def modality_colours(modalities: Sequence[str]) -> dict[str, str]:
  """Modality to colour, far from each other.

  Args:
    modalities: all that the run has trained: a transfer tests one of its two.
  """
  colours = itertools.cycle(('#d55e00', '#0072b2', '#009e73', '#cc79a7'))
  return dict(zip(modalities, colours, strict=False))


def _curve(
  network: FinishedNetwork,
  keys: Sequence[str],
  name: str,
  colour: str,
  *,
  scale: float = 1.0,
  dashed: bool = False,
) -> Line:
  """The sum of what is logged under some keys; none where one of them lacks."""
  found: list[list[Any]]
  found = [[row.get(key) for key in keys] for row in network.rows]
  values = [None if None in v else scale * sum(v) for v in found]
  epochs = [row['epoch'] for row in network.rows]
  return Line(name, epochs, values, colour, dashed)


def _terms(network: FinishedNetwork) -> list[str]:
  """Names of the losses: what a method logs for each modality."""
  parts = {tuple(key.split('/')) for row in network.rows for key in row}
  names = {p[0] for p in parts if len(p) == 2 and p[1] in network.modalities}
  return sorted(names - _NO_LOSSES)


def _losses(run: FinishedRun) -> str:
  figures = []
  colours = (*pictures.COLOURS[:7], '#777777', '#44aa99', '#882255')
  for network in run.networks:
    curves = [_curve(network, ['loss'], 'total', '#000000')]
    for index, name in enumerate(_terms(network)):
      keys = [f'{name}/{m}' for m in network.modalities]
      colour = colours[index % len(colours)]
      curves.append(_curve(network, keys, name, colour, dashed=index >= 7))
    title = 'Losses, summed over ' + ', '.join(network.modalities)
    figures.append(page.figure(charts.lines(title, curves), title))
  return page.row(*figures)


def training(run: FinishedRun) -> page.Section:
  """Losses, validation and training DSC, modality weights (Figure 7)."""
  colours = modality_colours(run.trained)
  dice, weights = [], []
  for network in run.networks:
    for name in network.modalities:
      colour = colours[name]
      one = functools.partial(_curve, network, colour=colour)
      dice += [
        one([f'validation_dice/{name}'], name, scale=100),
        one(
          [f'train_dice/{name}'], f'{name}, training', scale=100, dashed=True
        ),
      ]
      weights.append(one([f'weight/{name}'], name))
    if len(network.modalities) > 1:
      keys = ['validation_dice_mean']
      dice.append(_curve(network, keys, 'mean', '#000000', scale=100))
  svg = charts.lines
  return page.Section(
    'Training',
    _losses(run)
    + page.row(
      page.figure(
        svg('DSC over the epochs', dice),
        'DSC (%) on the validation scans, and of the labelled training batches',
      ),
      page.figure(
        svg('Modality weights', weights),
        'Modality weights (MAW): their mean is 1',
      ),
    ),
  )


def summary(run: FinishedRun) -> page.Section:
  """The tables of results and what the run was."""
  info, parts = run.results['run'], []
  scans = [e['test_cases'] for e in run.results['modalities'].values()]
  for metric, title in METRICS.items():
    means = scoring.rows(run.results, metric)
    rows = [[*row, n] for row, n in zip(means, [*scans, ''], strict=True)]
    head = [title, *run.classes[1:], 'mean', 'scans']
    parts.append(page.table(head, rows))
  networks = info['networks'].values()
  labeled = ', '.join(f'{m} {n}' for m, n in info['labeled_scans'].items())
  minutes = sum(n['train_seconds'] for n in networks) / 60
  facts = [
    ('method', info['method']),
    ('task', info['task']),
    ('seed, split seed', f'{info["seed"]}, {info["split_seed"]}'),
    ('labelled scans', labeled),
    ('epochs', info['epochs']),
    ('parameters', ', '.join(f'{n["parameters"]:,}' for n in networks)),
    ('minutes of training', number(minutes, 1)),
    ('devices', info['devices']),
    ('commit', run.record['commit'] or '-'),
    *(line.split(': ', 1) for line in scoring.components_lines(run.results)),
  ]
  definitions = ' '.join(
    f'{title}: {metrics.DEFINITIONS[metric]["definition"]}.'
    for metric, title in METRICS.items()
  )
  words = f'On each test scan as a volume. {definitions} {_AGGREGATION}'
  return page.Section(
    'Results',
    ''.join(parts) + page.note(words) + page.table(('fact', 'value'), facts),
  )


def scores(run: FinishedRun) -> page.Section:
  """Every test scan's scores: box plots per class and modality, and tables."""
  colours = class_colours(run.classes)
  cases, figures = run.results['cases'], []
  for metric, title in METRICS.items():
    # A class that a modality's labels do not have has no box.
    values: dict[tuple[str, str], list[float | None]] = {}
    for case in cases:
      for name, row in case['native'].items():
        values.setdefault((case['modality'], name), []).append(row[metric])
    groups = [
      Box(modality, name, values[modality, name], colours[name])
      for modality, name in itertools.product(run.modalities, run.classes[1:])
      if (modality, name) in values
    ]
    figures.append(
      page.figure(
        charts.boxes(f'{title} per class', groups, title),
        f'{title}: median, quartiles, extremes and every test scan',
      )
    )
  head = ['scan', 'modality', 'class', 'DSC (%)', 'HD95 (mm)', 'note']
  rows = [
    [case['case'], case['modality'], name]
    + [number(row[metric]) for metric in METRICS]
    + [row['empty']]
    for case in cases
    for name, row in case['native'].items()
  ]
  names = [name for _, _, name, *_ in rows]
  return page.Section(
    'Scores per class',
    page.row(*figures)
    + page.folded('Every test scan', page.table(head, rows, names)),
  )


def comparison(runs: Sequence[tuple[str, FinishedRun]]) -> page.Section:
  """Several runs, a row each.

  Args:
    runs: names and runs.
  """
  modalities = list(dict.fromkeys(m for _, run in runs for m in run.modalities))
  head = ['run', 'method', 'seed', 'split seed']
  for title in METRICS.values():
    head += [f'{m} {title}' for m in (*modalities, 'mean')]
  rows = []
  for name, run in runs:
    info = run.results['run']
    row: list[Any] = [name, info['method'], info['seed'], info['split_seed']]
    for metric in METRICS:
      cells = scoring.rows(run.results, metric)
      means = {label: mean for label, *_, mean in cells}
      row += [means.get(label, '-') for label in (*modalities, 'mean')]
    rows.append(row)
  return page.Section('Comparison', page.table(head, rows))


def settings(run: FinishedRun) -> page.Section:
  """The config, the data, and the scans that were left out."""
  skipped = run.record['skipped_scans']
  rows = [[bad[key] for key in ('file', 'reason')] for bad in skipped]
  left_out = page.table(('scan left out', 'reason'), rows) if rows else ''
  text = json.dumps(run.config.to_dict(), indent=1, sort_keys=True)
  return page.Section(
    'Settings', left_out + page.folded('Config', page.preformatted(text))
  )
