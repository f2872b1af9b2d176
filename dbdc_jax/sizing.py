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
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import ml_collections
import numpy as np

from configs import presets
from dbdc_jax import methods
from dbdc_jax.benchmarking import steps, timing, workload
from dbdc_jax.runtime import parallel
from dbdc_jax.training import scans
from dbdc_jax.workdir import run_folder, run_record

# Fewer steps do not teach what finer slices show.
_ENOUGH_STEPS = 1500
# Without a limit: the paper's epochs, of few scans more.
_EPOCHS, _LEAST_STEPS = 100, 4000
# On a CPU, where nothing is said.
_USUAL_MINUTES = 60.0
# Validation, checkpoints and the test, as a share of the steps' time.
_BESIDE = 0.15
_TIMED = 3
# Of the device's memory; the rest is for scans and what fragments.
_SHARE_OF_MEMORY = 0.8


class Sizes(NamedTuple):
  """What costs time and memory.

  Attributes:
    slice_size: side of the slices, in pixels.
    patch: side of the training crops, in pixels.
    width: channels of the first convolution.
    batch: labelled slices of a modality and step.
    rate: the first learning rate that goes with them.
  """

  slice_size: int
  patch: int
  width: int
  batch: int
  rate: float

  @property
  def work(self) -> int:
    """What a step's time is about in proportion to."""
    return self.batch * (self.patch * self.width) ** 2


# The paper's last.
LADDER = (
  Sizes(40, 32, 6, 2, 3e-3),
  Sizes(64, 48, 8, 4, 2e-3),
  Sizes(96, 64, 12, 4, 1.5e-3),
  Sizes(128, 80, 16, 8, 1e-3),
  Sizes(192, 96, 24, 8, 5e-4),
  Sizes(256, 128, 32, 8, 2e-4),
)


class Measured(NamedTuple):
  """A step, as timed.

  Attributes:
    seconds: that it takes.
    fits: whether the device's memory holds it.
  """

  seconds: float
  fits: bool


class Choice(NamedTuple):
  """What was chosen.

  Attributes:
    sizes: of the ladder, no finer than the scans.
    steps: that the time is enough for, of each network; None: no limit.
    seconds: a step's.
    why: no larger sizes were.
  """

  sizes: Sizes
  steps: int | None
  seconds: float
  why: str


def ladder(native: int) -> list[Sizes]:
  """The sizes that scans of so many pixels a side can make use of.

  Args:
    native: the longer side of their slices, see `Task.slice_size`.
  """
  found = [sizes for sizes in LADDER if sizes.slice_size < native]
  top = LADDER[len(found)] if len(found) < len(LADDER) else LADDER[-1]
  side = min(native, top.slice_size) // 8 * 8
  last = top._replace(slice_size=side, patch=min(top.patch, side))
  return [*found, last] if found[-1:] != [last] else found


def choose(
  rungs: list[Sizes],
  measure: Callable[[Sizes], Measured],
  seconds: float | None,
  first: int,
) -> Choice:
  """The largest sizes that fit the memory and the time.

  Args:
    rungs: the sizes in question, smallest first.
    measure: times a step; each call compiles one.
    seconds: that all steps of a network may take; None: any.
    first: the rung that is measured first.

  Raises:
    ValueError: none fits the memory.
  """
  found: dict[int, Measured] = {}

  def fits(index: int) -> bool:
    if index not in found:
      found[index] = measure(rungs[index])
    enough = seconds is None or (
      seconds >= _ENOUGH_STEPS * found[index].seconds
    )
    return found[index].fits and enough

  at = first
  if fits(at):
    # How far up, by what larger steps would take; then as they do take.
    each = found[at].seconds / rungs[at].work
    above = range(at + 1, len(rungs))
    hopeful = [
      i
      for i in above
      if seconds is None or seconds >= _ENOUGH_STEPS * each * rungs[i].work
    ]
    at = next((i for i in reversed(hopeful) if fits(i)), at)
  else:
    at = next((i for i in reversed(range(at)) if fits(i)), 0)
    if at not in found:
      found[at] = measure(rungs[at])
  if not found[at].fits:
    raise ValueError(
      'no step fits the memory of the device, not of slices of'
      f' {rungs[at].slice_size} pixels: is another program using it?'
    )
  each = found[at].seconds
  steps_ = None if seconds is None else max(1, int(seconds / each))
  return Choice(rungs[at], steps_, each, _why(rungs, at, found, seconds))


def _why(
  rungs: list[Sizes],
  at: int,
  found: dict[int, Measured],
  seconds: float | None,
) -> str:
  """Why a rung was chosen and not the next one."""
  each = found[at].seconds
  if seconds is not None and seconds < _ENOUGH_STEPS * each:
    minutes = _ENOUGH_STEPS * each / 60
    return (
      f'the smallest sizes, and yet {int(seconds / each):,} steps of'
      f' {_ENOUGH_STEPS:,} that learning takes: give {math.ceil(minutes)}'
      ' minutes or more'
    )
  if at == len(rungs) - 1:
    return 'the scans show no more, or the paper has no larger sizes'
  above, known = rungs[at + 1], found.get(at + 1)
  larger = f'slices of {above.slice_size} pixels, width {above.width},'
  if seconds is None or (known and not known.fits):
    return f"{larger} do not fit the device's memory"
  would = known.seconds if known else each * above.work / rungs[at].work
  return (
    f'{larger} would leave time for {int(seconds / would):,} steps;'
    f' {_ENOUGH_STEPS:,} are wanted'
  )


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
  rungs = ladder(methods.resolve(config).task.slice_size)
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
  choice = choose(rungs, of, seconds, min(begin, len(rungs) - 1))
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
