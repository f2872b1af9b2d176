"""A run that starts from the weights of another one.

The other run's modalities find their rows by name. The new run may have more:
with `train_only='banks'` only the rows of those are trained, and everything
that the other run had learnt keeps its bits.
"""

import pathlib
from typing import Any

import jax

from dbdc_jax import methods
from dbdc_jax.models import bank_rows
from dbdc_jax.runtime import parallel
from dbdc_jax.training import loop
from dbdc_jax.workdir import run_record, weights
from dbdc_jax.workdir.run_folder import RunFolder
from dbdc_jax.workdir.train_state import TrainState, state_shapes


def _record(folder: pathlib.Path) -> dict[str, Any]:
  """What the other run says of itself."""
  try:
    return RunFolder(folder).record
  except ValueError as error:
    raise ValueError(
      f'init_from={folder}: no readable run.json there'
      f' ({error.__cause__ or "not what a run writes"});'
      ' give the workdir of a finished run, or an export'
    ) from error


def added(
  problem: methods.Problem, workdir: pathlib.Path, joint: bool
) -> list[str]:
  """Checks `init_from` and `train_only`; by the lead, before it writes.

  Args:
    problem: the run's.
    workdir: the run's folder.
    joint: whether one network takes all modalities.

  Returns:
    The modalities whose rows alone are trained; none: everything is trained.

  Raises:
    ValueError: the two runs do not fit each other, or there is nothing to
      train; says what differs.
  """
  config, modalities, classes = problem.config, problem.names, problem.classes
  only = config.train_only
  if only not in ('', 'banks'):
    raise ValueError(f"train_only={only!r}: choose banks, or '' for everything")
  if only and not joint:
    raise ValueError(
      f'train_only=banks: {config.method} has a network per modality and no'
      ' banks; choose method=dbdc'
    )
  if only:
    bank_rows.check(config.model.modulation, 'train_only=banks')
  if run_record.started(workdir):
    # What is new was decided when the run began.
    return run_record.added(workdir) if only else []
  if not config.init_from:
    if only:
      raise ValueError(
        'train_only=banks: give --config.init_from=WORKDIR of the run whose'
        ' weights stay'
      )
    return []
  where = f'init_from={config.init_from}'
  record = _record(pathlib.Path(config.init_from))
  if list(classes) != record['classes']:
    raise ValueError(
      f'{where}: trained on the classes {", ".join(record["classes"])}, and not'
      f' on {", ".join(classes)}: a network of other classes is no start'
    )
  gone = [name for name in record['modalities'] if name not in modalities]
  if gone:
    raise ValueError(
      f'{where}: trained on {", ".join(gone)} too, which is not among'
      f' modalities={",".join(modalities)}: add it'
    )
  new = [name for name in modalities if name not in record['modalities']]
  if new and not joint:
    raise ValueError(
      f'{where}: holds no network of {", ".join(new)}; choose'
      f' --config.modalities={",".join(record["modalities"])}'
    )
  if only and not new:
    raise ValueError(
      f'train_only=banks: {where} was trained on all of {",".join(modalities)}'
      ' already; name a new one in --config.modalities'
    )
  return new if only else []


def start(run: loop.TrainingRun, state: TrainState) -> TrainState:
  """The parameters and memory of another run's best checkpoint.

  Args:
    run: whose config has `init_from`.
    state: before its first step.

  Raises:
    ValueError: there are none, or they are of another network.
  """
  folder = pathlib.Path(run.config.init_from)
  old = list(run.modalities)
  if run.method.traits.joint:
    old = parallel.from_lead(lambda: _record(folder)['modalities'])
  else:
    folder /= run.modalities[0]
  problem = run.problem.of(old)
  like = state_shapes(methods.build(problem.config), problem)
  try:
    found = weights.best(folder, like)
  except ValueError as error:
    raise ValueError(
      f'init_from={folder}: its network differs from this config (method,'
      f' classes, width, mpcl.enabled or dc.pseudo: {error}); use the same as'
      ' in its config.json'
    ) from error
  if found is None:
    raise ValueError(
      f'init_from={folder}: no checkpoints there; give the workdir of a'
      ' finished run'
    )
  places = [run.modalities.index(name) for name in old]
  fresh = jax.device_get((state.params, state.memory))
  params, memory = (
    bank_rows.spread(mine, theirs, places)
    for mine, theirs in zip(found, fresh, strict=True)
  )
  return parallel.place(state._replace(params=params, memory=memory))


def banner_lines(run: loop.TrainingRun, state: TrainState) -> list[str]:
  """What the banner says is off while banks alone are trained."""
  if run.trained is None:
    return []
  new = [n for n, on in zip(run.modalities, run.trained, strict=True) if on]
  rows = bank_rows.count(state.params, len(new))
  prototypes = state.memory.get('prototypes')
  more = 0 if prototypes is None else prototypes.bank.size
  return [
    f'training of everything but the rows of {", ".join(new)} in both banks:'
    f' {rows:,} parameters and {more * len(new) // len(run.modalities):,}'
    ' values of prototypes are trained'
  ]
