"""The train loop: one for all methods.

`train_and_evaluate(config, workdir)` prepares the data, trains, tests the best
checkpoint and writes every output. A method that trains one network per
modality (`joint=False`) goes through the same loop once per modality.
"""

from collections.abc import Callable, Sequence
import copy
import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from data.prepared import Prepared, PreparedCase
from data.split import Split
from data.task import TASKS
from dbdc_jax import (
  banner,
  checkpoint,
  epoch_metrics,
  input_pipeline,
  losses,
  methods,
  optimizer,
  parallel,
  pictures,
  run_record,
  weighting,
)
from dbdc_jax.evaluation import inference, scoring
from dbdc_jax.metric_writer import MetricWriter, read_rows
from dbdc_jax.precision import compute_dtype
from dbdc_jax.step import TrainState, init_state, make_step, ramp


@dataclasses.dataclass
class _Run:
  """What one network's training needs; made once, passed around."""

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  prepared: Prepared
  split: Split
  modalities: tuple[str, ...]
  classes: tuple[str, ...]
  method: methods.Method
  batches: input_pipeline.Batches
  present: np.ndarray  # [K, C] bool
  tx: optax.GradientTransformation
  steps_per_epoch: int
  total_steps: int
  on_epoch: Callable[[dict[str, Any]], None] | None

  def cases(self, part: str) -> list[list[PreparedCase]]:
    """Cases of a part of the split, per modality."""
    return input_pipeline.select(
      self.prepared, self.split, self.modalities, part
    )


def _set_up(
  config, workdir, prepared, split, steps_per_epoch, on_epoch
) -> _Run:
  task = TASKS[config.task]
  modalities = tuple(m.name for m in task.select(config.modalities))
  method = methods.build(config, parallel.AXIS)
  batches = input_pipeline.Batches(
    prepared,
    split,
    modalities,
    batch_size=config.batch_size,
    seed=config.seed,
    memory_limit_gib=config.data.memory_limit_gib,
    use_unlabeled=method.unlabeled,
  )
  total_steps = steps_per_epoch * config.epochs
  present = input_pipeline.present_classes(
    prepared, split, modalities, len(task.classes)
  )
  return _Run(
    config=config,
    workdir=workdir,
    prepared=prepared,
    split=split,
    modalities=modalities,
    classes=task.classes,
    method=method,
    batches=batches,
    present=present,
    tx=optimizer.build(config, total_steps),
    steps_per_epoch=steps_per_epoch,
    total_steps=total_steps,
    on_epoch=on_epoch,
  )


def _signals(run: _Run, epoch: int, state: TrainState) -> methods.Signals:
  weights = jnp.ones(len(run.modalities))
  if run.config.weighting.enabled:
    weights = weighting.weights(state.weighting)
  return parallel.place(
    methods.Signals(
      weights=weights,
      ramp=jnp.float32(ramp(run.config, epoch)),
      active=jnp.asarray(epoch > run.config.dc.warmup_epochs),
      present=jnp.asarray(run.present),
      consistent=jnp.asarray(run.batches.consistent),
    )
  )


def _run_epoch(run, step_fn, state, epoch, writer):
  """Trains an epoch; returns the state and the epoch's mean metrics."""
  signals = _signals(run, epoch, state)
  first = int(state.step)
  last = epoch * run.steps_per_epoch
  collected: list[dict[str, Any]] = []
  kept_at = str(run.workdir / 'checkpoints')
  pending = None
  for offset, batch in enumerate(run.batches.iterate(first, last)):
    state, metrics = step_fn(state, parallel.shard(batch), signals)
    # Reading the step before keeps the device busy with this one.
    if pending is not None:
      collected.append(jax.device_get(pending))
      epoch_metrics.check_finite(
        collected[-1], first + offset, run.modalities, kept_at
      )
    pending = metrics
    writer.progress(first + offset + 1, f'epoch {epoch}/{run.config.epochs}')
  collected.append(jax.device_get(pending))
  epoch_metrics.check_finite(collected[-1], last, run.modalities, kept_at)
  row = epoch_metrics.epoch_row(
    collected, run.modalities, run.classes, run.present
  )
  weights = map(float, np.asarray(signals.weights))
  row['weight'] = dict(zip(run.modalities, weights, strict=True))
  row['ramp'] = float(signals.ramp)
  return state, row


