"""Part `trace`: which kernels a DBDC step spends its time in."""

import collections
from collections.abc import Iterable
import pathlib
import shutil
import time
from typing import Any

import jax

from benchmarks.gpu import plan, steps, workspace

# Families by words of a kernel's name; the first that fits counts.
FAMILIES = (
  ('layout (nchw/nhwc)', ('nchwtonhwc', 'nhwctonchw', 'nhwcaddpadding')),
  ('convolution, weight gradient', ('wgrad',)),
  ('convolution, data gradient', ('dgrad',)),
  ('convolution, forward', ('fprop', 'conv', 'cudnn', 'implicit')),
  ('matrix product', ('gemm', 'cutlass', 'nvjet', 'cublas')),
  ('copy', ('memcpy', 'memset')),
  ('transpose', ('transpose',)),
  ('reduce', ('reduce',)),
  ('scatter / gather', ('scatter', 'gather', 'dynamic')),
  ('fusion', ('fusion', 'loop', 'input', 'wrapped', 'triton')),
)
# Bytes up to which the trace itself is kept.
_TRACE_BYTES = 12 << 20


def busy(spans: Iterable[tuple[float, float]]) -> float:
  """Length of the union of spans (start, end)."""
  total, reached = 0.0, float('-inf')
  for start, stop in sorted(spans):
    total += max(0.0, stop - max(start, reached))
    reached = max(reached, stop)
  return total


def family(name: str) -> str:
  """A kernel's family by its name."""
  low = name.lower()
  for found, words in FAMILIES:
    if any(word in low for word in words):
      return found
  return 'other'


def _record(step, count: int, folder: pathlib.Path) -> float:
  """Traces some steps into a folder; returns the seconds they took."""
  options = {}
  if hasattr(jax.profiler, 'ProfileOptions'):
    # Kernels are wanted; what Python does beside them costs time.
    quiet = jax.profiler.ProfileOptions()
    quiet.python_tracer_level, quiet.host_tracer_level = 0, 1
    options = {'profiler_options': quiet}
  start = time.perf_counter()
  jax.profiler.start_trace(str(folder), **options)
  try:
    for _ in range(count):
      last = step()
    jax.block_until_ready(last)
  finally:
    jax.profiler.stop_trace()
  return time.perf_counter() - start


def _events(path: pathlib.Path, found: plan.Found):
  """The kernels' (name, start, duration) in nanoseconds."""
  trace = jax.profiler.ProfileData.from_file(str(path))
  planes = [plane.name for plane in trace.planes]
  gpus = [n for n in planes if 'GPU' in n and 'device' in n.lower()]
  events, counts = [], collections.Counter()
  for plane in trace.planes:
    if plane.name not in (gpus or planes):
      continue
    for line in plane.lines:
      inside = list(line.events)
      counts[f'{plane.name} / {line.name}'] = len(inside)
      low = line.name.lower()
      if low.startswith('stream') if gpus else 'xla' in low:
        events += [(e.name, e.start_ns, e.duration_ns) for e in inside]
  found['planes'] = planes
  found['trace_lines'] = dict(counts.most_common(12))
  return events


def describe(
  events: list[tuple[str, float, float]], steps_traced: int
) -> dict[str, Any]:
  """Times by kernel and by family, in milliseconds a step.

  Args:
    events: kernels (name, start, duration) in nanoseconds.
    steps_traced: steps that they belong to.
  """
  scale = 1e-6 / steps_traced
  times, counts, kinds = (collections.Counter() for _ in range(3))
  for name, _, duration in events:
    times[name] += duration
    counts[name] += 1
    kinds[family(name)] += duration
  total = max(sum(times.values()), 1)
  spans = [(start, start + duration) for _, start, duration in events]
  whole = max(e for _, e in spans) - min(s for s, _ in spans) if spans else 0
  return {
    'kernels_per_step': len(events) / steps_traced,
    'device_busy_ms': busy(spans) * scale,
    'device_span_ms': whole * scale,
    'kinds_ms': {kind: ns * scale for kind, ns in kinds.most_common()},
    'top': [
      {
        'name': name[:160],
        'ms': ns * scale,
        'calls': counts[name] / steps_traced,
        'share': ns / total,
      }
      for name, ns in times.most_common(40)
    ],
  }


def _lines(found: dict[str, Any]) -> list[str]:
  lines = [
    f'busy {found["device_busy_ms"]:.2f} of {found["device_span_ms"]:.2f} ms a'
    f' step, {found["kernels_per_step"]:.0f} kernels'
  ]
  kinds = list(found['kinds_ms'].items())[:8]
  lines += [f'{kind:32s}{ms:8.3f} ms' for kind, ms in kinds]
  return lines + [
    f'{row["ms"]:7.3f} ms {row["calls"]:5.0f} x {row["name"][:90]}'
    for row in found['top'][:15]
  ]


def measure(context: plan.Context, name: str, found: plan.Found) -> None:
  """Traces some steps and adds their kernels up.

  Profiling switches CUDA graphs off: the busy time counts, not the span.
  """
  del name
  step = steps.compiled(context, steps.MAIN)
  count = 2 if context.tiny else 5
  for _ in range(2):
    jax.block_until_ready(step())
  folder = workspace.work() / 'trace'
  shutil.rmtree(folder, ignore_errors=True)
  found['traced_seconds'] = _record(step, count, folder)
  files = [f for f in sorted(folder.rglob('*')) if f.is_file()]
  found['files'] = {f.name: f.stat().st_size for f in files}
  (*_, last) = (f for f in files if f.name.endswith('.xplane.pb'))
  found.update(describe(_events(last, found), count))
  found['lines'] = _lines(found)
  found.save()
  for path in files:
    small = path.stat().st_size < _TRACE_BYTES
    if small and path.name.endswith('.trace.json.gz'):
      shutil.copyfile(path, pathlib.Path(context.flags.out) / 'trace.json.gz')
