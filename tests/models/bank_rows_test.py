"""Rows of the banks: taken, spread, selected and put back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from dbdc_jax import methods
from dbdc_jax.models import bank_rows
from dbdc_jax.ops import prototypes


def _tree(rng, modalities, classes=3):
  """What DBDC's parameters and memory look like."""
  rows = lambda *shape: rng.normal(size=(modalities, *shape)).astype('float32')
  return {
    'unet': {
      'conv': {'kernel': rng.normal(size=(3, 3, 1, 5)).astype('float32')},
      'modulation': {'scale': rows(5), 'count': rows()},
    },
    'prototype_norm': {'scale': np.ones(classes, np.float32)},
    'prototypes': prototypes.Prototypes(
      bank=rows(classes, 2),
      sums=rows(classes, 2),
      counts=rows(classes),
      ready=rng.random(modalities) < 0.5,
    ),
  }


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def test_old_rows_find_their_places_and_new_ones_start_in_between(rng):
  old, fresh = _tree(rng, 2), _tree(rng, 4)
  out = bank_rows.spread(old, fresh, [3, 1])
  for found, before, start in zip(
    jax.tree.leaves((out['unet']['modulation'], out['prototypes'])),
    jax.tree.leaves((old['unet']['modulation'], old['prototypes'])),
    jax.tree.leaves((fresh['unet']['modulation'], fresh['prototypes'])),
    strict=True,
  ):
    assert np.array_equal(found[[3, 1]], before)
    averaged = before is old['unet']['modulation']['scale']
    for row in (0, 2):
      expected = np.mean(before, 0) if averaged else start[row]
      assert np.array_equal(found[row], expected)
  assert tiny.same(out['unet']['conv'], old['unet']['conv'])
  assert tiny.same(out['prototype_norm'], old['prototype_norm'])


def test_a_normalisation_that_modalities_share_is_taken_as_it_is(rng):
  trees = [_tree(rng, 1), _tree(rng, 1)]
  old, fresh = ({'modulation': tree['unet']['modulation']} for tree in trees)
  assert tiny.same(bank_rows.spread(old, fresh, [2, 0]), old)
  with pytest.raises(ValueError, match="choose 'all'"):
    bank_rows.check('encoder', 'rows')


def test_another_network_is_no_start(rng):
  with pytest.raises(ValueError, match='not'):
    bank_rows.spread(_tree(rng, 2, 4), _tree(rng, 3), [0, 1])


def test_what_is_not_trained_keeps_its_bits_whatever_is_beside_it(rng):
  old = _tree(rng, 3)
  new = jax.tree.map(lambda x: np.where(x == x, np.nan, x), _tree(rng, 3))
  out = bank_rows.select(new, old, np.array([False, True, False]))
  bank = lambda t: np.asarray(t['prototypes'].bank)
  assert np.isnan(bank(out)[1]).all()
  assert tiny.same(bank(out)[[0, 2]], bank(old)[[0, 2]])
  assert tiny.same(out['prototype_norm'], old['prototype_norm'])
  assert tiny.same(out['unet']['conv'], old['unet']['conv'])


def test_a_row_that_is_taken_and_appended_gives_the_same_network(rng):
  whole = _tree(rng, 3)
  without = jax.tree.map(np.copy, whole)
  places = np.array([0, 1])
  without['unet']['modulation'] = jax.tree.map(
    lambda x: x[places], whole['unet']['modulation']
  )
  without['prototypes'] = jax.tree.map(lambda x: x[places], whole['prototypes'])
  row = bank_rows.take(whole, 2)
  assert tiny.same(bank_rows.append(without, row), whole)
  assert bank_rows.shared_fingerprint(whole) == bank_rows.shared_fingerprint(
    without
  )
  kernel = without['unet']['conv']['kernel']
  kernel[0, 0, 0, 0] = np.nextafter(kernel[0, 0, 0, 0], np.float32(9))
  assert bank_rows.shared_fingerprint(whole) != bank_rows.shared_fingerprint(
    without
  )
  del row['prototypes/bank']
  with pytest.raises(ValueError, match='another network'):
    bank_rows.append(without, row)


def test_a_modality_of_the_papers_network_is_4864_parameters(cache):
  """And C prototypes of length D: all that a new modality adds."""
  config = tiny.heart_config(cache)
  config.model.width = 32
  shapes = []
  for modalities in ('ct', 'ct,mr'):
    config.modalities = modalities
    init = methods.build(config).init
    shapes.append(jax.eval_shape(lambda i=init: i(jax.random.key(0))))
  one, two = (
    sum(x.size for x in jax.tree.leaves(params)) for params, _ in shapes
  )
  params, memory = shapes[0]
  assert bank_rows.count(params, 1) == two - one == 4864
  # Everything that grows with the modalities is a row, and nothing else is.
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert bank_rows.count(memory, 1) == size(shapes[1][1]) - size(memory)
  assert jnp.ndim(memory['prototypes'].bank) == 3


def test_networks_of_one_modality_each_have_no_rows():
  """Not even where one method holds two of them."""
  bank = lambda rows: {'modulation': {'mean': np.zeros((rows, 3))}}
  bank_rows.check_rows({'net': bank(2), 'other': np.zeros(5)}, 2, 'run')
  for tree in ({'net1': bank(1), 'net2': bank(1)}, {'w': np.zeros((2, 3))}):
    with pytest.raises(ValueError, match=r'run: .* 2 modalities'):
      bank_rows.check_rows(tree, 2, 'run')