def _end_of_epoch(run, state):
  """Feeds MAW with the epoch's training DSC and clears its counts."""
  dice = losses.pooled_dice(state.dice_counts, jnp.asarray(run.present))
  state = state._replace(
    dice_counts=jnp.zeros_like(state.dice_counts),
    weighting=weighting.update(state.weighting, dice),
  )
  return parallel.place(state), np.asarray(dice)


def _fit(run: _Run, state: TrainState, store, writer) -> None:
  """Trains to the last epoch."""
  config = run.config
  step_fn = make_step(run.method, run.tx, config.seed)
  done = int(state.step) // run.steps_per_epoch
  for epoch in range(done + 1, config.epochs + 1):
    started = time.monotonic()
    state, row = _run_epoch(run, step_fn, state, epoch, writer)
    seconds = time.monotonic() - started
    slices = run.steps_per_epoch * config.batch_size
    slices *= len(run.modalities) * (2 if run.batches.consistent.any() else 1)
    row['images_per_second'] = slices / seconds
    row['learning_rate'] = float(
      optimizer.schedule(config, run.total_steps)(int(state.step))
    )
    state, dice = _end_of_epoch(run, state)
    by_modality = lambda values: dict(
      zip(run.modalities, map(float, values), strict=True)
    )
    row['train_dice'] = by_modality(dice)
    last = epoch == config.epochs
    validated = None
    supervised_only = epoch <= min(config.dc.warmup_epochs, config.epochs - 1)
    if last or (not supervised_only and epoch % config.evaluation.every == 0):
      scores = inference.validation_dice(
        config,
        run.method.predict,
        state.params,
        state.memory,
        run.prepared,
        run.cases('validation'),
        len(run.classes),
      )
      validated = float(np.mean(scores))
      row['validation_dice'] = by_modality(scores)
      row['validation_dice_mean'] = validated
    row['seconds'] = time.monotonic() - started
    step = int(state.step)
    store.save(step, state, validated)
    writer.write(step, epoch, 'epoch', row)
    for warning in epoch_metrics.starved(row):
      writer.line(f'epoch {epoch}: {warning}')
    text = f'epoch {epoch}: loss {row["loss"]:.4f}, training DSC '
    text += ', '.join(
      f'{m} {100 * d:.1f}' for m, d in row['train_dice'].items()
    )
    if validated is not None:
      text += f', validation DSC {100 * validated:.1f} %'
    writer.line(text, step)
    if run.on_epoch:
      run.on_epoch({'epoch': epoch, **row})
  store.wait()


def _start_from(run: _Run, state: TrainState) -> TrainState:
  """The parameters and memory of another run's best checkpoint."""
  other = pathlib.Path(run.config.init_from)
  if not run.method.joint:
    other /= run.modalities[0]
  if not checkpoint.exists(other):
    raise ValueError(
      f'init_from={other}: no checkpoints there; give the workdir of a'
      ' finished run'
    )
  with checkpoint.Checkpoints(other) as store:
    step = store.best_step()
    if step is None:
      raise ValueError(f'init_from={other}: its checkpoints are empty')
    try:
      found = store.restore(step, state)
    except (ValueError, KeyError) as error:
      raise ValueError(
        f'init_from={other}: its network differs from this config (method,'
        ' modalities, classes or width); use the same as in its config.json'
      ) from error
  return state._replace(params=found.params, memory=found.memory)


