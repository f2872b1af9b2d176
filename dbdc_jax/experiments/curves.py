"""How fast an experiment's rows learn: their validation DSC on the way."""

from collections.abc import Sequence
import statistics
from typing import Any

from dbdc_jax.experiments import plan
from dbdc_jax.experiments.plan import PlannedRun
from dbdc_jax.workdir import metric_writer

# Of a run's steps.
SHARES = (0.25, 0.5, 0.75, 1.0)


def _curves(run: PlannedRun) -> list[list[tuple[int, float]]]:
  """Steps and validation DSC in percent, of each modality that is tested."""
  found = plan.results(run)
  if not found:
    return []
  whole, out = metric_writer.read_epochs(run.workdir), []
  for modality in found['modalities']:
    # A network of its own has a folder of its own.
    rows = whole or metric_writer.read_epochs(run.workdir / modality)
    pairs = [(r['step'], r.get(f'validation_dice/{modality}')) for r in rows]
    out.append([(step, 100 * dice) for step, dice in pairs if dice is not None])
  return out


def learning(runs: Sequence[PlannedRun]) -> dict[str, Any] | None:
  """A row's validation DSC after each of `SHARES` of its steps.

  Args:
    runs: all of the row.

  Returns:
    `steps`, those of its longest network, and `dice`, in percent: the mean over
    finished runs and the modalities that they test, None where one was not yet
    validated. None if no finished run has metrics.
  """
  curves = [curve for run in runs for curve in _curves(run) if curve]
  if not curves:
    return None
  dice = []
  for share in SHARES:
    there = [[d for s, d in c if s <= share * c[-1][0]] for c in curves]
    dice.append(statistics.fmean(d[-1] for d in there) if all(there) else None)
  return {'steps': max(curve[-1][0] for curve in curves), 'dice': dice}
