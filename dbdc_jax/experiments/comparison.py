"""Paired differences between two rows, with a bootstrap over patients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dbdc_jax.evaluation import scoring

DRAWS = 10_000
LEVEL = 95
METHOD = (
  'Difference to the reference row on the same test scans with the same seeds:'
  ' per scan the mean over the classes that have a value in both; per patient'
  ' and modality the mean over scans and seeds; then over patients, then over'
  f' modalities. Interval: {DRAWS:,} bootstrap draws of patients with all that'
  ' is theirs, within groups of patients that have the same modalities;'
  f' {LEVEL} % between the percentiles. It says nothing about other splits or'
  ' seeds than those that were run, and of few patients it is too narrow.'
)

# (seed, modality, scan) to the scan's results of results.json.
Cases = Mapping[tuple[int, str, str], Mapping[str, Any]]


def by_scan(results: Mapping[int, Mapping[str, Any]]) -> Cases:
  """The test scans of some runs.

  Args:
    results: seed to the contents of its `results.json`.
  """
  return {
    (seed, case['modality'], case['case']): case
    for seed, found in results.items()
    for case in found['cases']
  }


def _difference(mine, other, metric) -> float | None:
  """Mean difference of a scan over the classes that both have a value of."""
  pairs = [
    (mine['native'][name][metric], values[metric])
    for name, values in other['native'].items()
    if name in mine['native']
  ]
  return scoring.mean(a - b for a, b in pairs if None not in (a, b))


def differences(
  mine: Cases, other: Cases, metric: str
) -> list[tuple[str, str, float]]:
  """(patient, modality, difference) of every scan and seed that both have.

  Args:
    mine: of the row.
    other: of the reference.
    metric: 'dice' or 'hd95'.
  """
  return [
    (mine[key]['patient'], key[1], value)
    for key in sorted(mine.keys() & other.keys())
    if (value := _difference(mine[key], other[key], metric)) is not None
  ]


def _matrix(rows) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """`[P, M]` mean difference per patient and modality, and if there is one."""
  patients = sorted({patient for patient, _, _ in rows})
  modalities = sorted({modality for _, modality, _ in rows})
  sums = np.zeros((len(patients), len(modalities)))
  counts = np.zeros_like(sums)
  for patient, modality, value in rows:
    at = patients.index(patient), modalities.index(modality)
    sums[at] += value
    counts[at] += 1
  return sums / np.maximum(counts, 1), counts > 0, modalities


def _draws(has, rng) -> np.ndarray:
  """`[DRAWS, P]` how often each patient is drawn, group by group."""
  weights = np.zeros((DRAWS, len(has)))
  for group in np.unique(has, axis=0):
    members = np.flatnonzero((has == group).all(1))
    share = np.full(len(members), 1 / len(members))
    weights[:, members] = rng.multinomial(len(members), share, DRAWS)
  return weights


def paired(
  rows: Sequence[tuple[str, str, float]], seed: int = 0
) -> dict[str, Any] | None:
  """Mean difference and its interval.

  Args:
    rows: of `differences`.
    seed: of the draws.

  Returns:
    `mean`, `low`, `high`, `patients`, `scans` (and seeds), `modalities`; low
    and high are None for fewer than two patients in a group; None for no rows.
  """
  if not rows:
    return None
  table, has, modalities = _matrix(rows)
  mean = float((table.sum(0) / has.sum(0)).mean())
  out = {
    'mean': mean,
    'low': None,
    'high': None,
    'patients': len(has),
    'scans': len(rows),
    'modalities': modalities,
  }
  _, sizes = np.unique(has, axis=0, return_counts=True)
  if sizes.min() < 2:
    # One patient is always drawn again: an interval would claim no spread.
    return out
  weights = _draws(has, np.random.default_rng(seed))
  # Every draw has each modality: groups are drawn as large as they are.
  drawn = ((weights @ table) / (weights @ has)).mean(1)
  tail = (100 - LEVEL) / 2
  out['low'], out['high'] = map(float, np.percentile(drawn, [tail, 100 - tail]))
  return out
