"""The first thing a run prints: what is trained on what, and what is off."""

import numpy as np

from data.files import names
from dbdc_jax import methods
from dbdc_jax.runtime import parallel
from dbdc_jax.runtime.precision import compute_dtype
from dbdc_jax.training import loop, warm_start
from dbdc_jax.workdir.train_state import TrainState

# The loss terms that a field each switches off.
_TERMS = {'mpcl': ('pseg', 'mc', 'pc', 'pd'), 'dc': ('ipc', 'fpc')}


def switched_off(
  problem: methods.Problem, present: np.ndarray, consistent: np.ndarray
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
  if not config.mpcl.enabled:
    lines.append('prototype bank and MPCL: config.mpcl.enabled is off')
  for part, terms in _TERMS.items():
    for term in terms:
      if not config[part][term]:
        lines.append(f'L_{term}: config.{part}.{term} is off')
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


def left_open(run: loop.TrainingRun) -> list[str]:
  """Of modalities whose label maps leave something open, what was drawn."""
  lines, classes = [], run.problem.classes
  for modality, mask, cases in zip(
    run.problem.modalities,
    run.problem.labelable,
    run.cases('labeled'),
    strict=True,
  ):
    if any(case.partly_drawn for case in cases):
      counts = np.sum([case.drawn_for(mask) for case in cases], 0)
      each = [f'{classes[i]} {counts[i]}' for i in np.flatnonzero(mask) if i]
      slices = sum(len(case.drawn_slices) for case in cases)
      lines.append(
        f'  {modality.title:12s} drawn on {slices} of these slices; in how many'
        f' of the {len(cases)} scans: {", ".join(each)}'
      )
  return lines


def text(run: loop.TrainingRun, state: TrainState, parameters: int) -> str:
  """The banner.

  Args:
    run: what is trained on what.
    state: before its first step.
    parameters: trainable ones.
  """
  problem, method, prepared = run.problem, run.method, run.prepared
  config, task, chosen = problem.config, problem.task, problem.modalities
  depth = method.traits.volumes
  samples = f'whole scans of {depth} slices' if depth else 'slices'
  slices = {case.name: case.num_slices for case in prepared.cases}
  own = config.recipe == 'own' and config.method != 'dbdc'
  recipe = ', by its own recipe' if own else ''
  recipe = ', recipe plus' if config.recipe == 'plus' else recipe
  structures = task.classes[1:]
  lines = [
    f'{config.method} on {task.name}{recipe}: {len(structures)} structures'
    f' ({", ".join(structures)})'
  ]
  if not any(config.data[s] for s in {m.source for m in chosen}):
    lines.append('data: the built-in phantom (give scans=DIR for real scans)')
  for modality in chosen:
    parts = []
    for part in ('labeled', 'unlabeled', 'validation', 'test'):
      cases = run.split[modality.name][part]
      count = sum(slices[name] for name in cases)
      parts.append(f'{len(cases)} {part} scans ({count} slices)')
    lines.append(f'  {modality.title:12s} ' + ', '.join(parts))
  lines += left_open(run)
  lines += [
    f'network: {parameters:,} parameters, width {config.model.width},'
    f' {config.augment.patch_size} x {config.augment.patch_size} patches',
    f'devices: {parallel.describe()}, {compute_dtype(config.dtype)}',
    f'length: {config.epochs} epochs, {run.total_steps:,} steps of'
    f' {method.recipe.batch_size} {samples} per modality and set'
    + (f'; {config.expectation}' if config.expectation else '')
    + '; the first steps tell how long it takes here',
    f'workdir: {run.workdir}',
  ]
  off = switched_off(problem, run.present, run.feed.consistent)
  off += warm_start.banner_lines(run, state)
  lines += [f'off: {line}' for line in off]
  lines += [
    names.printable(f'skipped: {bad["file"]}: {bad["reason"]}')
    for bad in prepared.skipped
  ]
  return '\n'.join(lines)
