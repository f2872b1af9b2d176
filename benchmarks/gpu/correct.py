"""Parts `correct` and `correctlow`: a step on the device against the CPU.

DBDC's pseudo-labels are an argmax, which the last bit decides where two classes
tie; one pixel that falls the other way changes the gradient by more than all
rounding does. So the device's step is given the CPU's pseudo-labels, and the
pixels at which its own differ are counted beside. The supervised step has no
argmax at all.

A leaky ReLU's kink is decided by the last bit as well: one unit on its other
side moves the whole gradient by thousandths. How much the CPU's own gradient
moves when its parameters do by rounding says what is due to that.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import plan
from dbdc_jax import methods
from dbdc_jax.benchmarking import workload as workloads
from dbdc_jax.methods.common import supervision

_SIZES = {'width': 16, 'patch': 48, 'batch': 4, 'embedding_dim': 32}
# Relative change of the parameters that stands for sums in another order.
_ROUNDING = 1e-6
_TINY = {'width': 4, 'patch': 16, 'batch': 2, 'embedding_dim': 8}
# Seconds that must be left to begin another case.
_NEEDED = 50
# `exchanged` replaces a function of a module: one thread traces at a time.
_tracing = threading.Lock()


class Case(NamedTuple):
  """What is compared with the CPU's float32 at full precision.

  Attributes:
    method: its name.
    dtype: of the device's step.
    precision: of its matrix products; None is the device's default.
    limit: of the relative differences of loss and gradient; None says them
      for information.
  """

  method: str
  dtype: str
  precision: str | None
  limit: float | None


CASES = {
  'correct': {
    'float32 highest': Case('dbdc', 'float32', 'highest', 3e-3),
    'supervised float32 highest': Case(
      'supervised', 'float32', 'highest', 3e-3
    ),
  },
  'correctlow': {
    'float32 default (TF32)': Case('dbdc', 'float32', None, 5e-2),
    'bfloat16': Case('dbdc', 'bfloat16', None, None),
  },
}


class Result(NamedTuple):
  """What a step gives, on the host; `own` are its own pseudo-labels or None."""

  loss: np.ndarray
  memory: Any
  metrics: dict[str, np.ndarray]
  own: np.ndarray | None
  gradients: Any


def leaves(tree: Any) -> dict[str, np.ndarray]:
  """The leaves of a tree by their paths."""
  found = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def relative(found: Any, wanted: Any) -> tuple[float, float, str]:
  """||found - wanted|| / ||wanted|| of trees of equal structure.

  Returns:
    Of all leaves together; of the worst leaf; that leaf's path. A leaf that
    should be 0 counts with its own norm.
  """
  found = leaves(found)
  away, size, each = 0.0, 0.0, {}
  for key, want in leaves(wanted).items():
    want = want.astype(np.float64)
    a = float(np.sum((found[key].astype(np.float64) - want) ** 2))
    s = float(np.sum(want**2))
    away, size = away + a, size + s
    each[key] = (a / s if s > 0 else a) ** 0.5
  rank = lambda key: each[key] if np.isfinite(each[key]) else np.inf
  worst = max(each, key=rank)
  return (away / max(size, 1e-300)) ** 0.5, each[worst], worst


@contextlib.contextmanager
def exchanged(labels: jax.Array | None) -> Iterator[list[jax.Array]]:
  """While it lasts, what is traced is given these pseudo-labels.

  Args:
    labels: instead of the method's own; None leaves it its own.

  Yields:
    The method's own pseudo-labels, one for each call.
  """
  original, own = supervision.pseudo_labels, []

  def replaced(*known):
    own.append(original(*known))
    return own[-1] if labels is None else labels

  supervision.pseudo_labels = replaced
  try:
    yield own
  finally:
    supervision.pseudo_labels = original


def gradient_step(method: methods.Method) -> Callable[..., Any]:
  """The function `(params, memory, batch, signals, labels)` to be compiled.

  It returns (loss, (memory, metrics, own pseudo-labels or None)), gradients.
  """

  def loss(params, memory, batch, signals, labels):
    key = jax.random.fold_in(jax.random.key(0), 7)
    with exchanged(labels) as own:
      value, (memory, metrics) = method.loss(
        params, memory, batch, key, signals
      )
    return value, (memory, metrics, own[0] if own else None)

  return jax.value_and_grad(loss, has_aux=True)


def _workload(case: Case, tiny: bool) -> workloads.Workload:
  return workloads.Workload(
    method=case.method,
    modalities=2 if case.method == 'dbdc' else 1,
    dtype=case.dtype,
    **(_TINY if tiny else _SIZES),
  )


def start_on(workload: workloads.Workload, cpu: jax.Device) -> tuple[Any, ...]:
  """Parameters, memory, batch and signals on the host, made on the CPU."""
  k, classes = workload.modalities, workload.classes
  with jax.default_device(cpu):
    method = workloads.build_method(workload)
    params, memory = jax.jit(method.init)(jax.random.key(0))
    # A little noise on every scale and bias: ones and zeros hide mistakes.
    keys = iter(jax.random.split(jax.random.key(3), 200))
    params = jax.tree.map(
      lambda x: x + 0.05 * jax.random.normal(next(keys), x.shape), params
    )
    batch = workloads.random_batch(workload, method, workload.batch)
    signals = methods.full_signals(
      jnp.ones((k, classes), bool), jnp.ones(k, bool)
    )
    found = params, workloads.started(memory), batch, signals
  return jax.device_get(found)


def compiled_step(workload, precision, start, where, labels):
  """The step for a device, compiled; safe in several threads."""
  method = workloads.build_method(workload)
  arguments = jax.device_put((*start, labels), where)
  with _tracing, jax.default_matmul_precision(precision or 'default'):
    lowered = jax.jit(gradient_step(method)).lower(*arguments)
  return lowered.compile()


def result_of(compiled, start, where, labels) -> Result:
  """Runs a compiled step."""
  found = compiled(*jax.device_put((*start, labels), where))
  (value, (memory, metrics, own)), gradients = jax.device_get(found)
  return Result(value, memory, metrics, own, gradients)


def reference(
  workload: workloads.Workload, start: tuple[Any, ...], cpu: jax.Device
) -> tuple[Result, float]:
  """The step on the CPU with its own pseudo-labels, at full precision.

  Returns:
    It, and by how much of its norm its gradient moves when each parameter does
    by rounding, with the same pseudo-labels.
  """
  labels = blank(workload)
  compiled = compiled_step(workload, 'highest', start, cpu, labels)
  labels = result_of(compiled, start, cpu, labels).own
  want = result_of(compiled, start, cpu, labels)
  rng = np.random.default_rng(0)
  rounded = lambda x: (
    x * (1 + _ROUNDING * rng.standard_normal(x.shape)).astype(x.dtype)
  )
  moved = (jax.tree.map(rounded, start[0]), *start[1:])
  moved = result_of(compiled, moved, cpu, labels)
  return want, relative(moved.gradients, want.gradients)[0]


def verdict(
  gradient: float,
  loss: float,
  finite: bool,
  limit: float | None,
  rounding: float = 0.0,
) -> str:
  """A case in a word, from its relative differences.

  Args:
    gradient: of the gradients.
    loss: of the losses.
    finite: whether all gradients are.
    limit: of both; None: there is none.
    rounding: what `reference` says; the gradient may differ by twice that.
  """
  if not finite:
    return 'NOT FINITE'
  if limit is None:
    return 'for information'
  # Written so that NaN is above, too.
  close = gradient < max(limit, 2 * rounding) and loss < limit
  return 'ok' if close else f'ABOVE {limit}'


def differences(
  found: Result, want: Result, limit: float | None, rounding: float = 0.0
) -> dict[str, Any]:
  """The numbers of a case: a device's result against the CPU's."""
  total, worst, leaf = relative(found.gradients, want.gradients)
  # Counters and flags of the memory have no relative difference.
  of_memory, memory_leaf = 0.0, None
  floats = [
    {k: v for k, v in leaves(m).items() if v.dtype.kind == 'f'}
    for m in (found.memory, want.memory)
  ]
  if floats[1]:
    of_memory, _, memory_leaf = relative(*floats)
  terms = {
    k: float(np.max(np.abs(np.asarray(found.metrics[k]) - np.asarray(v))))
    for k, v in want.metrics.items()
  }
  loss = abs(float(found.loss) - float(want.loss)) / abs(float(want.loss))
  finite = all(np.isfinite(g).all() for g in leaves(found.gradients).values())
  case = {
    'loss': float(found.loss),
    'loss_cpu': float(want.loss),
    'loss_rel': loss,
    'gradient_rel': total,
    'gradient_rel_by_rounding': rounding,
    'gradient_worst_rel': worst,
    'gradient_worst_leaf': leaf,
    'memory_rel': of_memory,
    'memory_worst_leaf': memory_leaf,
    'largest_term_difference': max(terms, key=terms.get),
    'term_differences': terms,
    'verdict': verdict(total, loss, finite, limit, rounding),
  }
  if want.own is not None:
    case['pseudo_labels'] = int(want.own.size)
    case['pseudo_labels_differ'] = int(np.sum(found.own != want.own))
  return case


def state(verdicts: list[str]) -> str:
  """The part's state: 'ok', or what differs."""
  bad = any(v.startswith(('ABOVE', 'NOT')) for v in verdicts)
  return 'DIFFERS: ' + ', '.join(verdicts) if bad else 'ok'


