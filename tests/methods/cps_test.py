import jax
import jax.numpy as jnp
import numpy as np
import pixelwise
import pytest
import tiny

from configs import abdomen, heart
from dbdc_jax import methods
from dbdc_jax.models import counting
from dbdc_jax.models.unet import UNet
from dbdc_jax.training import train
from dbdc_jax.workdir.metric_writer import read_epochs

KEY = jax.random.key(5)


@pytest.fixture
def method(monkeypatch):
  return pixelwise.build(monkeypatch, pixelwise.config('cps'))


def test_loss_is_that_of_a_loop(method):
  config, batch = pixelwise.config('cps'), pixelwise.batch()
  params, memory = jax.jit(method.init)(jax.random.key(0))
  value, metrics, new, (_, of_memory) = pixelwise.evaluate(
    method, params, memory, batch, KEY, pixelwise.signals()
  )
  images, labels, unlabeled, _ = pixelwise.views(config, batch, KEY)
  first, second = (
    pixelwise.passed(params[name], images, unlabeled)
    for name in ('net1', 'net2')
  )
  labeled = {
    'sup_ce': pixelwise.cross_entropy(first[0], labels) / 2,
    'sup_dice': pixelwise.dice(first[0], labels) / 2,
    'sup2_ce': pixelwise.cross_entropy(second[0], labels) / 2,
    'sup2_dice': pixelwise.dice(second[0], labels) / 2,
  }
  cross = {
    'cross_ce': pixelwise.cross_entropy(first[1], second[1].argmax(-1)),
    'cross2_ce': pixelwise.cross_entropy(second[1], first[1].argmax(-1)),
  }
  for name, expected in (labeled | cross).items():
    np.testing.assert_allclose(metrics[name], expected, rtol=1e-4)
  total = sum(labeled.values()) + 0.1 * 0.5 * sum(cross.values())
  np.testing.assert_allclose(value, total.sum(), rtol=1e-4)
  assert pixelwise.largest(of_memory) == 0
  assert set(new['modulation']) == {'net1', 'net2'}


def test_a_pseudo_label_teaches_one_network_and_not_its_author(method):
  """The gradient of one network's cross term in the other's weights is 0."""
  params, memory = jax.jit(method.init)(jax.random.key(0))
  batch = jax.tree.map(jnp.asarray, pixelwise.batch())
  signals = pixelwise.signals()

  @jax.jit
  def gradients(params):
    term = lambda p, name: method.loss(p, memory, batch, KEY, signals)[1][1][
      name
    ].sum()
    return [jax.grad(term)(params, name) for name in ('cross_ce', 'cross2_ce')]

  first, second = gradients(params)
  assert pixelwise.largest(first['net2']) == 0
  assert pixelwise.largest(second['net1']) == 0
  assert pixelwise.largest(first['net1']) > 0
  assert pixelwise.largest(second['net2']) > 0


def test_the_two_start_differently_and_the_first_is_tested(method):
  params, memory = jax.jit(method.init)(jax.random.key(0))
  gap = jax.tree.map(lambda a, b: a - b, params['net1'], params['net2'])
  assert pixelwise.largest(gap) > 0
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 1))
  predict = lambda p: np.asarray(
    jax.jit(method.predict)(p, memory, images, np.array([0, 1]))
  )
  other = {**params, 'net2': jax.tree.map(lambda x: x + 1, params['net2'])}
  np.testing.assert_array_equal(predict(params), predict(other))
  w, b = params['net1']['w'], params['net1']['b']
  # Statistics are those of the start: mean 0, variance 1.
  np.testing.assert_allclose(predict(params), images * w + b, atol=1e-4)


def test_the_second_is_the_first_if_they_change_places(method):
  params, memory = jax.jit(method.init)(jax.random.key(0))
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 1))
  swap = lambda tree: {'net1': tree['net2'], 'net2': tree['net1']}
  swapped = swap(params), {'modulation': swap(memory['modulation'])}
  ids = np.array([0, 1])
  np.testing.assert_array_equal(
    jax.jit(method.second)(params, memory, images, ids),
    jax.jit(method.predict)(*swapped, images, ids),
  )


def test_a_run_records_the_second_networks_validation_too(tmp_path, capsys):
  config = tiny.heart_config(tmp_path / 'cache', 'method=cps')
  config.modalities, config.epochs = 'ct', 1
  train.train(config, tmp_path / 'run')
  (row,) = read_epochs(tmp_path / 'run' / 'ct')
  first, second = row['validation_dice/ct'], row['validation2_dice/ct']
  assert 0 <= second <= 1 and second != first
  said = f'DSC {100 * first:.1f} % (second network {100 * second:.1f} %)'
  assert said in capsys.readouterr().err


@pytest.mark.parametrize(('task', 'classes'), [('heart', 8), ('abdomen', 5)])
@pytest.mark.parametrize('name', ['cps', 'evil'])
def test_two_networks_have_twice_the_parameters(name, task, classes):
  config = {'heart': heart, 'abdomen': abdomen}[task].get_config('scans=/d')
  config.method, config.modalities = name, 'ct'
  init = methods.build(config).init
  params, _ = jax.eval_shape(init, jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(params))
  assert count == 2 * counting.of_unet(UNet(classes, 1), 16)[0]
  assert round(count / 1e6, 2) == 9.75
