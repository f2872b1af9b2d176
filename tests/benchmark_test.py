import json

import jax
import numpy as np
import pytest

from dbdc_jax import benchmark
from dbdc_jax.benchmarking import (
  collectives,
  parts,
  prediction,
  program,
  scores,
  steps,
  tables,
  waiting,
  workload,
)
from dbdc_jax.models import counting
from dbdc_jax.models.unet import UNet
from dbdc_jax.runtime import parallel

SMALL = workload.Workload(
  method='supervised', width=2, patch=16, batch=4, classes=3, dtype='float32'
)


@pytest.fixture(scope='module')
def row():
  (found,) = steps.measure([SMALL], rounds=2)
  return found


def test_a_step_is_three_passes_of_the_network(row):
  """Forward, and one gradient each of input and kernel; the image has none."""
  forward = counting.of_unet(UNet(3, 1, 2), 16)[1]
  counted = row['counted_macs'] / SMALL.batch
  assert 2 * forward < counted < 3 * forward


def test_rates_follow_from_times_and_counts(row):
  assert row['quartile_low_ms'] <= row['median_ms'] <= row['quartile_high_ms']
  seconds = row['median_ms'] / 1e3
  np.testing.assert_allclose(row['images_per_second'], SMALL.batch / seconds)
  np.testing.assert_allclose(
    row['flops_per_second'], 2 * row['counted_macs'] / seconds
  )
  assert 0 < row['share_of_matmul_rate'] < 1
  assert row['compile_seconds'] > 0 and row['memory']['program'] > 0


def test_the_table_has_a_line_for_each_step(row, tmp_path):
  text = tables.steps_table([row, row | {'width': 77}])
  assert 'supervised' in text and '77' in text
  tables.write_json({'steps': [row]}, str(tmp_path / 'found.json'))
  (read,) = json.loads((tmp_path / 'found.json').read_text())['steps']
  assert read['counted_macs'] == row['counted_macs']


def test_what_a_step_sends_is_its_gradients_and_little_more():
  found = collectives.count(SMALL)
  assert found['devices'] == parallel.device_count() == 4
  shapes = jax.eval_shape(workload.build_method(SMALL).init, jax.random.key(0))[
    0
  ]
  size = 4 * sum(x.size for x in jax.tree.leaves(shapes))
  assert found['gradient_bytes'] == size
  sent = found['kinds']['all_reduce']['bytes']
  assert size <= sent < 1.2 * size
  assert found['ring_bytes'] == round(2 * 3 / 4 * sent)


def test_macs_of_a_loop_count_as_often_as_it_runs():
  product = lambda x: jax.lax.fori_loop(0, 5, lambda _, y: y @ x, x)
  found = program.count(jax.jit(product), np.ones((8, 8), np.float32))
  assert found.macs == 5 * 8**3


def test_every_part_says_what_leaving_it_out_means():
  assert {'encoder', 'decoder', 'losses', 'optimizer'} <= parts.of(
    'supervised'
  ).keys()
  assert {'projector', 'Sinkhorn'} <= parts.of('dbdc').keys()
  assert all(part.meaning for part in parts.of('dbdc').values())


def test_a_step_without_a_part_has_less_to_compute():
  """Of dbdc, traced only: nothing is compiled."""
  small = workload.Workload(
    modalities=2, width=2, patch=16, batch=4, classes=3, embedding_dim=4
  )
  macs = lambda step: program.count(step.function, *step.arguments).macs
  whole = macs(workload.make(small))
  assert macs(parts.of('dbdc')['Sinkhorn'].without(small)) < whole
  # What stands in for the others fits in.
  for name in ('encoder', 'decoder'):
    step = parts.of('dbdc')[name].without(small)
    assert 'convolution' in step.function.lower(*step.arguments).as_text()
  four = workload.make(
    workload.Workload(
      modalities=4, width=2, patch=16, batch=4, classes=3, embedding_dim=4
    )
  )
  # Twice the modalities are twice the images, and more pairs of prototypes.
  assert 2 * whole < macs(four) < 2.2 * whole


def test_waiting_for_data_is_a_share_of_the_loop(cache, tmp_path):
  config = waiting.config(SMALL)
  config.data.cache, config.phantom.size = str(cache), 'tiny'
  config.phantom.subjects, config.data.slice_size = 5, 32
  found = waiting.measure(config, tmp_path, 2)
  assert 0 <= found['waiting_share'] <= 1 and found['steps'] == 2
  assert found['steps_per_epoch'] > 0
  assert set(found['batches_per_second']) == {'device', 'host', 'decoded'}
  assert min(found['batches_per_second'].values()) > 0


def test_the_volumes_are_alike_as_a_prediction_and_its_reference():
  found = scores.measure((48, 48, 40), repeats=1)
  assert 0.5 < found['dice'] < 1 and found['hd95_mm'] > 0


def test_unknown_methods_and_nothing_to_do_are_refused(capsys):
  for arguments in ([], ['--steps', '--methods', 'unet']):
    with pytest.raises(SystemExit) as caught:
      benchmark.main(arguments)
    assert caught.value.code == 2
  assert 'unknown methods unet; there are: cps' in capsys.readouterr().err


def test_a_predictions_parts_add_up():
  found = prediction.measure(SMALL, shape=(20, 24, 10), repeats=1)
  parts_of_it = sum(found[k] for k in ('read', 'resample', 'network', 'write'))
  np.testing.assert_allclose(parts_of_it, found['total'])
  assert min(found[k] for k in ('read', 'network', 'write')) > 0
  assert '20 x 24 x 10' in tables.predict_line(found)
