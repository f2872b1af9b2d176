"""Our plain U-Net beside PyTorch's on the CPU: time per step and per pass.

  python benchmarks/compare_torch.py --width 32 --patch 128 --batch 4

Both have the same layers and the same weights (their outputs and losses are
compared first), the same input, the same loss (cross entropy + Dice), Adam, and
the same number of threads and the same settings of the C library's memory;
PyTorch keeps channels last, as we do. Steps of both take
turns in one process, and ratios are of medians: other work on the machine slows
both. With one thread (NPROC=1 taskset -c 0) the processor's time tells
the same and does not count that work. Needs benchmarks/requirements.txt beside
requirements.txt.
"""

import argparse
from collections.abc import Callable, Sequence
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

# `python benchmarks/compare_torch.py` puts this folder first, not the project.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch_unet

from dbdc_jax.benchmarking import tables
from dbdc_jax.models.unet import UNet
from dbdc_jax.ops import losses
from dbdc_jax.runtime import memory

# Largest difference of logits and losses (relative) that counts as equal.
TOLERANCE = 1e-4
_LEARNING_RATE = 1e-4
# PyTorch's threads spin for a while after their work: let them come to rest.
_REST_SECONDS = 0.02


class Ours:
  """The Flax network, its train step and its forward pass."""

  def __init__(self, num_classes: int, width: int, images, labels):
    self._net = UNet(num_classes, 1, width=width, grouped=True)
    self._images, self._labels = jnp.asarray(images), jnp.asarray(labels)
    self._ids = jnp.zeros(len(images), jnp.int32)
    variables = jax.jit(self._net.init, static_argnums=3)(
      jax.random.key(0), self._images[:1], self._ids[:1], False
    )
    self.params = jax.device_get(variables['params'])
    tx = optax.adam(_LEARNING_RATE)
    self._state = (
      variables['params'],
      variables['modulation'],
      tx.init(variables['params']),
    )
    present = jnp.ones((1, num_classes), bool)

    def loss(params, memory, images, labels):
      logits, new = self._net.apply(
        {'params': params, 'modulation': memory},
        images,
        self._ids,
        True,
        mutable=['modulation'],
      )
      value = losses.cross_entropy(logits[None], labels[None])
      value += losses.dice(logits[None], labels[None], present)
      return value[0], new['modulation']

    def step(state, images, labels):
      params, memory, opt_state = state
      (value, memory), gradients = jax.value_and_grad(loss, has_aux=True)(
        params, memory, images, labels
      )
      updates, opt_state = tx.update(gradients, opt_state)
      params = optax.apply_updates(params, updates)
      return (params, memory, opt_state), value

    self._step = jax.jit(step, donate_argnums=0)
    self._forward = jax.jit(
      lambda params, memory, images: self._net.apply(
        {'params': params, 'modulation': memory}, images, self._ids, False
      )
    )

  def train(self) -> float:
    """One step; returns its loss."""
    self._state, loss = self._step(self._state, self._images, self._labels)
    return float(loss)

  def forward(self) -> np.ndarray:
    """Logits `[N, H, W, C]` with evaluation statistics."""
    params, memory, _ = self._state
    return np.asarray(self._forward(params, memory, self._images))


class Theirs:
  """The PyTorch network, its train step and its forward pass."""

  def __init__(self, num_classes: int, width: int, images, labels, params):
    net = torch_unet.UNet(num_classes, width)
    torch_unet.copy_weights(net, params)
    self.net = net.to(memory_format=torch.channels_last)
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    self._images = images.to(memory_format=torch.channels_last)
    self._labels = torch.from_numpy(labels.astype(np.int64))
    self._tx = torch.optim.Adam(net.parameters(), _LEARNING_RATE)

  def train(self) -> float:
    """One step; returns its loss."""
    self.net.train()
    self._tx.zero_grad(set_to_none=True)
    loss = torch_unet.loss(self.net(self._images), self._labels)
    loss.backward()
    self._tx.step()
    return loss.item()

  def forward(self) -> np.ndarray:
    """Logits `[N, H, W, C]` with evaluation statistics."""
    self.net.eval()
    with torch.inference_mode():
      return self.net(self._images).permute(0, 2, 3, 1).numpy()


def check_equal(ours: Ours, theirs: Theirs) -> dict[str, float]:
  """Compares size, outputs, and the losses of two steps.

  Raises:
    ValueError: if the networks are not the same.
  """
  size = sum(x.size for x in jax.tree.leaves(ours.params))
  their_size = sum(p.numel() for p in theirs.net.parameters())
  a, b = ours.forward(), theirs.forward()
  gaps = {'logits': float(np.abs(a - b).max() / np.abs(b).max())}
  for i in range(2):
    x, y = ours.train(), theirs.train()
    gaps[f'loss of step {i + 1}'] = abs(x - y) / abs(y)
  if size != their_size or max(gaps.values()) > TOLERANCE:
    raise ValueError(
      f'not the same network: {size} and {their_size} parameters, relative'
      f' differences {gaps}'
    )
  return {'parameters': size, **gaps}