def blank(workload: workloads.Workload) -> np.ndarray | None:
  """Pseudo-labels of the right shape, to compile with."""
  if workload.method != 'dbdc':
    return None
  shape = (workload.modalities, workload.batch, workload.patch, workload.patch)
  return np.zeros(shape, np.int32)


def compare(context: plan.Context, name: str, found: plan.Found) -> None:
  """Loss, gradients and memory of one step on the device and on the CPU."""
  cpu, device = jax.local_devices(backend='cpu')[0], jax.devices()[0]
  found['cases'] = {}
  references: dict[str, futures.Future[tuple[Result, float]]] = {}
  starts: dict[str, tuple[Any, ...]] = {}
  with futures.ThreadPoolExecutor(1) as pool:
    for key, case in CASES[name].items():
      if found['cases'] and context.left() < _NEEDED and not context.tiny:
        break
      workload, begin = _workload(case, context.tiny), time.perf_counter()
      if case.method not in starts:
        plain = _workload(case._replace(dtype='float32'), context.tiny)
        starts[case.method] = start_on(plain, cpu)
        references[case.method] = pool.submit(
          reference, plain, starts[case.method], cpu
        )
      start = starts[case.method]
      # Compiled while the CPU computes, whose pseudo-labels it then gets.
      compiled = compiled_step(
        workload, case.precision, start, device, blank(workload)
      )
      want, rounding = references[case.method].result()
      got = result_of(compiled, start, device, want.own)
      seconds = round(time.perf_counter() - begin, 1)
      found['cases'][key] = {
        'seconds_with_compile': seconds,
        **differences(got, want, case.limit, rounding),
      }
      found['state'] = state([c['verdict'] for c in found['cases'].values()])
      found.save()
