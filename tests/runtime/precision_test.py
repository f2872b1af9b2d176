"""Products of float32 arrays are exact where a step computes in bfloat16."""

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from dbdc_jax import methods
from dbdc_jax.benchmarking import workload
from dbdc_jax.runtime import precision

NAMES = sorted(n for n in methods.names() if not n.endswith('_full'))
# Layers that compute in float32 whatever the dtype, as exactly as the device
# does by default: convolutions of the flow, and the head.
LAYERS = {'mass': ('conv_general_dilated', 'Head')}
PRODUCTS = ('dot_general', 'conv_general_dilated')


def _products(jaxpr):
  """Each product of two arrays, wherever it is called."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in PRODUCTS:
      yield eqn
    for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
      if _is_jaxpr(value):
        yield from _products(getattr(value, 'jaxpr', value))


def _is_jaxpr(value):
  return hasattr(getattr(value, 'jaxpr', value), 'eqns')


def _inexact(jaxpr):
  """Those that take float32 and may drop bits of it, as text."""
  exact = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
  return {
    f'{eqn.source_info.name_stack}: {eqn}'
    for eqn in _products(jaxpr)
    if any(v.aval.dtype == 'float32' for v in eqn.invars)
    and eqn.params['precision'] not in (exact, lax.Precision.HIGHEST)
  }


@pytest.mark.parametrize('name', NAMES)
def test_products_of_float32_drop_no_bits(name):
  """Forward and backward, of every loss."""
  count = max(workload.modality_counts(name, [2]))
  work = workload.Workload(
    method=name,
    modalities=count,
    width=4,
    patch=32,
    batch=4,
    embedding_dim=8,
    dtype='bfloat16',
  )
  method = workload.build_method(work)
  batch = jax.tree.map(jnp.asarray, workload.random_batch(work, method, 4))
  present = jnp.ones((count, work.classes), bool)
  signals = methods.full_signals(present, jnp.ones(count, bool))

  def gradient(key):
    params, memory = method.init(key)
    loss = lambda params: method.loss(params, memory, batch, key, signals)[0]
    return jax.grad(loss)(params)

  jaxpr = jax.make_jaxpr(gradient)(jax.random.key(0)).jaxpr
  assert any(_products(jaxpr))
  found = _inexact(jaxpr)
  layers = LAYERS.get(name, ())
  assert not {text for text in found if not any(x in text for x in layers)}


def test_a_product_with_few_bits_is_found():
  """In a loop of a mapped function, too."""

  def step(x, **settings):
    body = lambda _, y: jnp.dot(y, x, **settings)
    return lax.fori_loop(0, 2, body, x)

  x = jnp.ones((4, 4))
  trace = lambda f: jax.make_jaxpr(jax.jit(f))(x).jaxpr
  assert len(_inexact(trace(step))) == 1
  assert not _inexact(trace(lambda x: step(x, precision=precision.EXACT)))
  assert not _inexact(trace(lambda x: step(x.astype('bfloat16'))))
