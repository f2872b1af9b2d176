"""Parts `dbdc_...` and `sup_...`: a train step's time and its program."""

import collections
from collections.abc import Callable
import gzip
import pathlib
import re
import time
from typing import Any

import jax
import numpy as np

from benchmarks.gpu import clock, plan
from dbdc_jax.benchmarking import program, steps
from dbdc_jax.benchmarking.workload import Workload, make
from dbdc_jax.runtime import parallel

# Modalities, patch and classes of the paper's tasks.
TASKS = {'heart': (2, 96, 8), 'abdomen': (4, 128, 5)}
# The step whose program comes back, and which is traced.
MAIN = 'dbdc_heart_bf16'
_METHODS = {'dbdc': 'dbdc', 'sup': 'supervised'}
_DTYPES = {'bf16': 'bfloat16', 'f32': 'float32'}
# What no kernel belongs to.
_QUIET = ('parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant')
_OPERATION = re.compile(r'\s+(?:ROOT )?%?[\w.\-]+ = .*?\s([a-z][\w\-]*)\(')


def _operation(line: str) -> str:
  """What a line of a program does; '' for a line without an operation."""
  match = _OPERATION.match(line)
  if not match:
    return ''
  name = match.group(1)
  if name == 'custom-call':
    target = re.search(r'custom_call_target="([^"]+)"', line)
    return target.group(1) if target else name
  if name == 'fusion':
    kind = re.search(r'kind=(\w+)', line)
    name = f'fusion {kind.group(1) if kind else ""}'
    name += ' triton' * ('__triton' in line)
    name += ' transpose' * ('transpose' in line.split(' = ')[0])
  return name


def hlo_statistics(text: str) -> dict[str, Any]:
  """What a compiled program consists of.

  Args:
    text: of the compiled program.

  Returns:
    'kernels' and their 'kinds' in the entry computation; how many loops,
    reductions over devices and branches the whole program has.
  """
  entry = text[text.rfind('\nENTRY ') :]
  found = (_operation(line) for line in entry.splitlines())
  kinds = collections.Counter(kind for kind in found if kind)
  return {
    'kernels': sum(n for kind, n in kinds.items() if kind not in _QUIET),
    'kinds': dict(kinds.most_common(40)),
    'whole_program_while': text.count(' while('),
    'whole_program_all_reduce': text.count(' all-reduce('),
    'whole_program_conditional': text.count(' conditional('),
  }


def workload(name: str, tiny: bool) -> Workload:
  """The workload of a part's name, METHOD_TASK_DTYPE."""
  method, task, dtype = name.split('_')
  modalities, patch, classes = TASKS[task]
  sizes = {'patch': patch, 'batch': 8, 'width': 32}
  if tiny:
    sizes = {'patch': 16, 'batch': 2, 'width': 4, 'embedding_dim': 8}
  return Workload(
    method=_METHODS[method],
    modalities=modalities if method == 'dbdc' else 1,
    classes=classes,
    dtype=_DTYPES[dtype],
    **sizes,
  )


def compiled(context: plan.Context, name: str) -> steps.CompiledStep:
  """The compiled step of a part, kept for the parts behind."""
  if name not in context.compiled:
    if len(context.compiled) > 1:  # The heart's two are used again.
      context.compiled.clear()
    context.compiled[name] = steps.CompiledStep(
      make(workload(name, context.tiny))
    )
  return context.compiled[name]


def _with_batch_on_device(step: steps.CompiledStep, number: int) -> float | str:
  """Milliseconds in a row without the batch's way to the device."""
  here = step.step
  try:
    step.step = here._replace(batch=jax.device_put(here.batch))
    return 1e3 * clock.seconds(step, number)[1]
  except Exception as error:
    return f'failed: {str(error)[:200]}'
  finally:
    step.step = here


def _dispatch(step: Callable[[], jax.Array]) -> float:
  """Milliseconds that the host needs to hand a step over."""
  jax.block_until_ready(step())
  start = time.perf_counter()
  last = step()
  taken = 1e3 * (time.perf_counter() - start)
  jax.block_until_ready(last)
  return taken


def _describe_program(context, name, step, found) -> None:
  """The program's size, its operations and, of the main one, its text."""
  text = step.program.as_text()
  found['hlo'] = hlo_statistics(text)
  if name == MAIN:
    path = pathlib.Path(context.flags.out) / f'hlo_{name}.txt.gz'
    path.write_bytes(gzip.compress(text.encode()))
  cost = step.program.cost_analysis()
  cost = cost[0] if isinstance(cost, list) else cost
  wanted = ('flops', 'bytes accessed')
  found['xla_cost'] = {k: v for k, v in (cost or {}).items() if k in wanted}


def measure(context: plan.Context, name: str, found: plan.Found) -> None:
  """Times a step and describes its program."""
  found['workload'] = vars(workload(name, context.tiny))
  start = time.perf_counter()
  step = compiled(context, name)
  found['set_up_seconds'] = time.perf_counter() - start
  found['compile_seconds'] = step.seconds
  found.save()
  _describe_program(context, name, step, found)
  number = 3 if context.tiny else 30
  losses = [float(step()) for _ in range(3)]
  synced, piped = clock.seconds(step, number)
  found['losses'] = [*losses, float(step())]
  if not np.isfinite(found['losses']).all():
    found['state'] = f'LOSS NOT FINITE {found["losses"]}'
  images = step.step.images
  found.update(
    synced_ms=1e3 * synced,
    piped_ms=1e3 * piped,
    images=images,
    images_per_second=images / piped,
  )
  found.save()
  found['piped_ms_batch_on_device'] = _with_batch_on_device(step, number)
  found['dispatch_ms'] = _dispatch(step)
  counted = program.count(step.step.function, *step.step.arguments)
  flops = 2 * counted.macs
  found['counted_gflop'] = flops / 1e9
  found['tflops'] = flops / piped / 1e12
  rate = context.part('env').get('matmul_bf16_tflops')
  if rate:
    found['share_of_bf16_matmul'] = found['tflops'] / rate
  memory = step.memory()
  found['program_bytes'] = memory['program']
  found['device_peak_bytes'] = memory['device']
  found['describe'] = parallel.describe()
