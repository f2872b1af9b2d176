"""Parts `loop` and `train`, and the phantom they use."""

import argparse
import itertools
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import ml_collections

from benchmarks.gpu import plan, workspace
from configs import heart
from dbdc_jax import methods
from dbdc_jax.benchmarking import waiting
from dbdc_jax.training import scans
from dbdc_jax.workdir.metric_writer import read_rows

RUN = 'run'
_DATA = 'data.json'
# What the command needs beside its steps: import, test, the export behind.
_AROUND_SECONDS = 75
_MOST_SECONDS = 110
# Seconds of an epoch for validation and checkpoint: a guess.
_EPOCH_SECONDS = 1.5
_MOST_EPOCHS = 100


def tiny_flags() -> list[str]:
  """The smallest run on the phantom."""
  return [
    '--config=configs/heart.py:preset=tiny',
    '--config.phantom.size=tiny',
    '--config.phantom.subjects=5',
  ]


def command(workdir: pathlib.Path, *flags: str) -> list[str]:
  """The train command."""
  return [
    sys.executable,
    '-m',
    'dbdc_jax.main',
    f'--workdir={workdir}',
    *flags,
    f'--config.data.cache={workspace.work() / "cache"}',
  ]


def _config(tiny: bool) -> ml_collections.ConfigDict:
  """The run's config, as part `train` has it."""
  config = heart.get_config('preset=tiny' if tiny else 'preset=paper')
  config.data.cache = str(workspace.work() / 'cache')
  if tiny:
    config.phantom.size, config.phantom.subjects = 'tiny', 5
    config.dtype = 'float32'
  return config


def prepare(flags: argparse.Namespace) -> None:
  """Draws and prepares the phantom; a process of its own."""
  start = time.time()
  prepared = scans.load(methods.resolve(_config(flags.tiny)))
  found = {
    'phantom_and_prepared_seconds': round(time.time() - start, 1),
    'slices': {
      name: part['slices']
      for name, part in prepared.fingerprint.items()
      if name != 'hash'
    },
    'done': True,
  }
  workspace.write(workspace.work() / _DATA, found)


def _wait_for_data(seconds: float) -> dict[str, Any]:
  """What `prepare` says, once it is done."""
  end = time.time() + seconds
  while time.time() < end:
    found = workspace.read(workspace.work() / _DATA, {})
    if found.get('done'):
      return found
    time.sleep(0.5)
  raise RuntimeError('the phantom is not there yet')


def measure_loop(context: plan.Context, name: str, found: plan.Found) -> None:
  """The input pipeline alone, and the real loop's share of waiting."""
  del name
  found['data'] = _wait_for_data(40 * context.flags.slow)
  found['lines'] = []
  # The very program of the training run: compiled once for both.
  config = _config(context.tiny)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    loop = waiting.measure(config, folder, 20 if context.tiny else 300)
  found['loop'] = loop
  found['lines'].append(
    f'real loop: {loop["step_ms"]:.2f} ms a step, waits for data'
    f' {100 * loop["waiting_share"]:.1f} %'
  )
  rates = loop['batches_per_second'].items()
  found['lines'] += [
    f'{rate:.0f} batches/s from {name}' for name, rate in rates
  ]


def _epochs(context: plan.Context) -> int:
  """As many as fit."""
  if context.tiny:
    return 1
  loop = context.part('loop')
  step = workspace.dig(loop, 'loop', 'step_ms')
  step = step or context.part('dbdc_heart_bf16').get('piped_ms') or 30.0
  steps = workspace.dig(loop, 'loop', 'steps_per_epoch') or 43
  seconds = _EPOCH_SECONDS + steps * step / 1e3
  room = min(context.left() - _AROUND_SECONDS, _MOST_SECONDS)
  return max(6, min(_MOST_EPOCHS, int(room / seconds)))


def _flags(epochs: int, tiny: bool) -> list[str]:
  """Of the train command."""
  flags = ['--config=configs/heart.py:preset=paper']
  if tiny:
    flags = [*tiny_flags(), '--config.dtype=float32']
  # Few epochs: every one of them counts, and the ramp keeps its form.
  flags += [
    f'--config.epochs={epochs}',
    f'--config.dc.warmup_epochs={min(4, max(1, epochs // 10))}',
    f'--config.evaluation.every={1 if epochs < 20 else 5}',
  ]
  if epochs < 60:
    flags.append('--config.optimizer.learning_rate=0.0003')
  return flags


def _wait(process: subprocess.Popen, seconds: float) -> int | str:
  """The exit code; a run that takes longer is told to stop."""
  try:
    return process.wait(seconds)
  except subprocess.TimeoutExpired:
    process.terminate()  # It ends in order, in 8 seconds at most.
    try:
      process.wait(10)
    except subprocess.TimeoutExpired:
      process.kill()
    return 'stopped: no time left'


def _rates(rows: list[dict[str, Any]], epochs: int, found) -> None:
  """What the epochs' rows say of speed."""
  late = rows[1:] or rows
  found['images_per_second'] = statistics.median(
    row['images_per_second'] for row in late
  )
  found['epoch_seconds'] = statistics.median(row['seconds'] for row in late)
  found['epochs_done'] = len(rows)
  found['share_outside_steps'] = statistics.median(
    row['share_outside_steps'] for row in late
  )
  found['last_row'] = rows[-1]
  times = [row['time'] for row in late if 'time' in row]
  between = [b - a for a, b in itertools.pairwise(times)]
  said = ''
  if between:
    found['seconds_between_rows'] = statistics.median(between)
    said = f', row to row {found["seconds_between_rows"]:.2f} s'
  found['lines'].append(
    f'{len(rows)} of {epochs} epochs, {found["seconds"]:.0f} s in all,'
    f' {found["images_per_second"]:.0f} images/s in the steps, median epoch'
    f' {found["epoch_seconds"]:.2f} s{said},'
    f' {100 * found["share_outside_steps"]:.1f} % of it outside of the steps'
  )


def train(context: plan.Context, name: str, found: plan.Found) -> None:
  """`main` at the paper's settings on the phantom, as long as there is time."""
  del name
  facts = _wait_for_data(30 * context.flags.slow)
  epochs, workdir = _epochs(context), workspace.work() / RUN
  shutil.rmtree(workdir, ignore_errors=True)  # Of an earlier call, with --keep.
  typed = command(workdir, *_flags(epochs, context.tiny))
  found.update(command=' '.join(typed), epochs=epochs, data=facts, lines=[])
  found.save()
  start = time.time()
  # In the worker's process group: what ends the worker ends it too.
  process = subprocess.Popen(
    typed, cwd=workspace.ROOT, env=workspace.environment()
  )
  found['exit_code'] = _wait(process, max(20, context.left() - 30))
  found['seconds'] = time.time() - start
  if found['exit_code'] not in (0, 'stopped: no time left'):
    found['state'] = f'failed: exit code {found["exit_code"]}'
  out = pathlib.Path(context.flags.out)
  for file in ('metrics.jsonl', 'results.json'):
    if (workdir / file).exists():
      shutil.copyfile(workdir / file, out / f'train_{file}')
  rows = [row for row in read_rows(workdir) if row.get('kind') == 'epoch']
  if rows:
    _rates(rows, epochs, found)
  results = workspace.read(workdir / 'results.json')
  if results:
    found['mean'] = results.get('mean')
    found['by_modality'] = {
      m: row.get('mean', {}) for m, row in results['modalities'].items()
    }
    found['lines'].append(f'test: {json.dumps(found["mean"])[:400]}')
