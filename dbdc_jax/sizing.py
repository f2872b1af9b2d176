"""Sizes that fit: what `preset=auto` leaves open, chosen before a run begins.

How fine slices may be is the scans' affair, how fast a step is and how much it
holds the device's, how long it all may take the user's (`minutes`). Steps of
the sizes in question are compiled and timed; the largest of them that fits the
memory and still takes enough steps in the time is chosen, and the epochs fill
the time.
"""

from collections.abc import Callable
import math
import os
import pathlib
import sys
from typing import Any

from flax import traverse_util
import jax
import ml_collections
import numpy as np

from configs import presets
from dbdc_jax import methods
from dbdc_jax.benchmarking import ladder, steps, timing, workload
from dbdc_jax.benchmarking.ladder import Measured, Sizes
from dbdc_jax.runtime import parallel
from dbdc_jax.training import scans
from dbdc_jax.workdir import run_folder, run_record

# Without a limit: the paper's epochs, of few scans more.
_EPOCHS, _LEAST_STEPS = 100, 4000
# On a CPU, where nothing is said.
_USUAL_MINUTES = 60.0
# Validation, checkpoints and the test, as a share of the steps' time.
_BESIDE = 0.15
_TIMED = 3
# Of the device's memory; the rest is for scans and what fragments.
_SHARE_OF_MEMORY = 0.8


