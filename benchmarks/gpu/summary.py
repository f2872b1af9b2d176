"""The results as lines for the terminal."""

from collections.abc import Iterator, Mapping
import json
from typing import Any

from benchmarks.gpu.workspace import dig

_TORCH = ('torch_heart', 'torch_abdomen', 'torch_heart_f32')
# Parts that say in their own words what they found.
_SPOKEN = (
  'trace',
  'predict',
  'loop',
  'train',
  'export',
  'deterministic',
  'drill',
  'micro',
  'arena',
)


def _number(x: Any, form: str = '{:.2f}') -> str:
  return form.format(x) if isinstance(x, int | float) else '-'


def _machine(env: Mapping[str, Any]) -> Iterator[str]:
  yield f'device {env.get("device")}, jax {dig(env, "packages", "jax")}'
  rate = lambda key: _number(env.get(key))
  yield (
    f'bf16 matmul {rate("matmul_bf16_tflops")} TFLOP/s, f32 default'
    f' {rate("matmul_f32_tflops")}, f32 highest'
    f' {rate("matmul_f32_highest_tflops")}, copy {rate("copy_gb_s")} GB/s'
  )


def _correct(cases: Mapping[str, Any]) -> Iterator[str]:
  for name, case in cases.items():
    rate = lambda key, case=case: _number(case.get(key), '{:.1e}')
    ties = ''
    if case.get('pseudo_labels') is not None:
      ties = (
        f', own pseudo-labels differ at {case.get("pseudo_labels_differ")} of'
        f' {case["pseudo_labels"]} pixels'
      )
    yield (
      f'correct {name}: loss rel {rate("loss_rel")}, gradients'
      f' {rate("gradient_rel")} (by rounding'
      f' {rate("gradient_rel_by_rounding")}), worst leaf'
      f' {rate("gradient_worst_rel")},'
      f' memory {rate("memory_rel")}{ties} -> {case.get("verdict")}'
    )


def _steps(parts: Mapping[str, Any]) -> Iterator[str]:
  yield (
    f'{"step":20s}{"ms":>8s}{"ms piped":>9s}{"img/s":>9s}{"% matmul":>9s}'
    f'{"MiB":>8s}{"compile s":>10s}{"kernels":>8s}'
  )
  for name, row in parts.items():
    if 'synced_ms' in row:
      share = 100 * (row.get('share_of_bf16_matmul') or 0)
      mebibytes = (row.get('program_bytes') or 0) / 2**20
      yield (
        f'{name:20s}{_number(row["synced_ms"]):>8s}'
        f'{_number(row.get("piped_ms")):>9s}'
        f'{_number(row.get("images_per_second"), "{:.0f}"):>9s}'
        f'{_number(share, "{:.1f}"):>9s}{_number(mebibytes, "{:.0f}"):>8s}'
        f'{_number(row.get("compile_seconds"), "{:.1f}"):>10s}'
        f'{_number(dig(row, "hlo", "kernels"), "{}"):>8s}'
      )


def _torch(runs: Mapping[str, Any]) -> Iterator[str]:
  for key, row in runs.items():
    rates = row.get('windows_per_second')
    if rates:
      said = ', '.join(f'{n}: {rate:.0f}' for n, rate in rates.items())
      yield f'torch {key}: windows/s by windows a call {said}'
    else:
      yield (
        f'torch {key:26s}{_number(row.get("ms")):>8s} ms'
        f' {_number(row.get("images_per_s"), "{:.0f}"):>8s} img/s, ours takes'
        f' {_number(row.get("ours_over_torch"))} of that'
        f' {row.get("error", "")[-160:]}'
      )


def lines(found: Mapping[str, Any]) -> Iterator[str]:
  """The table.

  Args:
    found: the content of results.json; parts may be missing or unfinished.

  Yields:
    Lines.
  """
  parts = found['parts']
  yield '--- summary ---'
  yield from _machine(parts.get('env', {}))
  for name in ('correct', 'correctlow'):
    yield from _correct(dig(parts, name, 'cases') or {})
  yield from _steps(parts)
  for name in _TORCH:
    yield from _torch(dig(parts, name, 'runs') or {})
  for name in _SPOKEN:
    for line in dig(parts, name, 'lines') or ():
      yield f'{name}: {line}'
  yield f'states {json.dumps(found["states"])}'
