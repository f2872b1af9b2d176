"""The check on a GPU, rehearsed: what of it a CPU can show."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu import (
  correct,
  micro,
  orchestrator,
  plan,
  runs,
  steps,
  summary,
  torch_peer,
  tracing,
  workspace,
)
from dbdc_jax import methods
from dbdc_jax.benchmarking import workload
from dbdc_jax.methods.common import supervision
from dbdc_jax.models import gradients

ROOT = pathlib.Path(__file__).parents[1]
SMALL = workload.Workload(
  method='dbdc', modalities=2, width=2, patch=16, batch=2, embedding_dim=4
)
HLO = """HloModule jit_step

%body (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %add.9 = f32[8]{0} add(%p, %p)
}

ENTRY %main (a: f32[8], b: f32[8]) -> (f32[8]) {
  %a = f32[8]{0} parameter(0)
  %b = f32[8]{0} parameter(1)
  %loop_add_fusion = f32[8]{0} fusion(%a, %b), kind=kLoop, calls=%body
  %t = f32[8]{0} fusion(%a), kind=kCustom, backend_config={"__triton_gemm"}
  %c.1 = (f32[8]{0}, u8[0]{0}) custom-call(%a), custom_call_target="__conv"
  %g = f32[8]{0} get-tuple-element(%c.1), index=0
  %w = f32[8]{0} while(%g), condition=%body, body=%body
  ROOT %r = (f32[8]{0}) tuple(%w)
}
"""


def test_busy_time_is_the_length_of_the_union():
  assert tracing.busy([]) == 0
  assert tracing.busy([(5, 7), (0, 2), (1, 3), (1, 2), (3, 4)]) == 6
  rng = np.random.default_rng(0)
  starts = rng.integers(0, 50, 30)
  spans = [
    (int(s), int(s + d)) for s, d in zip(starts, starts % 7, strict=True)
  ]
  covered = {t for start, stop in spans for t in range(start, stop)}
  assert tracing.busy(spans) == len(covered)


@pytest.mark.parametrize(
  ('name', 'family'),
  [
    ('sm90_xmma_fprop_implicit_gemm_bf16', 'convolution, forward'),
    ('sm90_xmma_wgrad_implicit_gemm', 'convolution, weight gradient'),
    ('void cudnn::nchwToNhwcKernel', 'layout (nchw/nhwc)'),
    ('nvjet_hsh_128x256', 'matrix product'),
    ('input_reduce_fusion_3', 'reduce'),
    ('loop_add_fusion', 'fusion'),
    ('MemcpyD2D', 'copy'),
    ('what', 'other'),
  ],
)
def test_kernels_have_families(name, family):
  assert tracing.family(name) == family


def test_a_trace_is_added_up_by_kernel_and_step():
  events = [
    ('a_fusion', 0, 2e6),
    ('MemcpyD2D', 1e6, 2e6),
    ('a_fusion', 6e6, 2e6),
  ]
  found = tracing.describe(events, 2)
  assert found['kernels_per_step'] == 1.5
  assert found['device_busy_ms'] == pytest.approx(2.5)
  assert found['device_span_ms'] == pytest.approx(4)
  assert found['kinds_ms'] == pytest.approx({'fusion': 2, 'copy': 1})
  assert found['top'][0]['share'] == pytest.approx(2 / 3)
  assert tracing.describe([], 2)['device_busy_ms'] == 0


def test_a_program_is_counted_in_its_entry_alone():
  found = steps.hlo_statistics(HLO)
  assert found['kernels'] == 4
  assert found['kinds']['__conv'] == 1
  assert found['kinds']['fusion kLoop'] == 1
  assert found['kinds']['fusion kCustom triton'] == 1
  assert 'add' not in found['kinds']
  assert found['whole_program_while'] == 1


def test_relative_difference_is_that_of_all_numbers_and_of_the_worst_leaf():
  want = {'a': np.array([3.0, 4.0]), 'b': np.zeros(2), 'c': np.ones(1)}
  found = {'a': np.array([3.0, 4.5]), 'b': np.zeros(2), 'c': np.ones(1)}
  total, worst, leaf = correct.relative(found, want)
  np.testing.assert_allclose(total, 0.5 / 26**0.5)
  assert (worst, leaf) == (0.1, "['a']")
  assert correct.relative(want, want)[:2] == (0, 0)
  assert correct.relative(want | {'c': np.array([np.nan])}, want)[2] == "['c']"


def test_what_is_above_the_limit_or_no_number_differs():
  assert correct.verdict(1e-3, 1e-3, True, 3e-3) == 'ok'
  assert correct.verdict(1e-2, 1e-3, True, 3e-3) == 'ABOVE 0.003'
  assert correct.verdict(1e-3, 1e-2, True, 3e-3) == 'ABOVE 0.003'
  assert correct.verdict(1e-3, float('nan'), True, 3e-3) == 'ABOVE 0.003'
  assert correct.verdict(1e-2, 1e-3, True, 3e-3, 6e-3) == 'ok'
  assert correct.verdict(1e-2, 1e-2, True, 3e-3, 6e-3) == 'ABOVE 0.003'
  assert correct.verdict(1.0, 1.0, True, None) == 'for information'
  assert correct.verdict(0.0, 0.0, False, None) == 'NOT FINITE'
  assert correct.state(['ok', 'for information']) == 'ok'
  assert correct.state(['ok', 'ABOVE 0.003']).startswith('DIFFERS')


def test_the_exchange_gives_labels_and_keeps_the_own_ones():
  logits, present = jnp.eye(3)[None, None, None], jnp.ones((1, 3), bool)
  original, given = supervision.pseudo_labels, jnp.zeros((1, 1, 1, 3), int)
  with correct.exchanged(given) as own:
    assert supervision.pseudo_labels(logits, present) is given
  np.testing.assert_array_equal(own[0], [[[[0, 1, 2]]]])
  with correct.exchanged(None) as own:
    assert supervision.pseudo_labels(logits, present) is own[-1]
  with pytest.raises(KeyError), correct.exchanged(None):
    raise KeyError
  assert supervision.pseudo_labels is original


def _by_pixel(weights, memory, batch, key, signals):
  """A loss whose pseudo-labels are an argmax, as a method has it."""
  del key
  logits = batch * weights
  labels = supervision.pseudo_labels(logits, signals)
  chosen = jax.nn.one_hot(labels, 3)
  return -jnp.mean(jax.nn.log_softmax(logits) * chosen), (memory, {'x': 1.0})


def test_a_tie_that_falls_the_other_way_is_counted_and_changes_nothing():
  """The last bit of a logit decides a pixel, not the compared gradient."""
  step = jax.jit(correct.gradient_step(types.SimpleNamespace(loss=_by_pixel)))
  present, weights = jnp.ones((1, 3), bool), jnp.ones(3)
  batch = np.random.default_rng(0).random((1, 2, 4, 4, 3), np.float32)
  batch[0, 0, 0, 0] = 1, 1, 0.5  # A tie: the first of the two is chosen.
  nudged = batch.copy()
  nudged[0, 0, 0, 0, 1] = np.nextafter(np.float32(1), np.float32(2))

  def run(batch, labels=None):
    found = step(weights, {}, batch, present, labels)
    (value, (memory, metrics, own)), gradients = jax.device_get(found)
    return correct.Result(value, memory, metrics, own, {'w': gradients})

  want = run(batch)
  given = correct.differences(run(nudged, want.own), want, 1e-3)
  assert given['pseudo_labels_differ'] == 1 and given['pseudo_labels'] == 32
  assert given['verdict'] == 'ok' and given['gradient_rel'] < 1e-6
  alone = correct.differences(run(nudged), want, 1e-3)
  assert alone['pseudo_labels_differ'] == 1
  assert alone['verdict'] == 'ABOVE 0.001'


def test_dbdc_asks_for_its_pseudo_labels_where_they_are_exchanged():
  method = workload.build_method(SMALL)
  params, memory = jax.eval_shape(method.init, jax.random.key(0))
  batch = workload.random_batch(SMALL, method, SMALL.batch)
  signals = methods.full_signals(jnp.ones((2, 8), bool), jnp.ones(2, bool))
  blank = correct.blank(SMALL)
  step = correct.gradient_step(method)
  found = jax.eval_shape(step, params, memory, batch, signals, blank)
  own = found[0][1][2]
  assert (own.shape, own.dtype) == (blank.shape, blank.dtype)
  assert correct.blank(dataclasses.replace(SMALL, method='supervised')) is None


def test_the_parts_are_chosen_by_name_in_their_own_order():
  assert [p.name for p in plan.chosen('trace,env')] == ['env', 'trace']
  assert plan.chosen('') == list(plan.PARTS)
  with pytest.raises(ValueError, match='nonsense: choose from env'):
    plan.chosen('env,nonsense')
  assert plan.NAMES[-1] == 'drill' and len(set(plan.NAMES)) == len(plan.NAMES)


def test_every_part_has_its_function():
  for part in plan.PARTS:
    source = (ROOT / 'benchmarks/gpu' / f'{part.module}.py').read_text()
    assert f'\ndef {part.function}(' in source


def test_the_peer_is_run_as_often_as_it_fits_the_part():
  full = torch_peer.runs('torch_heart', tiny=False)
  assert '--compile' in full['dbdc heart bf16 compiled'].options
  assert '8,72,512' in full['predict heart bf16'].options
  tiny = torch_peer.runs('torch_heart', tiny=True)
  assert not any('--compile' in run.options for run in tiny.values())
  for name in ('torch_heart', 'torch_abdomen', 'torch_heart_f32'):
    for run in torch_peer.runs(name, tiny=False).values():
      assert run.ours in plan.NAMES


def test_the_two_modulations_that_are_timed_compute_the_same():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  count = micro._GROUPS
  x, scale, bias = draw(2 * count, 6, 6, 3), draw(count, 3), draw(count, 3)
  ids = jnp.repeat(jnp.arange(count), 2)
  groups = gradients.Groups(count, micro._EPSILON, True, micro._SLOPE)
  want, *_ = gradients.normalize(groups, x, scale, bias, ids)
  found = micro._plain_modulation(x, scale, bias)
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_a_trace_is_read_back(tmp_path):
  product = jax.jit(lambda x: x @ x)
  tracing._record(lambda: product(jnp.ones((64, 64))), 3, tmp_path)
  (file,) = tmp_path.rglob('*.xplane.pb')
  found = {}
  events = tracing._events(file, found)
  assert any('CPU' in name for name in found['planes'])
  assert sum(found['trace_lines'].values()) >= len(events) > 0


def test_runs_are_the_same_in_every_bit_or_not():
  a = {'x': np.array([0.0, np.nan]), 'y': 3}
  assert runs.same_bits(a, {'x': np.array([0.0, np.nan]), 'y': 3})
  assert not runs.same_bits(a, {'x': np.array([-0.0, np.nan]), 'y': 3})
  assert not runs.same_bits(a, {'x': a['x']})


def test_the_summary_has_a_line_for_what_there_is():
  row = {'synced_ms': 18.3, 'piped_ms': 15.6, 'images_per_second': 2046.0}
  case = {'loss_rel': 8e-6, 'gradient_rel': 1e-5, 'verdict': 'ok'}
  case |= {'pseudo_labels': 18432, 'pseudo_labels_differ': 1}
  peer = {
    'fast': {'ms': 81.4, 'images_per_s': 393.0, 'ours_over_torch': 0.22},
    'broken': {'error': 'no torch'},
    'predict': {'windows_per_second': {'8': 100.0}},
  }
  parts = {
    'env': {'device': 'H200'},
    'correct': {'cases': {'float32': case}},
    'dbdc_heart_bf16': row | {'hlo': {'kernels': 1388}, 'compile_seconds': 53},
    'sup_heart_bf16': {'state': 'failed: RuntimeError: out of memory'},
    'torch_heart': {'runs': peer},
    'drill': {'lines': ['killed']},
    'train': {'state': 'skipped, 5 s left'},
  }
  states = {'sup_heart_bf16': 'failed: RuntimeError'}
  text = '\n'.join(summary.lines({'parts': parts, 'states': states}))
  for words in (
    'H200',
    '1 of 18432 pixels -> ok',
    '18.30',
    '1388',
    'no torch',
    '8: 100',
    'drill: killed',
    'failed: RuntimeError',
  ):
    assert words in text
  assert list(summary.lines({'parts': {}, 'states': {}}))


def _check(*arguments, **env):
  """Runs the command."""
  command = [sys.executable, ROOT / 'benchmarks' / 'gpu' / 'check.py']
  return subprocess.run(
    [*map(str, command), *map(str, arguments)],
    env=os.environ | env,
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_rehearsal_measures_and_says_what_it_found(tmp_path):
  parts = 'env,sup_heart_f32'
  size = ('--tiny', '--budget', 300, '--slow', 5)
  done = _check(
    *('--out', tmp_path / 'out', '--parts', parts, *size),
    # The tests' own flags for one device.
    XLA_FLAGS=os.environ['XLA_FLAGS'].replace('count=4', 'count=1'),
  )
  assert done.returncode == 0, done.stderr
  log = (tmp_path / 'out' / 'log.txt').read_text()
  found = json.loads((tmp_path / 'out' / 'results.json').read_text())
  assert found['states'] == dict.fromkeys(parts.split(','), 'ok'), log
  row = found['parts']['sup_heart_f32']
  assert row['synced_ms'] > 0 and row['hlo']['kernels'] > 10
  assert np.isfinite(row['losses']).all()
  assert 'sup_heart_f32' in done.stdout.split('--- summary ---')[1]
  assert (tmp_path / 'out' / 'work' / 'xla').is_dir()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  run = tmp_path / 'run'
  run.mkdir()
  (run / 'results.json').write_text('{}')
  size = ('--tiny', '--parts', 'env', '--budget', 6)
  for out, work in ((run, tmp_path / 'work'), (tmp_path / 'out', run)):
    done = _check('--out', out, *size, **{workspace.WORK: str(work)})
    assert done.returncode == 2
    assert f'{run} holds files that this check has not made' in done.stderr
    assert [p.name for p in run.iterdir()] == ['results.json']


def test_only_its_own_folder_is_emptied(tmp_path):
  folder = tmp_path / 'new' / 'work'
  workspace.claim(folder)
  (folder / 'old').touch()
  workspace.claim(folder)
  assert (folder / 'old').exists()
  workspace.claim(folder, fresh=True)
  assert not (folder / 'old').exists()


def test_what_went_wrong_is_in_the_exit_code():
  fine = {'env': 'ok', 'loop': 'skipped, 3 s left', 'restarts': 1}
  assert orchestrator.sound(fine)
  for state in (
    'DIFFERS: ABOVE 0.003',
    'failed: RuntimeError',
    'killed after 70 s',
    'NO GPU: cpu',
    'worker ended with -11',
    'LOSS NOT FINITE [nan]',
  ):
    assert not orchestrator.sound(fine | {'correct': state})


def test_an_unknown_part_is_refused(tmp_path):
  done = _check('--out', tmp_path, '--parts', 'nonsense')
  assert done.returncode == 2 and 'nonsense: choose from' in done.stderr
