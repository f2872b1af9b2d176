"""How fast an experiment's rows learn: their validation DSC on the way."""

from collections.abc import Sequence
import statistics
from typing import Any

from dbdc_jax.experiments import plan
from dbdc_jax.experiments.plan import PlannedRun
from dbdc_jax.workdir import metric_writer

# Of a run's steps.
SHARES = (0.25, 0.5, 0.75, 1.0)


def _validated(run: PlannedRun, modality: str) -> list[tuple[int, float]]:
  """Step and validation DSC in percent, of the network of a modality."""
  rows = metric_writer.read_epochs(run.workdir)
  rows = rows or metric_writer.read_epochs(run.workdir / modality)
  name = f'validation_dice/{modality}'
  return [(r['step'], 100 * r[name]) for r in rows if r.get(name) is not None]


def learning(runs: Sequence[PlannedRun]) -> dict[str, Any] | None:
  """A row's validation DSC after each of `SHARES` of its steps.

  Args:
    runs: all of the row.

  Returns:
    `steps`, those of its longest network, and `dice`, in percent: the mean over
    finished runs and the modalities that they test, None where one was not yet
    validated. None if no finished run has metrics.
  """
  done = [(run, found) for run in runs if (found := plan.results(run))]
  tested = [
    _validated(run, name) for run, found in done for name in found['modalities']
  ]
  curves = list(filter(None, tested))
  if not curves:
    return None
  dice = []
  for share in SHARES:
    there = [[d for s, d in c if s <= share * c[-1][0]] for c in curves]
    whole = all(there)
    dice.append(statistics.fmean(d[-1] for d in there) if whole else None)
  return {'steps': max(curve[-1][0] for curve in curves), 'dice': dice}
