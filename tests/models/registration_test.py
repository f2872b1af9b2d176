import itertools

from arrays import jaxed
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from dbdc_jax.models import counting, registration

SHAPE = (6, 7, 5)


def _draw(seed, *shape):
  found = np.random.default_rng(seed).normal(size=shape)
  return found.astype(np.float32)


def test_no_flow_is_the_identity():
  volume, none = _draw(0, 2, *SHAPE, 3), np.zeros((2, *SHAPE, 3), np.float32)
  labels = np.random.default_rng(0).integers(0, 9, (2, *SHAPE))
  np.testing.assert_array_equal(registration.warp(volume, none), volume)
  np.testing.assert_array_equal(registration.warp_labels(labels, none), labels)


def test_a_whole_flow_moves_voxels_and_0_comes_in():
  volume = _draw(0, 1, *SHAPE, 1)
  flow = np.broadcast_to(np.float32([1, -2, 0]), (1, *SHAPE, 3))
  expected = np.zeros_like(volume)
  expected[:, :-1, 2:] = volume[:, 1:, :-2]
  np.testing.assert_array_equal(registration.warp(volume, flow), expected)
  labels = (10 * volume[..., 0]).astype(int)
  found = registration.warp_labels(labels, flow)
  np.testing.assert_array_equal(found, (10 * expected[..., 0]).astype(int))


def test_warping_is_scipy_s_interpolation():
  volume, flow = _draw(0, 1, *SHAPE, 1), 1.5 * _draw(1, 1, *SHAPE, 3)
  where = np.moveaxis(np.indices(SHAPE), 0, -1) + flow[0]
  padded = np.pad(volume[0, ..., 0], 9)
  places = np.moveaxis(where, -1, 0) + 9
  expected = ndimage.map_coordinates(padded, places, order=1)
  found = jax.jit(registration.warp)(volume, flow)[0, ..., 0]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  labels = np.random.default_rng(0).integers(0, 9, (1, *SHAPE))
  expected = ndimage.map_coordinates(np.pad(labels[0], 9), places, order=0)
  found = registration.warp_labels(labels, flow)[0]
  np.testing.assert_array_equal(found, expected)


def test_cost_is_that_of_a_loop_over_shifts():
  source, target = _draw(0, 2, 3, 4, 3, 2), _draw(1, 2, 3, 4, 3, 2)
  found = np.asarray(jax.jit(registration.cost_volume)(source, target))
  padded = np.pad(source, ((0, 0), *((2, 2),) * 3, (0, 0)))
  shifts = itertools.product(range(5), repeat=3)
  for index, (d, h, w) in enumerate(shifts):
    moved = padded[:, d : d + 3, h : h + 4, w : w + 3]
    expected = (moved * target).mean(-1)
    np.testing.assert_allclose(found[..., index], expected, atol=1e-6)
  # Where nothing is shifted, features meet themselves.
  same = jaxed(registration.cost_volume)(source, source)
  np.testing.assert_allclose(same[..., 62], (source**2).mean(-1), atol=1e-6)


def test_slices_and_the_kernel_s_slices_make_the_convolution():
  x = jnp.asarray(_draw(0, 2, 4, 6, 5, 2))
  for stride in (1, 2):
    ours = registration.Conv3(3, stride)
    params = ours.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1, params)
    usual = nn.Conv(3, (3, 3, 3), stride, padding=1)
    found, expected = (
      jax.jit(jax.value_and_grad(lambda p, n=n: jnp.sum(n.apply(p, x) ** 2)))(
        params
      )
      for n in (ours, usual)
    )
    for a, b in zip(
      jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4)


def test_doubling_is_the_transposed_convolution():
  x = jnp.asarray(_draw(0, 2, 3, 4, 5, 2))
  ours = registration.Doubling(3)
  params = ours.init(jax.random.key(0), x)
  params = jax.tree.map(lambda p: p + 0.1, params)
  usual = nn.ConvTranspose(3, (4, 4, 4), (2, 2, 2))
  found, expected = (jax.jit(net.apply)(params, x) for net in (ours, usual))
  assert found.shape == (2, 6, 8, 10, 3)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def _shapes(width=32, size=(40, 192, 192)):
  encoder, decoder = registration.Encoder(width), registration.Decoder(width)
  x, key = jax.ShapeDtypeStruct((1, *size, 1), jnp.float32), jax.random.key(0)
  of_encoder = jax.eval_shape(encoder.init, key, x)
  features = jax.eval_shape(encoder.apply, of_encoder, x)
  of_decoder = jax.eval_shape(decoder.init, key, features, features)

  def register(of_encoder, of_decoder, a, b):
    features = (encoder.apply(of_encoder, x) for x in (a, b))
    return decoder.apply(of_decoder, *features)

  return register, (of_encoder, of_decoder, x, x)


def test_parameters_and_multiply_accumulates_are_the_papers():
  """An encoder for each of two modalities, one decoder; one registration."""
  register, arguments = _shapes()
  encoder, decoder = (
    sum(x.size for x in jax.tree.leaves(p)) for p in arguments[:2]
  )
  assert 2 * encoder + decoder == 721_109
  macs = counting.macs(register, *arguments)
  assert round(macs / 1e9, 2) == 61.44
  flow = jax.eval_shape(register, *arguments)
  assert flow.shape == (1, 40, 192, 192, 3)


def test_a_grid_that_cannot_be_halved_thrice_is_refused():
  with pytest.raises(ValueError, match=r'12 x 16 x 16 voxels.*divide by 8'):
    _shapes(8, (12, 16, 16))


def test_the_head_gives_unit_vectors_also_of_nothing():
  head = registration.Head(4)
  x = jnp.concatenate([_draw(0, 1, 2, 3, 3, 4), jnp.zeros((1, 2, 3, 3, 4))])
  params = head.init(jax.random.key(0), x)
  found = np.asarray(head.apply(params, x))
  assert found.shape == (2, 8, 16)
  np.testing.assert_allclose(np.linalg.norm(found[0], axis=-1), 1, rtol=1e-4)
  gradients = jax.grad(lambda p: head.apply(p, 0 * x).sum())(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
