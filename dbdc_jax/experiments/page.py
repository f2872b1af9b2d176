"""An experiment's tables as a page of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from dbdc_jax.evaluation.scoring import number
from dbdc_jax.experiments import curves, views

# Of `views`, for readers.
_WAYS = {
  views.PLAIN: 'without components',
  views.CHOSEN: 'with components',
  views.LAST: 'last checkpoint',
}
_LEARNING = (
  '* On the way: mean over seeds and tested modalities, after a share of the'
  ' steps, which are those of the longest network.',
)
METRICS = {'dice': ('DSC', '%'), 'hd95': ('HD95', 'mm')}


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
  head = ['row', 'runs', *columns]
  compared = any(row['paper'] for row in content['rows'])
  head += ['paper: ' + ', '.join(columns)] * compared
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
    if compared:
      cells.append(', '.join(number(p and p[index]) for p in printed))
    if metric == 'dice':
      cells.append(_interval(row['difference'] and row['difference'][metric]))
    rows.append(cells)
  name, unit = METRICS[metric]
  return _markdown_table(f'{name} ({unit})', head, rows)


def _score(found: Mapping[str, Any], digits: int = 2) -> str:
  return number(found['mean'], digits, found['sd'])


def _interval(found: Mapping[str, Any] | None, digits: int = 2) -> str:
  if found is None:
    return '-'
  show = lambda value: f'{value:+.{digits}f}'
  text = show(found['mean'])
  if found['low'] is not None:
    text += f' [{show(found["low"])}, {show(found["high"])}]'
  return f'{text}, {found["patients"]} patients'


def _against_table(content) -> list[str]:
  """The differences to rows that are not the reference."""
  head = ['row', 'to']
  head += [f'difference in {name} ({unit})' for name, unit in METRICS.values()]
  labels = {row['name']: row['label'] for row in content['rows']}
  rows = [
    [row['label'], labels.get(name, name)]
    + [_interval(found and found[metric]) for metric in METRICS]
    for row in content['rows']
    for name, found in row['against'].items()
  ]
  return _markdown_table('Other differences', head, rows) if rows else []


def _views_tables(content) -> list[str]:
  """Every row in the same way, and what it is then worth."""
  rows = [row for row in content['rows'] if len(row['views']) > 1]
  if not rows:
    return []
  found = {view for row in rows for view in row['views']}
  ways = [view for view in _WAYS if view in found]
  cell = lambda row, view, show: (
    show(row['views'][view]) if view in row['views'] else '-'
  )
  head = ['row', 'scores above']
  head += [
    f'{name} ({unit}), {_WAYS[view]}'
    for name, unit in METRICS.values()
    for view in ways
  ]
  means = [
    [row['label'], _WAYS[row['scored']]]
    + [
      cell(row, view, lambda v, m=metric: _score(v[m]))
      for metric in METRICS
      for view in ways
    ]
    for row in rows
  ]
  head_2 = ['row', 'to', *(_WAYS[view] for view in ways)]
  labels = {row['name']: row['label'] for row in content['rows']}
  differences = [
    [row['label'], labels.get(name, name)]
    + [
      cell(
        row,
        view,
        lambda v, n=name: _interval(v['differences'].get(n)),
      )
      for view in ways
    ]
    for row in rows
    for name in dict.fromkeys(
      name for v in row['views'].values() for name in v['differences']
    )
  ]
  title = 'Largest components that the validation scans chose'
  if views.LAST in ways:
    title += ', and the last checkpoint'
  return [
    *_markdown_table(title, head, means),
    *_markdown_table(
      'Differences in DSC (%), both rows in the same way', head_2, differences
    ),
  ]


def _share_table(content) -> list[str]:
  """How much of the gap between the bounds each row closes."""
  rows = [row for row in content['rows'] if row['share']]
  if not rows:
    return []
  found = {view for row in rows for view in row['views']}
  ways = [view for view in _WAYS if view in found]
  head = ['row', 'scores above', *(f'all {_WAYS[view]}' for view in ways)]
  body = [
    [
      row['label'],
      _interval(row['share'], 0),
      *(_interval(row['views'].get(v, {}).get('share'), 0) for v in ways),
    ]
    for row in rows
  ]
  return _markdown_table(
    'Share of the gap between LB (0) and UB (100) in DSC (%)', head, body
  )


def _learning_table(content) -> list[str]:
  """How fast each row learns."""
  rows = [row for row in content['rows'] if row['learning']]
  if not rows:
    return []
  head = ['row', 'steps', *(f'after {share:.0%}' for share in curves.SHARES)]
  body = [
    [row['label'], str(row['learning']['steps'])]
    + [number(dice, 1) for dice in row['learning']['dice']]
    for row in rows
  ]
  return _markdown_table('Validation DSC (%) on the way', head, body)


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
  lines += _against_table(content)
  lines += _share_table(content)
  lines += _views_tables(content)
  lines += _learning_table(content)
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
    *_LEARNING * any(row['learning'] for row in content['rows']),
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
