"""All that `python -m dbdc_jax.benchmark` measures, one after another."""

import argparse
import dataclasses
import os
import pathlib
import platform
import tempfile
from typing import Any

import jax

from data.files import command
from data.task import TASKS
from dbdc_jax import methods
from dbdc_jax.benchmarking import (
  ahead_of_time,
  collectives,
  prediction,
  recognising,
  scores,
  steps,
  tables,
  waiting,
)
from dbdc_jax.benchmarking.choices import COMPARE_LIMIT
from dbdc_jax.benchmarking.workload import (
  Workload,
  modality_counts,
  use_virtual_devices,
)
from dbdc_jax.evaluation import case_pool
from dbdc_jax.models import counting
from dbdc_jax.models.projector import Projector
from dbdc_jax.models.unet import UNet
from dbdc_jax.runtime import memory, parallel

_TASKS = (('heart', 8, 96), ('abdomen', 5, 128))
# Flags that run something; --count only counts.
_MEASURED = (
  'steps',
  'parts',
  'waiting',
  'collectives',
  'compare',
  'metrics',
  'predict',
  'recognition',
  'compile_for',
)


def count_table(width: int = 32) -> str:
  """Parameters and multiply-accumulates as a table for the terminal."""
  lines = [
    f'{"task":10s}{"patch":>6s}{"network":>28s}{"K":>3s}{"parameters":>12s}'
    f'{"GMAC, paper":>13s}{"GMAC, here":>12s}'
  ]
  for task, classes, patch in _TASKS:
    rows: list[tuple[str, UNet, Projector | None]] = [
      ('plain U-Net', UNet(classes, 1, width), None)
    ]
    for modalities in (1, 2, 4):
      net = UNet(classes, modalities, width, extra_head=True)
      rows.append(('with modulation bank', net, None))
      rows.append(('with both banks', net, Projector()))
    for name, net, projector in rows:
      count, here = counting.of_unet(net, patch, projector)
      _, paper = counting.of_unet(net, patch, projector, paper=True)
      lines.append(
        f'{task:10s}{patch:6d}{name:>28s}{net.num_modalities:3d}{count:12,d}'
        f'{paper / 1e9:13.3f}{here / 1e9:12.3f}'
      )
  return '\n'.join(lines)


def _check(flags: argparse.Namespace) -> None:
  """Refuses flags that cannot be meant."""
  if flags.recognition and flags.recognition.split(':')[0] not in TASKS:
    raise command.WrongFlags(f'--recognition: choose {" or ".join(TASKS)}')
  if not flags.count and not any(getattr(flags, name) for name in _MEASURED):
    raise command.WrongFlags(
      'nothing to do: give --count, --steps, ... (see --help)'
    )
  lacking = ahead_of_time.lacking() if flags.compile_for else ''
  if lacking:
    raise command.WrongFlags(f'--compile-for: {lacking}')
  unknown = set(flags.methods or ()) - set(methods.names())
  if unknown:
    raise command.WrongFlags(
      f'unknown methods {", ".join(sorted(unknown))}; there are:'
      f' {", ".join(methods.names())}'
    )


def _workloads(flags: argparse.Namespace) -> list[Workload]:
  """Every combination that the methods allow, see `modality_counts`."""
  names = ('patch', 'batch', 'classes', 'stride', 'dtype')
  sizes = {name: getattr(flags, name) for name in names}
  return [
    Workload(method, k, width, **sizes)
    for method in flags.methods or methods.names()
    for k in modality_counts(method, flags.modalities)
    for width in flags.widths
  ]


def _machine() -> dict[str, Any]:
  """What the numbers belong to."""
  return {
    'devices': parallel.describe(),
    'platform': jax.default_backend(),
    'processor': platform.processor() or platform.machine(),
    'cpu_threads': case_pool.count(),
    'jax': jax.__version__,
    'python': platform.python_version(),
    'glibc_tunables': os.environ.get('GLIBC_TUNABLES', ''),
  }


def _measure_waiting(workload: Workload, flags) -> dict[str, Any]:
  config = waiting.config(workload)
  config.data.cache = flags.cache
  with tempfile.TemporaryDirectory() as folder:
    return waiting.measure(config, pathlib.Path(folder), 3 * flags.rounds)


