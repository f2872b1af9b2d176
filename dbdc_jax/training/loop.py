"""The epochs of a run: the one train loop of all methods."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from data.cache.prepared import Prepared, PreparedCase
from data.split import Split
from dbdc_jax import methods
from dbdc_jax.inference import prepared_cases, sliding_window
from dbdc_jax.ops import losses, optimizer, weighting
from dbdc_jax.runtime import parallel
from dbdc_jax.training import epoch_metrics, feed, scans, validation
from dbdc_jax.training.step import Plan, make_step, ramp
from dbdc_jax.workdir import checkpoint
from dbdc_jax.workdir.metric_writer import MetricWriter
from dbdc_jax.workdir.train_state import TrainState


@dataclasses.dataclass
class TrainingRun:
  """What one network's training needs; made once, passed around.

  Attributes:
    problem: that the network solves.
    workdir: its folder.
    prepared: the prepared data.
    split: who is where.
    method: what is trained.
    added: modalities whose bank rows alone are trained; none: everything is.
    steps_per_epoch: the same for all networks of a run.
    on_epoch: called with each epoch's metrics.
    feed: its batches.
    validation: its validation scans.
    labeled: its labelled training scans, to be segmented.
    present: `[K, C]` bool, see `scans.present_classes`.
    prototyped: the same or None, see `scans.prototyped_classes`.
    trained: `[K]` bool, see `step.step_function`.
  """

  problem: methods.Problem
  workdir: pathlib.Path
  prepared: Prepared
  split: Split
  method: methods.Method
  added: Sequence[str]
  steps_per_epoch: int
  on_epoch: Callable[[dict[str, Any]], None] | None

  def __post_init__(self):
    """Decodes what fits into memory."""
    names, data = self.modalities, (self.prepared, self.split)
    batches = feed.batches(self.problem, self.method, *data)
    self.feed = feed.Feed(batches, parallel.room() or 0)
    # What has gone to the devices is no longer counted.
    limit = self.config.data.memory_limit_gib * 2**30 - batches.samples.nbytes
    self.validation = validation.Validation(
      self.prepared, self.cases('validation'), limit
    )
    # Decoded each time: MAW's code reading is the one use of them.
    self.labeled = validation.Validation(
      self.prepared, self.cases('labeled'), 0
    )
    self.present = scans.present_classes(*data, names, len(self.classes))
    self.prototyped = scans.prototyped_classes(
      self.present, *data, self.problem
    )
    self.trained = np.isin(names, self.added) if self.added else None

  @property
  def config(self) -> ml_collections.FrozenConfigDict:
    """Of the problem."""
    return self.problem.config

  @property
  def modalities(self) -> tuple[str, ...]:
    """Names, in bank order."""
    return self.problem.names

  @property
  def classes(self) -> tuple[str, ...]:
    """Names, background first."""
    return self.problem.classes

  @property
  def total_steps(self) -> int:
    """Of all epochs."""
    return self.steps_per_epoch * self.config.epochs

  @property
  def selected(self) -> list[int]:
    """Modalities whose validation scans choose the checkpoint."""
    transfer = self.method.traits.transfer
    if transfer is None:
      return list(range(len(self.modalities)))
    return [self.modalities.index(transfer.selected_on)]

  def cases(self, part: str) -> list[list[PreparedCase]]:
    """Cases of a part of the split, per modality."""
    return scans.select(self.prepared, self.split, self.modalities, part)

  def scans(
    self, state: TrainState, method: methods.Method | None = None
  ) -> prepared_cases.Scans:
    """What segments scans with a state's network.

    Args:
      state: whose network.
      method: the run's in another form; None: the run's.
    """
    return prepared_cases.Scans(
      self.problem,
      method or self.method,
      state.params,
      state.memory,
      self.prepared,
      self.cases('labeled'),
    )


def _weighted(run: TrainingRun) -> bool:
  """Whether MAW weighs the modalities."""
  return run.config.weighting.enabled and run.method.traits.weighted


def _signals(
  run: TrainingRun, epoch: int, state: TrainState
) -> methods.Signals:
  weights = jnp.ones(len(run.modalities))
  if _weighted(run):
    smoothing = run.config.weighting.smoothing
    weights = weighting.weights(state.weighting, smoothing)
  return parallel.place(
    methods.Signals(
      weights=weights,
      ramp=jnp.float32(ramp(run.config, epoch)),
      active=jnp.asarray(epoch > run.config.dc.warmup_epochs),
      present=jnp.asarray(run.present),
      consistent=jnp.asarray(run.feed.consistent),
      progress=jnp.float32(epoch / run.config.epochs),
      reading=methods.reading(run.config, epoch),
      prototyped=jax.tree.map(jnp.asarray, run.prototyped),
    )
  )


def _plan(run: TrainingRun, finished: int) -> Plan:
  first, power = run.method.recipe.learning_rate, run.config.optimizer.power
  left = optimizer.share_left(finished, run.total_steps)
  rate = optimizer.learning_rate(first, left, power)
  return Plan(
    seed=np.int32(run.config.seed),
    learning_rate=np.float32(rate),
    left=np.float32(left),
  )


def _run_epoch(run, step_fn, state, epoch, writer):
  """Trains an epoch; returns the state and the epoch's mean metrics."""
  signals = _signals(run, epoch, state)
  first = int(state.step)
  last = epoch * run.steps_per_epoch
  collected: list[dict[str, Any]] = []

  def start(given):
    nonlocal state
    number, batch = given
    state, metrics = step_fn(state, batch, signals, _plan(run, number))
    return metrics

  batches = enumerate(run.feed.iterate(first, last), first)
  # A step is read while the device is busy with the next.
  running = sliding_window.ahead(start, batches)
  for step, metrics in enumerate(running, first + 1):
    collected.append(jax.device_get(metrics))
    epoch_metrics.check_finite(
      collected[-1], step, run.modalities, str(run.workdir / 'checkpoints')
    )
    writer.progress(step, f'epoch {epoch}/{run.config.epochs}')
  row = epoch_metrics.epoch_row(
    collected, run.modalities, run.classes, run.present
  )
  row['weight'] = epoch_metrics.named(
    run.modalities, np.asarray(signals.weights)
  )
  row['ramp'] = float(signals.ramp)
  return state, row


