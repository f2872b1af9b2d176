"""Scores of two folders of label maps as evaluation.json, .csv and a table."""

import collections
from collections.abc import Collection, Sequence
import pathlib
from typing import Any

import numpy as np

from data.files import names
from data.formats.scan_error import ScanError
from dbdc_jax.evaluation import case_scores, matching, metrics, scoring
from dbdc_jax.evaluation.label_codes import Classes

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
_IGNORED = (
  'voxels whose reference code is one of these are taken out of the prediction'
  ' and of the reference before anything is computed: they are neither right'
  ' nor wrong'
)
_UNSET = str(case_scores.UNSET)
_SHOWN = 8


def _definitions(tolerance: float | None) -> dict[str, dict[str, str]]:
  """What each number is, with the tolerance that was used."""
  out = {
    name: {**metrics.DEFINITIONS[name], 'aggregation': _AGGREGATION}
    for name in case_scores.METRICS
  }
  if tolerance is not None:
    out['nsd']['definition'] = (
      f'share of both surfaces within {tolerance:g} mm of the other, times 100'
    )
  return out


def _absent() -> dict[str, Any]:
  """The scores of a class that is in neither mask."""
  return {
    'empty': scoring.EMPTY[2],
    **dict.fromkeys(case_scores.METRICS),
    'volume_prediction': 0.0,
    'volume_reference': 0.0,
  }


def _classes(
  good: Sequence[case_scores.Scored], classes: Classes | None
) -> dict[str, list[int]]:
  """Class -> its codes: those asked for, or all that a reference holds."""
  codes = classes.names if classes else {}
  if classes is None:
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


def _not_scored(
  good: Sequence[case_scores.Scored], classes: Collection[str]
) -> dict[str, dict[str, int]]:
  """Codes of no class -> in how many predictions and references they are."""
  found: collections.Counter[tuple[int, str]] = collections.Counter()
  for outcome in good:
    for kind, codes in outcome.others.items():
      found.update((code, kind) for code in codes)
    unasked = outcome.scores.keys() - classes
    found.update((int(name), 'prediction') for name in unasked)
  return {
    str(code): {kind: found[code, kind] for kind in ('prediction', 'reference')}
    for code in sorted({code for code, _ in found})
  }


def _spread(rows: Sequence[dict[str, Any]], metric: str) -> float | None:
  values = [row[metric] for row in rows if row[metric] is not None]
  return float(np.std(values, ddof=1)) if len(values) > 1 else None


def summarize(
  found: matching.Found,
  outcomes: Sequence[case_scores.Scored],
  chosen: Classes | None,
  tolerance: float | None,
  info: dict[str, Any],
) -> dict[str, Any]:
  """All results of an evaluation.

  Args:
    found: what the folders hold.
    outcomes: of `found.cases`.
    chosen: what codes mean, None for all codes of the references.
    tolerance: of the NSD, mm; None is each case's largest voxel side.
    info: what was evaluated, kept at the top.

  Returns:
    What `evaluation.json` holds.
  """
  good = [o for o in outcomes if o.problem is None]
  classes = _classes(good, chosen)
  rows = [
    {
      name: o.scores.get(name) or _absent()
      for name in classes
      if name not in o.undrawn
    }
    for o in good
  ]
  total = scoring.aggregate(rows, case_scores.METRICS, list(classes))
  for name, entry in total['classes'].items():
    mine = [row[name] for row in rows if name in row]
    entry['spread'] = {m: _spread(mine, m) for m in case_scores.METRICS}
  return {
    **info,
    'matched': found.matched,
    'left_out': [vars(error) for error in found.left_out],
    'cases_scored': len(good),
    'cases_found': found.total,
    'definitions': _definitions(tolerance),
    'spread': _SPREAD,
    'classes': classes,
    'codes_not_scored': _not_scored(good, classes),
    'ignored': {
      'codes': list(chosen.ignored) if chosen else [],
      'rule': _IGNORED,
    },
    'summary': total,
    'cases': [
      {
        'case': o.case.name,
        'prediction': o.case.prediction.path.name,
        'reference': o.case.reference.path.name,
        'notes': list(o.notes),
        'spacing_mm': list(o.spacing),
        'tolerance_mm': o.tolerance,
        'ignored_ml': o.ignored,
        'not_drawn': list(o.undrawn),
        'scores': row,
      }
      for o, row in zip(good, rows, strict=True)
    ],
    'missing': [vars(error) for error in found.missing],
    'bad': [vars(error) for error in problems(found, outcomes)],
  }


def problems(
  found: matching.Found, outcomes: Sequence[case_scores.Scored]
) -> list[ScanError]:
  """What is wrong with files and cases, apart from missing partners."""
  return found.problems + [ScanError(*o.problem) for o in outcomes if o.problem]


