"""Paired differences between two rows, bootstrapped over patients and seeds.

Both are drawn anew, each for itself, and a patient counts as often as it was
drawn times the mean number of draws of the seeds that tested it: Owen, "The
pigeonhole bootstrap" (2007), which leans to intervals that are too wide rather
than too narrow.
"""

from collections.abc import Mapping, Sequence
import functools
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
  ' is theirs, within groups of patients that have the same modalities, and of'
  f' seeds; {LEVEL} % between the percentiles. Of a single seed it says nothing'
  ' about others, and of few patients or seeds it is too narrow.'
)

# Seed, patient, modality and difference of a scan.
Difference = tuple[int, str, str, float]
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


def differences(mine: Cases, other: Cases, metric: str) -> list[Difference]:
  """The difference of every scan and seed that both have.

  Args:
    mine: of the row.
    other: of the reference.
    metric: 'dice' or 'hd95'.
  """
  return [
    (key[0], mine[key]['patient'], key[1], value)
    for key in sorted(mine.keys() & other.keys())
    if (value := _difference(mine[key], other[key], metric)) is not None
  ]


def _tables(
  rows: Sequence[Difference],
) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """`[S, P, M]` sums and counts of a seed, patient and modality's scans."""
  seeds = sorted({seed for seed, *_ in rows})
  patients = sorted({patient for _, patient, *_ in rows})
  modalities = sorted({modality for _, _, modality, _ in rows})
  sums = np.zeros([len(seeds), len(patients), len(modalities)])
  counts = np.zeros_like(sums)
  for seed, patient, modality, value in rows:
    at = (
      seeds.index(seed),
      patients.index(patient),
      modalities.index(modality),
    )
    sums[at] += value
    counts[at] += 1
  return sums, counts, modalities


def _draws(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """`[DRAWS, n]` how often each of n is drawn, group by group of equal rows."""
  weights = np.zeros((DRAWS, len(groups)))
  for group in np.unique(groups, axis=0):
    members = np.flatnonzero((groups == group).all(1))
    share = np.full(len(members), 1 / len(members))
    weights[:, members] = rng.multinomial(len(members), share, DRAWS)
  return weights


def _means(
  sums: np.ndarray, counts: np.ndarray, patients: np.ndarray, seeds: np.ndarray
) -> np.ndarray:
  """The mean of each draw: over scans and seeds, patients, then modalities.

  Args:
    sums: `[S, P, M]`.
    counts: of the same.
    patients: `[n, P]`, how often each is drawn.
    seeds: `[n, S]`.
  """
  drawn = [np.tensordot(seeds, table, 1) for table in (sums, counts)]
  tested = counts > 0
  times = np.tensordot(seeds, tested.astype(float), 1)
  weights = patients[..., None] * times / np.maximum(tested.sum(0), 1)
  value = drawn[0] / np.maximum(drawn[1], 1)
  total = weights.sum(1)
  # Drawn seeds may have no scan of a modality: such a draw is none.
  with np.errstate(invalid='ignore'):
    return ((weights * value).sum(1) / total).mean(1)


# A table is made anew after each run: only what the run changes is drawn again.
@functools.lru_cache(maxsize=1024)
def _drawn(
  rows: tuple[Difference, ...], seed: int
) -> tuple[Mapping[str, Any], np.ndarray | None]:
  """The mean of rows with what it is of, and of each draw."""
  sums, counts, modalities = _tables(rows)
  has = counts.sum(0) > 0
  one = np.ones((1, len(has))), np.ones((1, len(sums)))
  out = {
    'mean': float(_means(sums, counts, *one)[0]),
    'low': None,
    'high': None,
    'patients': len(has),
    'seeds': len(sums),
    'scans': len(rows),
    'modalities': modalities,
  }
  _, sizes = np.unique(has, axis=0, return_counts=True)
  if sizes.min() < 2:
    # One patient is always drawn again: an interval would claim no spread.
    return out, None
  rng = np.random.default_rng(seed)
  # Patients have each modality: groups are drawn as large as they are.
  patients, seeds = _draws(has, rng), _draws(np.zeros((len(sums), 1)), rng)
  return out, _means(sums, counts, patients, seeds)


def _with_interval(
  out: Mapping[str, Any], drawn: np.ndarray | None
) -> dict[str, Any]:
  if drawn is None:
    return dict(out)
  tail = (100 - LEVEL) / 2
  low, high = np.nanpercentile(drawn, [tail, 100 - tail])
  return {**out, 'low': float(low), 'high': float(high)}


def paired(rows: Sequence[Difference], seed: int = 0) -> dict[str, Any] | None:
  """Mean difference and its interval.

  Args:
    rows: of `differences`.
    seed: of the draws.

  Returns:
    `mean`, `low`, `high`, `patients`, `seeds`, `scans` (of all seeds),
    `modalities`; low and high are None for fewer than two patients in a group;
    None for no rows.
  """
  if not rows:
    return None
  return _with_interval(*_drawn(tuple(rows), seed))


def share(mine: Cases, lower: Cases, upper: Cases) -> dict[str, Any] | None:
  """How much of the gap in DSC between two rows a third closes, in percent.

  Each draw has its own gap.

  Args:
    mine: of the row.
    lower: of the row at 0 %.
    upper: of the row at 100 %.

  Returns:
    See `paired`; None where no scan is in all three, or there is no gap.
  """
  common = mine.keys() & lower.keys() & upper.keys()
  over = lambda row: differences(
    {key: row[key] for key in common}, lower, 'dice'
  )
  gained, gap = over(mine), over(upper)
  # Scans without a value in one of them leave both.
  both = {row[:3] for row in gained} & {row[:3] for row in gap}
  kept = lambda rows: tuple(row for row in rows if row[:3] in both)
  if not both:
    return None
  # The same seed: the same draws of both.
  (out, some), (whole, of_gap) = (_drawn(kept(r), 0) for r in (gained, gap))
  if not whole['mean']:
    return None
  out = {**out, 'mean': 100 * out['mean'] / whole['mean']}
  if some is None or of_gap is None:
    return out
  return _with_interval(out, 100 * some / of_gap)