def _end_of_epoch(run, state):
  """Feeds MAW with the epoch's training DSC and clears its counts.

  Returns:
    The state, the DSC of the epoch's batches, and what MAW was fed with
    instead, or None.
  """
  dice = losses.pooled_dice(state.dice_counts, jnp.asarray(run.present))
  watched, fed = None, dice
  if _weighted(run) and run.config.weighting.reading == 'code':
    watched = run.labeled.dice(run.scans(state))
    fed = jnp.asarray(watched, jnp.float32)
  cleared = jnp.zeros_like(state.dice_counts)
  followed = weighting.update(state.weighting, fed)
  cleared, followed = parallel.place((cleared, followed))
  state = state._replace(dice_counts=cleared, weighting=followed)
  return state, np.asarray(dice), watched


def fit(
  run: TrainingRun,
  state: TrainState,
  store: checkpoint.Checkpoints,
  writer: MetricWriter,
) -> None:
  """Trains to the last epoch, with a checkpoint after each.

  Args:
    run: what is trained on what.
    state: of the step to go on from; its memory is used up.
    store: where checkpoints go.
    writer: where metrics go.

  Raises:
    NonFiniteLossError: the loss stopped being a number.
    OSError: the disk is full.
  """
  config = run.config
  step_fn = make_step(run.method, run.trained)
  done = int(state.step) // run.steps_per_epoch
  # An epoch's clock runs from the end of the one before: validation counts, and
  # handing a checkpoint over.
  ended = time.monotonic()
  for epoch in range(done + 1, config.epochs + 1):
    started = time.monotonic()
    state, row = _run_epoch(run, step_fn, state, epoch, writer)
    seconds = time.monotonic() - started
    slices = run.steps_per_epoch * run.method.recipe.batch_size
    slices *= run.method.traits.volumes or 1
    slices *= len(run.modalities) * (2 if run.feed.consistent.any() else 1)
    row['images_per_second'] = slices / seconds
    row['learning_rate'] = float(_plan(run, int(state.step)).learning_rate)
    state, dice, watched = _end_of_epoch(run, state)
    row['train_dice'] = epoch_metrics.named(run.modalities, dice)
    if watched is not None:
      row['watched_dice'] = epoch_metrics.named(run.modalities, watched)
    last = epoch == config.epochs
    validated, beside = None, ''
    supervised_only = epoch <= min(config.dc.warmup_epochs, config.epochs - 1)
    if last or (not supervised_only and epoch % config.evaluation.every == 0):
      scores = run.validation.dice(run.scans(state))
      validated = float(np.mean(scores[run.selected]))
      row['validation_dice'] = epoch_metrics.named(run.modalities, scores)
      row['validation_dice_mean'] = validated
      if run.method.second:
        other = run.method._replace(predict=run.method.second)
        scores = run.validation.dice(run.scans(state, other))
        row['validation2_dice'] = epoch_metrics.named(run.modalities, scores)
        beside = f' (second network {100 * np.mean(scores):.1f} %)'
    started, ended = ended, time.monotonic()
    row['seconds'] = ended - started
    row['share_outside_steps'] = 1 - seconds / row['seconds']
    step = int(state.step)
    # In this order: a checkpoint is there only if its row is.
    writer.write(step, epoch, 'epoch', row)
    store.save(step, state, validated)
    for warning in epoch_metrics.starved(row):
      writer.line(f'epoch {epoch}: {warning}')
    text = f'epoch {epoch}: loss {row["loss"]:.4f}, training DSC '
    # The target of a transfer has no labels to be compared with.
    text += ', '.join(
      f'{m} {100 * d:.1f}'
      for m, d, present in zip(run.modalities, dice, run.present, strict=True)
      if present[1:].any()
    )
    if validated is not None:
      text += f', validation DSC {100 * validated:.1f} %{beside}'
    writer.line(text, step)
    if run.on_epoch:
      run.on_epoch({'epoch': epoch, **row})
  store.wait()
