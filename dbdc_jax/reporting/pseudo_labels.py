"""How right a network is on the scans that it learns from without labels.

Some of them do have a reference on the disk, which training never sees. Only
the report does, afterwards.
"""

from typing import Any

import numpy as np

from dbdc_jax.evaluation import metrics
from dbdc_jax.reporting.runs import Data, FinishedNetwork, FinishedRun

METHOD = (
  'What the network says of unlabelled training scans, against references that'
  ' training has never seen: DSC per class on the prepared grid, mean over'
  ' scans. Whole slices with running statistics, without augmentation; the'
  ' pseudo-labels in training came from augmented crops with batch statistics.'
)


def _score(scans, prepared, cases, modality, labelable):
  """`[C - 1]` mean DSC in percent over the scans, NaN where there is none.

  A class that a scan was not drawn for has none.
  """
  rows = []
  for case in cases:
    found = scans.labels(prepared.images(case), modality)
    pair = metrics.where_drawn(found, prepared.labels(case))
    dice = metrics.dice_of(metrics.joint_histogram(*pair, len(labelable)))
    drawn = labelable & case.drawn_for(labelable)
    rows.append(np.where(drawn, dice, np.nan)[1:])
  table = np.ma.masked_invalid(100 * np.array(rows))
  return table.mean(0).filled(np.nan)


def _of_network(run, network: FinishedNetwork, data: Data, limit):
  epochs = {row['step']: row['epoch'] for row in network.rows}
  groups = data.cases(network, 'unlabeled')
  labelable = network.problem.labelable
  for step in network.steps():
    scans = data.segmenter(network, step)
    for index, cases in enumerate(groups):
      chosen = [case for case in cases if case.labeled][:limit]
      if not chosen:
        continue
      dice = _score(scans, data.prepared, chosen, index, labelable[index])
      yield {
        'modality': network.modalities[index],
        'step': step,
        'epoch': epochs.get(step),
        'best': step == network.facts['best_step'],
        'scans': len(chosen),
        'dice': dict(zip(run.classes[1:], map(float, dice), strict=True)),
      }


def quality(run: FinishedRun, data: Data, limit: int) -> list[dict[str, Any]]:
  """Scores of every kept checkpoint on the unlabelled training scans.

  Args:
    run: the run.
    data: its scans.
    limit: scans of each modality, the first by name.

  Returns:
    Dicts of modality, step, epoch, best (whether it is the tested one), scans
    and dice (class to percent, NaN where no scan has one).
  """
  return [
    row
    for network in run.networks
    for row in _of_network(run, network, data, limit)
  ]
