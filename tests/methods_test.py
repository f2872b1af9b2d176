"""Every method on every task: what a new one has to live up to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import abdomen, heart
from data.task import TASKS
from dbdc_jax import methods

CONFIGS = {'heart': heart, 'abdomen': abdomen}
B, SIZE = 2, 16


def _batch(modalities, classes):
  rng = np.random.default_rng(0)
  shape = (modalities, B, SIZE, SIZE)
  image = lambda: rng.integers(0, 65536, shape).astype(np.uint16)
  index = np.arange(modalities * B, dtype=np.int32).reshape(modalities, B)
  label = rng.integers(0, classes, shape).astype(np.uint8)
  return {
    'labeled': {'image': image(), 'label': label, 'index': index},
    'unlabeled': {'image': image(), 'index': index},
  }


@pytest.mark.parametrize('task', sorted(TASKS))
@pytest.mark.parametrize('name', methods.names())
def test_two_steps_of_every_method_on_every_task(name, task):
  config = CONFIGS[task].get_config(f'method={name}')
  config.model.width, config.model.embedding_dim = 2, 4
  config.augment.patch_size = SIZE
  method = methods.build(config)
  if not method.joint:
    config.modalities = TASKS[task].modalities[0].name
    method = methods.build(config)
  classes = len(TASKS[task].classes)
  modalities = len(TASKS[task].select(config.modalities))
  signals = methods.full_signals(
    jnp.ones((modalities, classes), bool), jnp.ones(modalities, bool)
  )
  batch = _batch(modalities, classes)
  if not method.unlabeled:
    del batch['unlabeled']

  @jax.jit
  def step(params, memory, key):
    (loss, (memory, metrics)), gradients = jax.value_and_grad(
      method.loss, has_aux=True
    )(params, memory, batch, key, signals)
    params = jax.tree.map(lambda p, g: p - 1e-2 * g, params, gradients)
    return params, method.update(params, memory), (loss, metrics, gradients)

  params, memory = jax.jit(method.init)(jax.random.key(0))
  shapes = jax.tree.map(jnp.shape, (params, memory))
  for index in range(2):
    params, memory, (loss, metrics, gradients) = step(
      params, memory, jax.random.key(index)
    )
    assert np.isfinite(loss) and np.isfinite(optax.tree.norm(gradients))
    assert metrics['dice_counts'].shape == (2, modalities, classes)
  assert jax.tree.map(jnp.shape, (params, memory)) == shapes
  images = jnp.zeros((3, SIZE, SIZE, 1))
  ids = jnp.arange(3, dtype=jnp.int32) % modalities
  logits = jax.jit(method.predict)(params, memory, images, ids)
  assert logits.shape == (3, SIZE, SIZE, classes)


def test_an_unknown_assignment_is_refused():
  config = heart.get_config()
  config.mpcl.assignment = 'sinkhron'
  with pytest.raises(ValueError, match='choose sinkhorn or label'):
    methods.build(config)
