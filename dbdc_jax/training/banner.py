"""The first thing a run prints: what is trained on what, and what is off."""

from collections.abc import Sequence

import numpy as np

from data.cache.prepared import Prepared
from data.files import names
from data.split import Split
from dbdc_jax import methods


def switched_off(
  problem: methods.Problem,
  present: np.ndarray,
  consistent: np.ndarray,
) -> list[str]:
  """Sentences on what does not take part in this run, and why.

  Args:
    problem: of the run, or of one of its networks.
    present: `[K, C]` bool, classes in each modality's training labels.
    consistent: `[K]` bool, modalities with unlabelled scans in use.
  """
  lines = []
  config, modalities, classes = problem.config, problem.names, problem.classes
  for name, row in zip(modalities, present, strict=True):
    missing = [c for c, here in zip(classes, row, strict=True) if not here]
    if len(missing) == len(classes):
      lines.append(f'labels of {name}: {config.method} does not look at them')
    elif missing:
      lines.append(
        f'{", ".join(missing)}: never in the training labels of {name}'
      )
  if len(modalities) > 1 and config.model.modulation != 'all':
    lines.append(
      'normalisation for each modality: config.model.modulation is'
      f' {config.model.modulation!r}'
    )
  if config.method != 'dbdc':
    if config.labeled_fraction < 1 and not np.any(consistent):
      lines.append(f'unlabelled scans: {config.method} does not use them')
    return lines
  for term in ('pseg', 'mc', 'pc', 'pd'):
    if not config.mpcl[term]:
      lines.append(f'L_{term}: config.mpcl.{term} is off')
  if not config.mpcl.enabled:
    lines.append('prototype bank and MPCL: config.mpcl.enabled is off')
  for term in ('ipc', 'fpc'):
    if not config.dc[term]:
      lines.append(f'L_{term}: config.dc.{term} is off')
  for name, has in zip(modalities, consistent, strict=True):
    if not has:
      lines.append(f'dual consistency in {name}: no unlabelled scans')
  if not config.weighting.enabled:
    lines.append('adaptive modality weights: config.weighting.enabled is off')
  if len(modalities) == 1:
    lines.append('modality contrast and weights: there is one modality')
  if config.mpcl.assignment == 'label' and config.mpcl.enabled:
    lines.append("Sinkhorn: config.mpcl.assignment is 'label'")
  return lines


def text(
  problem: methods.Problem,
  prepared: Prepared,
  split: Split,
  *,
  devices: str,
  dtype: str,
  parameters: int,
  steps: int,
  samples: str,
  off: Sequence[str],
  workdir: str,
) -> str:
  """The banner.

  Args:
    problem: of the run, or of one of its networks.
    prepared: the prepared data.
    split: who is where.
    devices: the devices in words.
    dtype: the compute dtype.
    parameters: trainable parameters per network.
    steps: train steps in all.
    samples: what a step takes of each modality and set, in words.
    off: what `switched_off` says.
    workdir: the run's folder.
  """
  config, task, chosen = problem.config, problem.task, problem.modalities
  slices = {case.name: case.num_slices for case in prepared.cases}
  own = config.recipe == 'own' and config.method != 'dbdc'
  recipe = ', by its own recipe' if own else ''
  structures = task.classes[1:]
  lines = [
    f'{config.method} on {task.name}{recipe}: {len(structures)} structures'
    f' ({", ".join(structures)})',
  ]
  if not any(config.data[s] for s in {m.source for m in chosen}):
    lines.append('data: the built-in phantom (give scans=DIR for real scans)')
  for modality in chosen:
    parts = []
    for part in ('labeled', 'unlabeled', 'validation', 'test'):
      cases = split[modality.name][part]
      count = sum(slices[name] for name in cases)
      parts.append(f'{len(cases)} {part} scans ({count} slices)')
    lines.append(f'  {modality.title:12s} ' + ', '.join(parts))
  lines += [
    f'network: {parameters:,} parameters, width {config.model.width},'
    f' {config.augment.patch_size} x {config.augment.patch_size} patches',
    f'devices: {devices}, {dtype}',
    f'length: {config.epochs} epochs, {steps:,} steps of {samples}'
    ' per modality and set'
    + (f'; {config.expectation}' if config.expectation else '')
    + '; the first steps tell how long it takes here',
    f'workdir: {workdir}',
  ]
  lines += [f'off: {line}' for line in off]
  lines += [
    names.printable(f'skipped: {bad["file"]}: {bad["reason"]}')
    for bad in prepared.skipped
  ]
  return '\n'.join(lines)
