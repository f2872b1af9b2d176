"""Parts `torch_...`: the same step in PyTorch, by `torch_dbdc.py`."""

import json
import subprocess
import sys
from typing import Any, NamedTuple

from benchmarks.gpu import plan, steps, workspace

# Seconds at the budget's end that are not begun, and without which no run is.
_REST, _NEEDED = 20, 12


class Run(NamedTuple):
  """A run of the peer.

  Attributes:
    options: of the command.
    most: seconds after which it is stopped.
    ours: the part that measures the same here.
  """

  options: tuple[Any, ...]
  most: float
  ours: str


def runs(name: str, tiny: bool) -> dict[str, Run]:
  """A part's runs by their names, in order of their value."""
  task = name.split('_')[1]
  k = ('--k', steps.TASKS[task][0])
  low = () if tiny else ('--bf16',)
  if name.endswith('f32'):
    return {f'dbdc {task} f32': Run(k, 60, f'dbdc_{task}_f32')}
  plain = {f'dbdc {task} bf16': Run((*k, *low), 60, f'dbdc_{task}_bf16')}
  if task == 'abdomen':
    return plain
  graph = (*k, *low, '--compile')
  graphs = (*graph, '--mode', 'reduce-overhead')
  found = {
    **plain,
    'sup heart bf16': Run(
      ('--k', 1, '--supervised', *low), 40, 'sup_heart_bf16'
    ),
    'dbdc heart bf16 compiled': Run(graph, 75, steps.MAIN),
    'predict heart bf16': Run(
      (*k, *low, '--predict', '2,4' if tiny else '8,72,512'), 40, 'predict'
    ),
    # The compiled form handed over as CUDA graphs.
    'dbdc heart bf16 CUDA graphs': Run(graphs, 60, steps.MAIN),
  }
  if tiny:  # A CPU compiles for minutes.
    found = {
      k: run for k, run in found.items() if '--compile' not in run.options
    }
  return found


def _call(run: Run, context: plan.Context, task: str) -> dict[str, Any]:
  """Runs the peer; its numbers, or 'error'."""
  seconds = min(run.most * context.flags.slow, context.left() - _REST)
  if seconds < _NEEDED:
    return {'error': 'no time left'}
  _, patch, classes = steps.TASKS[task]
  size = ['--patch', patch, '--batch', 8, '--width', 32, '--steps', 30]
  if context.tiny:
    size = ['--patch', 16, '--batch', 2, '--width', 4, '--steps', 3]
    size += ['--device', 'cpu']
  python = context.flags.torch_python or sys.executable
  command = [python, workspace.HERE / 'torch_dbdc.py', *run.options, *size]
  command += ['--classes', classes]
  try:
    # In a rehearsal beside other work, threads wait for each other for long.
    env = {'OMP_NUM_THREADS': '1'} if context.tiny else {}
    done = workspace.run(command, seconds, **env)
    return json.loads(done.stdout.strip().splitlines()[-1])
  except subprocess.TimeoutExpired:
    return {'error': f'not done after {seconds:.0f} s'}
  except (ValueError, IndexError):
    return {'error': done.stderr[-1500:]}


def measure(context: plan.Context, name: str, found: plan.Found) -> None:
  """Times the peer and sets our numbers beside."""
  found['runs'] = {}
  for key, run in runs(name, context.tiny).items():
    peer = _call(run, context, name.split('_')[1])
    mine = context.part(run.ours)
    for how in ('synced_ms', 'piped_ms'):
      if how in mine:
        peer[f'ours_{how}'] = mine[how]
    if 'synced_ms' in mine and 'ms' in peer:
      peer['ours_over_torch'] = mine['synced_ms'] / peer['ms']
    found['runs'][key] = peer
    found.save()
