"""How long the train loop waits for data, with the real input pipeline.

The loop is training's: the next step is handed to the device before the step
before is read. The scans are the built-in phantom, prepared like real ones and
kept where training keeps them.
"""

import copy
import pathlib
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from configs import heart
from data.task import HEART
from dbdc_jax import methods
from dbdc_jax.benchmarking.workload import PLAN, Workload
from dbdc_jax.runtime import parallel
from dbdc_jax.training import feed, input_pipeline, scans, step
from dbdc_jax.workdir import train_state

# Steps before the clock starts: compilation, and the queue's filling.
_WARMUP = 5


def config(workload: Workload) -> ml_collections.ConfigDict:
  """The heart phantom's config with a workload's sizes (at most 2 modalities).

  Slices have twice the patch's side, as in the paper's heart task.
  """
  config = heart.get_config(None)
  names = [m.name for m in HEART.modalities]
  config.modalities = ','.join(names[: workload.modalities])
  return workload.resize(config)


def _run(batches, step_fn, state, signals, steps):
  """Trains; returns seconds waited for batches, and seconds of the loop."""
  waited, pending = 0.0, None
  iterator = feed.Feed(batches, parallel.room() or 0).iterate(
    0, _WARMUP + steps
  )
  for i in range(_WARMUP + steps):
    if i == _WARMUP:
      jax.block_until_ready(state)
      waited, start = 0.0, time.perf_counter()
    asked = time.perf_counter()
    batch = next(iterator)
    waited += time.perf_counter() - asked
    state, metrics = step_fn(state, batch, signals, PLAN)
    if pending is not None:
      jax.device_get(pending)
    pending = metrics
  jax.block_until_ready(state)
  return waited, time.perf_counter() - start


def batches_of(
  problem: methods.Problem, method: methods.Method, folder: pathlib.Path
) -> tuple[input_pipeline.Batches, np.ndarray, int]:
  """The real input pipeline on the phantom.

  Args:
    problem: of a task that has a phantom; `config.data.cache` keeps it.
    method: that the batches are for.
    folder: where the split is written.

  Returns:
    The batches, `[K, C]` bool which classes are labelled, steps an epoch.
  """
  prepared = scans.load(problem)
  split = scans.choose_split(
    problem, prepared, folder, resume=False, transfer=method.traits.transfer
  )
  names = problem.names
  batches = feed.batches(problem, method, prepared, split)
  present = scans.present_classes(prepared, split, names, len(problem.classes))
  steps = scans.steps_per_epoch(
    prepared, split, names, problem.labelable, method.recipe.batch_size
  )
  return batches, present, steps


def _rate(iterate, steps, epochs) -> float:
  """Batches a second, each epoch asked for anew."""
  start = time.perf_counter()
  for epoch in range(epochs):
    for batch in iterate(epoch * steps, (epoch + 1) * steps):
      jax.block_until_ready(batch)
  return epochs * steps / (time.perf_counter() - start)


def rates(
  config: ml_collections.ConfigDict, folder: pathlib.Path, epochs: int = 5
) -> dict[str, float]:
  """Batches a second, with nothing that trains on them.

  Args:
    config: of a task that has a phantom.
    folder: where the split is written.
    epochs: so many, and one before the clock starts.

  Returns:
    Of batches that are looked up on the device ('device'), put together from
    the host's memory ('host') and decoded each time ('decoded').
  """
  method = methods.build(config)
  kept, _, steps = batches_of(methods.resolve(config), method, folder)
  limited = copy.deepcopy(config)
  limited.data.memory_limit_gib = 0.0
  decoded, _, _ = batches_of(methods.resolve(limited), method, folder)
  found = {}
  # The host first: samples that go to the device leave its memory.
  for name, batches, room in (
    ('host', kept, 0),
    ('device', kept, float('inf')),
    ('decoded', decoded, 0),
  ):
    iterate = feed.Feed(batches, room).iterate
    _rate(iterate, steps, 1)
    found[name] = _rate(iterate, steps, epochs)
  return found


def measure(
  config: ml_collections.ConfigDict, folder: pathlib.Path, steps: int
) -> dict[str, Any]:
  """Trains some steps on the phantom.

  Args:
    config: of a task that has a phantom; `config.data.cache` keeps it.
    folder: where the split is written.
    steps: timed steps.

  Returns:
    'waiting_share': seconds that the loop was blocked on the batch iterator
    over the loop's seconds, in [0, 1]; 'step_ms' of the loop; 'steps';
    'steps_per_epoch'; and 'batches_per_second', see `rates`.
  """
  method = methods.build(config)
  problem = methods.resolve(config)
  batches, present, steps_per_epoch = batches_of(problem, method, folder)
  signals = methods.full_signals(
    jax.numpy.asarray(present), jax.numpy.asarray(batches.consistent)
  )
  waited, total = _run(
    batches,
    step.make_step(method),
    train_state.init_state(method, problem),
    parallel.place(signals),
    steps,
  )
  return {
    'waiting_share': waited / total,
    'step_ms': 1e3 * total / steps,
    'steps': steps,
    'steps_per_epoch': steps_per_epoch,
    'batches_per_second': rates(config, folder),
  }