def _train_one(run: _Run) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Trains (or resumes, or only tests) one network and tests its best.

  Returns:
    The test cases' scores, and facts about the run.
  """
  config, workdir = run.config, run.workdir
  workdir.mkdir(parents=True, exist_ok=True)
  state = init_state(
    run.method, run.tx, config, len(run.classes), len(run.modalities)
  )
  count = sum(x.size for x in jax.tree.leaves(state.params))
  print(_banner(run, count), flush=True)
  with checkpoint.Checkpoints(workdir) as store:
    latest = store.latest_step()
    if latest is not None:
      state = store.restore(latest, state)
    elif config.eval_only:
      raise ValueError(
        f'eval_only: {workdir} holds no checkpoint; train there first'
      )
    elif config.init_from:
      state = parallel.place(_start_from(run, state))
    if not config.eval_only and int(state.step) < run.total_steps:
      with MetricWriter(
        workdir, lead=parallel.is_lead(), total_steps=run.total_steps
      ) as writer:
        writer.resume(int(state.step))
        if int(state.step):
          writer.line(f'resuming after step {int(state.step)}')
        _fit(run, state, store, writer)
    best = store.best_step()
    # The donated state is gone: restore into fresh arrays.
    like = init_state(
      run.method, run.tx, config, len(run.classes), len(run.modalities)
    )
    state = store.restore(best, like)
  rows = [row for row in read_rows(workdir) if row['kind'] == 'epoch']
  pictures.progress(rows, workdir / 'progress.png', run.modalities)
  cases = inference.test_cases(
    config,
    run.method.predict,
    state.params,
    state.memory,
    run.prepared,
    run.cases('test'),
    run.classes,
    inference.overlay_writer(
      workdir / 'overlays',
      run.prepared,
      run.classes,
      config.evaluation.overlays,
    ),
  )
  facts = {
    'parameters': count,
    'best_step': best,
    'train_seconds': sum(row['seconds'] for row in rows),
    'steps': run.total_steps,
  }
  return cases, facts


def _banner(run: _Run, parameters: int) -> str:
  off = banner.switched_off(
    run.config, run.modalities, run.present, run.batches.consistent
  )
  return banner.text(
    run.config,
    run.prepared,
    run.split,
    devices=parallel.describe(),
    dtype=str(compute_dtype(run.config.dtype)),
    parameters=parameters,
    steps=run.total_steps,
    off=off,
    workdir=str(run.workdir),
  )


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str,
  on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
  """Prepares, trains and tests; the whole of a run.

  Calling it again on the same workdir resumes where it stands.

  Args:
    config: from a file in `configs/`.
    workdir: where everything is written.
    on_epoch: called with each epoch's metrics.

  Returns:
    The contents of `results.json`.

  Raises:
    data.prepare.BadScans: scans that cannot be used, all in one table.
    ValueError: settings that do not fit each other, the data or the workdir.
    NonFiniteLossError: the loss stopped being a number.
  """
  folder = pathlib.Path(workdir).absolute()
  # Everything that can be refused is refused before anything is written.
  task = TASKS[config.task]
  names = tuple(m.name for m in task.select(config.modalities))
  joint = methods.build(config).joint
  parallel.check_batch(config.batch_size)
  run_record.check_resumable(folder, config)
  folder.mkdir(parents=True, exist_ok=True)
  resume = run_record.started(folder)
  prepared, split = input_pipeline.load(config, folder, resume)
  if resume:
    run_record.check_data(folder, prepared.fingerprint)
  run_record.save(
    folder,
    config,
    devices=parallel.describe(),
    fingerprint=prepared.fingerprint,
    skipped=prepared.skipped,
  )
  parts: Sequence[tuple[str, ...]] = [names] if joint else [(n,) for n in names]
  # Over all modalities, also where each has a network of its own.
  steps = input_pipeline.steps_per_epoch(
    prepared, split, names, config.batch_size
  )
  cases, facts = [], {}
  for part in parts:
    part_config = copy.deepcopy(config)
    part_config.modalities = ','.join(part)
    part_folder = folder if joint else folder / part[0]
    run = _set_up(part_config, part_folder, prepared, split, steps, on_epoch)
    scores, facts[','.join(part)] = _train_one(run)
    cases += scores
  info = {
    'method': config.method,
    'task': config.task,
    'seed': config.seed,
    'split_seed': config.data.split_seed,
    # A split that was given says itself who is labelled.
    'labeled_fraction': None if config.data.split else config.labeled_fraction,
    'labeled_scans': {name: len(split[name]['labeled']) for name in names},
    'epochs': config.epochs,
    'devices': parallel.describe(),
    'networks': facts,
  }
  results = scoring.summarize(cases, task.classes, names, info)
  scoring.write_results(results, folder)
  print(scoring.table(results), flush=True)
  return results