def measure(
  calls: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, np.ndarray]:
  """Times calls that take turns.

  Returns:
    name -> `[rounds, 2]` seconds: on the clock, and of the processor.
  """
  clocks = (time.perf_counter, time.process_time)
  seconds = {name: np.zeros((rounds, 2)) for name in calls}
  for i in range(-1, rounds):
    for name, call in calls.items():
      time.sleep(_REST_SECONDS)
      start = np.array([clock() for clock in clocks])
      call()
      if i >= 0:
        seconds[name][i] = [clock() for clock in clocks] - start
  return seconds


def _table(found: dict[str, dict[str, float]]) -> str:
  lines = [f'{"":28s}{"ours ms":>10s}{"PyTorch ms":>12s}{"ratio":>8s}']
  for name, row in found.items():
    lines.append(
      f'{name:28s}{row["ours_ms"]:10.1f}{row["torch_ms"]:12.1f}'
      f'{row["ratio"]:8.2f}'
    )
  return '\n'.join(lines)


def compare(flags: argparse.Namespace) -> dict[str, Any]:
  """Measures both; returns all numbers."""
  rng = np.random.default_rng(0)
  shape = (flags.batch, flags.patch, flags.patch)
  images = rng.random((*shape, 1), np.float32)
  labels = rng.integers(0, flags.classes, shape, np.int32)
  ours = Ours(flags.classes, flags.width, images, labels)
  theirs = Theirs(flags.classes, flags.width, images, labels, ours.params)
  equal = check_equal(ours, theirs)
  print(', '.join(f'{k} {v:.3g}' for k, v in equal.items()))
  rows = {}
  for name, title in (('train', 'train step'), ('forward', 'forward pass')):
    calls = {'ours': getattr(ours, name), 'torch': getattr(theirs, name)}
    seconds = measure(calls, flags.rounds)
    a, b = (1e3 * np.median(seconds[key], 0) for key in calls)
    for i, clock in enumerate(('', ', processor time')):
      rows[title + clock] = {
        'ours_ms': float(a[i]),
        'torch_ms': float(b[i]),
        'ratio': float(a[i] / b[i]),
      }
  if flags.profile:
    rows |= profile(ours, theirs, flags.rounds)
  return {'equal': equal, 'rows': rows}


def _family(name: str) -> str:
  """What an operation of either does; XLA convolves in its `ynn` fusions."""
  if 'conv' in name or name.startswith('ynn'):
    return 'convolutions'
  if 'copy' in name or 'transpose' in name or name == 'aten::cat':
    return 'copies, transposes'
  return 'rest'


def _traced(ours: Ours, steps: int) -> dict[str, float]:
  """XLA's operations in some steps: family -> milliseconds a step."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(steps):
        ours.train()
    (file,) = pathlib.Path(folder).rglob('*.xplane.pb')
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    lines = [line for plane in planes for line in plane.lines]
    events = [
      (event.name.split('.')[0], event.duration_ns)
      for line in lines
      if 'XLAEigen' in line.name
      for event in line.events
    ]
  found = dict.fromkeys(('convolutions', 'copies, transposes', 'rest'), 0.0)
  for name, duration in events:
    # What only hands out operations or waits for them has two colons.
    if '::' not in name and not name.startswith('end'):
      found[_family(name)] += duration / 1e6 / steps
  return found


def profile(ours: Ours, theirs: Theirs, steps: int) -> dict[str, Any]:
  """Where the time of a train step goes, in both.

  To be compared with one thread: PyTorch counts the calling one alone.

  Returns:
    family of operations -> 'ours_ms', 'torch_ms', 'ratio'.
  """
  mine = _traced(ours, steps)
  activities = [torch.profiler.ProfilerActivity.CPU]
  with torch.profiler.profile(activities=activities) as trace:
    for _ in range(steps):
      theirs.train()
  other = dict.fromkeys(mine, 0.0)
  for event in trace.key_averages():
    other[_family(event.key)] += event.self_cpu_time_total / 1e3 / steps
  return {
    f'in a step: {name}': {
      'ours_ms': mine[name],
      'torch_ms': other[name],
      'ratio': mine[name] / other[name],
    }
    for name in mine
  }


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--width', type=int, default=32)
  parser.add_argument('--patch', type=int, default=128)
  parser.add_argument('--batch', type=int, default=4)
  parser.add_argument('--classes', type=int, default=8)
  parser.add_argument('--rounds', type=int, default=15)
  parser.add_argument(
    '--profile', action='store_true', help='also where a step spends its time'
  )
  parser.add_argument('--json', metavar='FILE', help='all numbers, as a file')
  flags = parser.parse_args(argv)
  threads = int(os.environ.get('NPROC', len(os.sched_getaffinity(0))))
  torch.set_num_threads(threads)
  kept = memory.keep()
  print(
    f'jax {jax.__version__}, torch {torch.__version__}, {threads} threads,'
    f' memory kept: {kept}'
  )
  found = compare(flags)
  print(_table(found['rows']))
  if flags.json:
    tables.write_json({**vars(flags), 'threads': threads, **found}, flags.json)
  return 0


if __name__ == '__main__':
  sys.exit(main())