def _measure_recognition(flags: argparse.Namespace) -> list[dict[str, Any]]:
  """Measures and prints --recognition."""
  name, _, names = flags.recognition.partition(':')
  task = TASKS[name]
  roots = recognising.roots(task, names, flags.scans, flags.cache)
  found = recognising.measure(
    task,
    names,
    roots,
    most=flags.known,
    tags=not flags.no_tags,
    changed=flags.changed,
  )
  print(recognising.table(found))
  return recognising.rows(found)


def _compile(workloads: list[Workload], card: str) -> list[dict[str, Any]]:
  """Measures and prints --compile-for."""
  rows = []
  for workload in workloads:
    rows.append(ahead_of_time.count_elsewhere(workload, card))
    print(f'\n{tables.compiled_table(rows[-1])}', flush=True)
  print(f'\n{tables.COMPILED_NOTES}')
  return rows


def _compare(workload: Workload, flags, found: dict[str, Any]) -> bool:
  """Measures and prints --compare; returns whether the limit is kept."""
  ratios = steps.compare_modalities(flags.compare, workload, flags.rounds)
  found['compare'] = {'limit': COMPARE_LIMIT, 'ratios': ratios}
  for name, ratio in ratios.items():
    kept = 'within' if ratio <= COMPARE_LIMIT else 'ABOVE'
    print(
      f'modalities {name}: {ratio:.2f} times the time of a step'
      f' ({kept} the limit of {COMPARE_LIMIT})'
    )
  return max(ratios.values()) <= COMPARE_LIMIT


def _measure(flags: argparse.Namespace, found: dict[str, Any]) -> bool:
  """Measures what is asked for; returns whether all limits are kept."""
  workloads = _workloads(flags)
  joint = next((w for w in workloads if w.method == 'dbdc'), workloads[0])
  kept = True
  if flags.steps:
    found['steps'] = steps.measure(workloads, flags.rounds)
    print(tables.steps_table(found['steps']))
  if flags.parts:
    found['parts'] = {}
    for w in workloads:
      title = f'{w.method}, K={w.modalities}, width {w.width}'
      found['parts'][title] = steps.measure_parts(w, flags.rounds)
      print(f'\n{title}\n{tables.parts_table(found["parts"][title])}')
  if flags.waiting:
    found['waiting'] = _measure_waiting(joint, flags)
    share, ms = (found['waiting'][k] for k in ('waiting_share', 'step_ms'))
    print(
      f'waiting for data: {100 * share:.1f} % of the loop ({joint.method} on'
      f' the heart phantom, {ms:.0f} ms a step)'
    )
    rates = found['waiting']['batches_per_second'].items()
    said = ', '.join(f'{name} {rate:.0f}' for name, rate in rates)
    print(f'batches a second, by where samples live: {said}')
  if flags.collectives:
    found['collectives'] = [
      collectives.count_elsewhere(joint, n) for n in flags.collectives
    ]
    print('\n'.join(map(collectives.table, found['collectives'])))
  if flags.compare:
    small = dataclasses.replace(joint, dtype='float32')
    kept = _compare(small, flags, found)
  if flags.metrics:
    found['metrics'] = scores.measure()
    print(tables.metrics_line(found['metrics']))
  if flags.recognition:
    found['recognition'] = _measure_recognition(flags)
  if flags.compile_for:
    found['compiled'] = _compile(workloads, flags.compile_for)
  if flags.predict:
    found['predict'] = prediction.measure(joint)
    print(tables.predict_line(found['predict']))
  return kept


def run(flags: argparse.Namespace) -> int:
  """Counts and measures what the command's flags ask for.

  Returns:
    1 if a limit is not kept, else 0.
  """
  _check(flags)
  measured = {name for name in _MEASURED if getattr(flags, name)}
  if not measured - {'compile_for'}:
    # No device is measured: one that is there stays free.
    jax.config.update('jax_platforms', 'cpu')
  if flags.count:
    print(count_table(flags.widths[0]))
  if not measured:
    return 0
  kept = memory.keep()
  if flags.devices:
    use_virtual_devices(flags.devices)
  # A compile time read from a cache would not be one.
  jax.config.update('jax_enable_compilation_cache', False)
  found: dict[str, Any] = {'machine': {**_machine(), 'memory_kept': kept}}
  print(', '.join(f'{k} {v}' for k, v in found['machine'].items() if v))
  within = _measure(flags, found)
  if flags.json:
    tables.write_json(found, flags.json)
  return 0 if within else 1