def nothing_scored(results: dict[str, Any]) -> list[ScanError]:
  """A finding if no class is in any reference, though codes are."""
  classes = results['summary']['classes']
  if not results['cases'] or any(
    entry['volume_reference'] for entry in classes.values()
  ):
    return []
  codes = [c for c, n in results['codes_not_scored'].items() if n['reference']]
  if codes:
    reason = f'no class is in any reference; they hold {names.listed(codes)}'
    remedy = f'say what the codes are, e.g. --classes={codes[-1]}=NAME'
  elif classes:
    return []  # The healthy: whatever was found there is too much.
  else:
    reason = 'no reference has a code above 0: there is nothing to score'
    remedy = 'give the label maps of these cases'
  return [ScanError(results['reference'], reason, remedy)]


def table(results: dict[str, Any]) -> str:
  """Mean and spread of each class, and the mean, for the terminal."""
  lines = [
    ['class', *(title for title, _ in _COLUMNS.values()), 'cases', 'empty'],
    ['', *(f'({metrics.DEFINITIONS[m]["unit"]})' for m in _COLUMNS), '', '1|2'],
  ]
  classes, mean = (results['summary'][key] for key in ('classes', 'mean'))
  for name, entry in classes.items():
    cells = [
      scoring.number(entry[m], digits, entry['spread'][m])
      for m, (_, digits) in _COLUMNS.items()
    ]
    empty = f'{entry["one_empty"]}|{entry["both_empty"]}'
    lines.append([name[:24], *cells, str(entry['cases']), empty])
  cells = [scoring.number(mean[m], d) for m, (_, d) in _COLUMNS.items()]
  lines.append(['mean', *cells, '', ''])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  out = []
  for first, *others in lines:
    right = map(str.rjust, others, widths[1:])
    out.append('  '.join([first.ljust(widths[0]), *right]).rstrip())
  return '\n'.join([*out, *_notes(results)])


def _strangers(results: dict[str, Any]) -> list[str]:
  """Codes that only one side has may be one class, numbered in two ways."""
  unmet = [
    str(code)
    for name, entry in results['summary']['classes'].items()
    for code in results['classes'][name]
    if entry['volume_prediction'] == 0 and entry['volume_reference'] > 0
  ]
  extra = [
    code for code, n in results['codes_not_scored'].items()
    if not n['reference']
  ]  # fmt: skip
  if not unmet or not extra:
    return []
  return [
    f'no prediction holds {names.listed(unmet)}, no reference holds'
    f' {names.listed(extra)}: if two of them mean the same, give them one'
    f' name: --classes={unmet[0]}=NAME,{extra[0]}=NAME'
  ]


def _notes(results: dict[str, Any]) -> list[str]:
  """What the table's numbers are, and what is not among them."""
  lines = [
    f'{results["cases_scored"]} of {results["cases_found"]} cases scored; mean'
    ' ± standard deviation over cases; HD95: the larger direction',
    'empty 1|2: cases with one mask empty (they count as a miss), with both'
    ' (left out)',
    f'NSD: {results["definitions"]["nsd"]["definition"]}',
  ]
  others = results['codes_not_scored']
  if others:
    found = [
      f'{code} ({n["prediction"]} predictions, {n["reference"]} references)'
      for code, n in others.items()
    ]
    lines.append(f'codes not scored: {names.listed(found)}')
  unset = [c for c in others if c == _UNSET or c.startswith('-')]
  if unset:
    lines.append(
      f'{", ".join(unset)}: mostly "not annotated"; --classes={unset[-1]}=NAME'
      f' makes it a class, {unset[-1]}=ignore leaves its voxels out of all'
      ' scores'
    )
  lines += _strangers(results)
  codes = results['ignored']['codes']
  volume = sum(case['ignored_ml'] for case in results['cases'])
  if codes or volume:
    what = f'with code {", ".join(map(str, codes))}' if codes else 'not drawn'
    lines.append(
      f'ignored: {volume:.1f} mL {what} in the references, on both sides'
    )
  undrawn = collections.Counter(
    name for case in results['cases'] for name in case['not_drawn']
  )
  if undrawn:
    said = [f'{name} ({n} references)' for name, n in undrawn.items()]
    lines.append(f'not drawn, so without a score: {names.listed(said)}')
  if results['matched']:
    lines.append(results['matched'])
  if results['left_out']:
    files = [pathlib.Path(e['file']).name for e in results['left_out']]
    lines.append(f'left out, no label maps: {names.listed(files)}')
  notes = [note for case in results['cases'] for note in case['notes']]
  lines += notes[:_SHOWN]
  if len(notes) > _SHOWN:
    lines.append(f'and {len(notes) - _SHOWN} more notes, in evaluation.json')
  return lines
