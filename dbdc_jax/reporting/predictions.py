"""A run's test scans, segmented again by its best checkpoint."""

import dataclasses
from typing import Any

import numpy as np

from data.cache.prepared import Prepared, PreparedCase
from data.split import Split
from dbdc_jax.inference import prepared_cases
from dbdc_jax.reporting.runs import FinishedRun

# Which scans are shown, by their mean DSC over the classes that have one.
RANKS = ('best', 'median', 'worst')


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One test scan.

  Attributes:
    case: the scan.
    label: `[S, h, w]` predicted classes on the scan's own grid.
    reference: `[S, h, w]` classes.
    dice: mean DSC over the classes that have one, percent; NaN without any.
  """

  case: PreparedCase
  label: np.ndarray
  reference: np.ndarray
  dice: float


def mean_dice(case: dict[str, Any]) -> float:
  """Mean DSC of one entry of `results['cases']`; NaN without any."""
  found = [row['dice'] for row in case['native'].values()]
  found = [value for value in found if value is not None]
  return float(np.mean(found)) if found else float('nan')


def choose(dice: dict[str, float]) -> dict[str, str]:
  """Best, median and worst of some scans.

  Args:
    dice: scan to its mean DSC.

  Returns:
    Rank to scan; fewer for fewer than three scans. Of an even number the
    median is the lower of the two middle ones.
  """
  finite = [name for name, value in dice.items() if np.isfinite(value)]
  order = sorted(finite, key=dice.__getitem__)
  if not order:
    return {}
  places = {'best': -1, 'worst': 0, 'median': (len(order) - 1) // 2}
  out: dict[str, str] = {}
  for rank in RANKS if len(order) > 2 else ('best', 'worst'):
    name = order[places[rank]]
    if name not in out.values():
      out[rank] = name
  return out


def predict(
  run: FinishedRun, prepared: Prepared, split: Split
) -> dict[str, Prediction]:
  """Segments all test scans.

  Args:
    run: the run.
    prepared: its scans.
    split: who is where.

  Returns:
    Scan to its prediction.

  Raises:
    ValueError: a checkpoint that is damaged, or that gives other scores than
      the run's results have.
  """
  known = {case['case']: case for case in run.results['cases']}
  out: dict[str, Prediction] = {}

  def keep(case, prediction, reference):
    dice = mean_dice(known[case.name])
    out[case.name] = Prediction(case, prediction, reference, dice)

  for network in run.networks:
    scans = prepared_cases.Scans(
      network.problem,
      network.method,
      *network.state(network.facts['best_step']),
      prepared,
      run.cases(prepared, split, network, 'labeled'),
    )
    found = prepared_cases.test_cases(
      network.problem,
      scans,
      prepared,
      [
        cases if name in run.modalities else []
        for name, cases in zip(
          network.modalities,
          run.cases(prepared, split, network, 'test'),
          strict=True,
        )
      ],
      keep,
    )
    for case in found:
      before, now = mean_dice(known[case['case']]), mean_dice(case)
      # Another device rounds differently; another network is further off.
      if not np.isclose(before, now, atol=0.5, equal_nan=True):
        raise ValueError(
          f'{network.folder}: {case["case"]} has a mean DSC of {now:.2f} now,'
          f' {before:.2f} in results.json: the checkpoints are of another run;'
          ' --config.eval_only=true tests them again'
        )
  return out
