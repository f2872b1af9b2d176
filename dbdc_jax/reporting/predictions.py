"""A run's test scans, segmented again by its best checkpoint."""

from typing import Any, NamedTuple

import numpy as np

from data.cache.prepared import PreparedCase
from dbdc_jax.evaluation import scoring
from dbdc_jax.inference import prepared_cases
from dbdc_jax.reporting.runs import Data, FinishedRun

# Which scans are shown, by their mean DSC over the classes that have one, and
# how many scans it takes.
RANKS = {'best': 1, 'median': 3, 'worst': 2}


class Prediction(NamedTuple):
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
  found = scoring.mean(row['dice'] for row in case['native'].values())
  return float('nan') if found is None else found


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
  places = {'best': -1, 'median': (len(order) - 1) // 2, 'worst': 0}
  return {
    rank: order[places[rank]]
    for rank, needed in RANKS.items()
    if len(order) >= needed
  }


def predict(run: FinishedRun, data: Data) -> dict[str, Prediction]:
  """Segments all test scans.

  Args:
    run: the run.
    data: its scans.

  Returns:
    Scan to its prediction.

  Raises:
    ValueError: a checkpoint that is damaged, or that gives other scores than
      the run's results have.
  """
  known = {case['case']: mean_dice(case) for case in run.results['cases']}
  out: dict[str, Prediction] = {}

  def keep(case, prediction, reference):
    dice = known[case.name]
    out[case.name] = Prediction(case, prediction, reference, dice)

  for network in run.networks:
    scans = data.segmenter(network, network.facts['best_step'])
    groups = zip(network.modalities, data.cases(network, 'test'), strict=True)
    tested = [cases if m in run.modalities else [] for m, cases in groups]
    chosen = network.facts.get('components', {})
    for case in prepared_cases.test_cases(scans, tested, chosen, keep):
      before, now = known[case['case']], mean_dice(case)
      # Another device rounds differently; another network is further off.
      if not np.isclose(before, now, atol=0.5, equal_nan=True):
        raise ValueError(
          f'{network.folder}: {case["case"]} has a mean DSC of {now:.2f} now,'
          f' {before:.2f} in results.json: the checkpoints are of another run;'
          ' --config.eval_only=true tests them again'
        )
  return out