def fields(sizes: Sizes, epochs: int) -> dict[str, Any]:
  """The config's fields that go with sizes and a number of epochs."""
  short = epochs < _EPOCHS // 2
  side = sizes.slice_size
  return {
    'data.slice_size': side,
    'augment.patch_size': sizes.patch,
    'model.width': sizes.width,
    'model.embedding_dim': 64 if sizes.width > 12 else 32,
    'batch_size': sizes.batch,
    'epochs': epochs,
    'optimizer.learning_rate': sizes.rate,
    'ssl.gan_learning_rate': 2 * sizes.rate,
    'mass.depth': 16 if side <= 40 else 24 if side <= 64 else 40,
    'mpcl.stride': 1 if sizes.width > 16 else 2,
    # A short run has no time for a ramp.
    'dc.ramp': 'constant' if short else 'gaussian',
    'dc.warmup_epochs': max(1, min(4, epochs // 4)),
  }


def _settled(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config in its transfer's direction, if its method has one."""
  transfer = methods.traits(config).transfer
  return transfer.settle(config) if transfer else config


def measure(config: ml_collections.ConfigDict) -> Measured:
  """Times a step.

  Args:
    config: nothing of it is open.
  """
  problem = methods.resolve(_settled(config))
  joint = methods.traits(problem.config).joint
  part = problem.networks(joint)[0]
  method = methods.build(part.config)

  def start() -> tuple[Any, Any]:
    params, memory = parallel.run_once(method.init, jax.random.key(0))
    return jax.device_get((params, workload.started(memory)))

  limit = parallel.memory()
  try:
    compiled = steps.CompiledStep(workload.of(part, method, start))
    held = compiled.memory()['program']
    taken = timing.interleaved({'step': compiled}, _TIMED)['step']
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return Measured(math.inf, fits=False)
  fits = limit is None or held is None or held < _SHARE_OF_MEMORY * limit
  return Measured(float(np.median(taken)), fits)


def _candidate(
  config: ml_collections.ConfigDict, sizes: Sizes, epochs: int
) -> ml_collections.ConfigDict:
  """The config with its open fields filled."""
  full = config.copy_and_resolve_references()
  full.update_from_flattened_dict(fields(sizes, epochs))
  presets.suit(full)
  flat = traverse_util.flatten_dict(full.to_dict(), sep='.')
  out = config.copy_and_resolve_references()
  names = presets.left_open(config)
  out.update_from_flattened_dict({name: flat[name] for name in names})
  return out


def _rungs(config: ml_collections.ConfigDict) -> list[Sizes]:
  """The ladder with what the config has set, for this many devices."""
  rungs = ladder.of(methods.resolve(config).task.slice_size)
  first = _candidate(config, rungs[0], 1)
  unit = parallel.device_count() * methods.traits(first).multiple
  out = []
  for sizes in rungs:
    whole = _candidate(config, sizes, 1)
    out.append(
      Sizes(
        whole.data.slice_size,
        whole.augment.patch_size,
        whole.model.width,
        -(-whole.batch_size // unit) * unit,
        whole.optimizer.learning_rate,
      )
    )
  return list(dict.fromkeys(out))


def _minutes(config: ml_collections.ConfigDict) -> float | None:
  """What the training may take."""
  if config.minutes < 0:
    raise ValueError(f'minutes={config.minutes}: give minutes, or 0')
  if config.minutes == 0 and jax.default_backend() == 'cpu':
    return _USUAL_MINUTES
  return config.minutes or None


def _steps_per_epoch(config: ml_collections.ConfigDict) -> int:
  """Of the run of a config of which nothing but `epochs` is open."""
  problem = methods.resolve(_settled(config))
  transfer = methods.traits(problem.config).transfer
  prepared = parallel.lead_first(lambda: scans.load(problem))
  if config.data.split:
    split = scans.load_split(config.data.split, prepared, transfer)
  else:
    split = scans.make_split(problem, prepared)
  if transfer:
    split = transfer.split(split)
  return scans.steps_per_epoch(
    prepared, split, problem.names, problem.labelable, config.batch_size
  )


def _decide(
  config: ml_collections.ConfigDict,
  timed: Callable[[ml_collections.ConfigDict], Measured],
) -> ml_collections.ConfigDict:
  """Fills the open fields in, and says with what."""
  rungs, minutes = _rungs(config), _minutes(config)
  first = _candidate(config, rungs[0], 1)
  problem = methods.resolve(_settled(first))
  joint = methods.traits(problem.config).joint
  networks = 1 if joint else len(problem.names)
  seconds = None
  if minutes is not None:
    seconds = 60 * minutes / networks / (1 + _BESIDE)

  def of(sizes: Sizes) -> Measured:
    if parallel.is_lead():
      print(
        f'timing a step: slices of {sizes.slice_size} pixels, width'
        f' {sizes.width} (compiled first) ...',
        file=sys.stderr,
        flush=True,
      )
    mine = timed(_candidate(config, sizes, 1))
    return Measured(*parallel.from_lead(lambda: list(mine)))

  # A CPU's own size; accelerators begin at the top.
  begin = 1 if jax.default_backend() == 'cpu' else len(rungs) - 1
  choice = ladder.choose(rungs, of, seconds, min(begin, len(rungs) - 1))
  each = _steps_per_epoch(_candidate(config, choice.sizes, 1))
  epochs = max(_EPOCHS, -(-_LEAST_STEPS // each))
  if choice.steps is not None:
    epochs = max(1, choice.steps // each)
  whole = _candidate(config, choice.sizes, epochs)
  if parallel.is_lead():
    print(_said(whole, choice, minutes, each, networks), flush=True)
  return whole


def _said(whole, choice, minutes, each, networks) -> str:
  """What was chosen, why, and how to choose otherwise."""
  taken = whole.epochs * each * choice.seconds * networks * (1 + _BESIDE) / 60
  limit = 'no limit of time' if minutes is None else f'{minutes:g} minutes'
  native = methods.resolve(whole).task.slice_size
  lines = [f'sizes for {limit} on {parallel.describe()}:']
  rows = (
    (
      f'slices of {whole.data.slice_size} pixels (of {native})',
      'data.slice_size',
    ),
    (f'patches of {whole.augment.patch_size}', 'augment.patch_size'),
    (f'width {whole.model.width}', 'model.width'),
    (f'{whole.batch_size} slices of a modality and step', 'batch_size'),
    (f'{whole.epochs} epochs of {each} steps', 'epochs'),
    (
      f'learning rate {whole.optimizer.learning_rate:g}',
      'optimizer.learning_rate',
    ),
  )
  lines += [f'  {text:<44} --config.{field}' for text, field in rows]
  lines.append(f'why these: {choice.why}')
  lines.append(
    f'a step took {choice.seconds:.2g} s: about {taken:.0f} minutes with'
    ' validation and test, preparing and compiling apart'
  )
  return '\n'.join(lines)


def _of_run(workdir: pathlib.Path, names: list[str]) -> dict[str, Any] | None:
  """The fields of the run that a workdir holds."""
  if not run_record.started(workdir):
    return None
  found = run_folder.RunFolder(workdir).read(run_folder.CONFIG)
  flat = traverse_util.flatten_dict(found, sep='.')
  return {name: flat[name] for name in names}


def settle(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike[str],
  timed: Callable[[ml_collections.ConfigDict], Measured] = measure,
) -> ml_collections.ConfigDict:
  """Fills in what `preset=auto` left open; a run that is resumed keeps its own.

  Args:
    config: as the command line has it.
    workdir: the run's folder.
    timed: times a step.

  Raises:
    ValueError: `minutes` where nothing is open, or what `train` refuses.
  """
  names = presets.left_open(config)
  if not names:
    if config.minutes:
      raise ValueError(
        f'minutes={config.minutes:g}: sizes are chosen by it with preset=auto'
        ' alone, behind the name of the config'
      )
    return config
  folder = pathlib.Path(workdir).absolute()
  kept = parallel.from_lead(lambda: _of_run(folder, names))
  if kept is None:
    out = _decide(config, timed)
  else:
    out = config.copy_and_resolve_references()
    out.update_from_flattened_dict(kept)
  # They stand for it from here on.
  out.minutes = 0.0
  return out
