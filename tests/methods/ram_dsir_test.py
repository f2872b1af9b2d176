from arrays import jaxed
import jax
import jax.numpy as jnp
import numpy as np
import pixelwise
import pytest

from configs import abdomen
from dbdc_jax import methods
from dbdc_jax.methods import ram_dsir
from dbdc_jax.models import counting
from dbdc_jax.models.blocks import Upsample
from dbdc_jax.models.ram_dsir import RamDsir

KEY = jax.random.key(5)


@pytest.fixture(scope='module')
def config():
  made = abdomen.get_config('method=ram_dsir')
  made.source, made.target, made.dtype = 't2', 'ct', 'float32'
  made.model.width, made.augment.patch_size = 4, 16
  return made


@pytest.fixture(scope='module')
def started(config):
  method = methods.build(config)
  return method, *jax.jit(method.init)(jax.random.key(0))


def test_the_network_has_the_papers_size(monkeypatch):
  """3.798 M parameters; two passes of 0.920 G at 96 x 96."""
  image, key = jnp.zeros((1, 96, 96, 1)), jax.random.key(0)
  init = lambda key: RamDsir(8).init(key, image, False)
  params = jax.eval_shape(init, key)['params']
  assert sum(x.size for x in jax.tree.leaves(params)) == 3_798_297
  macs = counting.macs(init, key)
  assert round(macs / 1e9, 3) == 0.920
  monkeypatch.setitem(counting._VALUES, Upsample, 0)
  less = counting.macs(init, key)
  # What the decoders interpolate to each level, channels in both.
  channels = {0: 32 + 16, 1: 64 + 32, 2: 128 + 64, 3: 256 + 128}
  values = sum(c * (96 >> level) ** 2 for level, c in channels.items())
  assert macs - less == 11 * values


def _mixed_by_hand(image, donor, ratio, window):
  """In the shifted spectrum, frequency by frequency."""
  shifted = lambda x: np.fft.fftshift(np.fft.fft2(x))
  own, given = shifted(image), shifted(donor)
  amplitude, phase = np.abs(own), np.angle(own)
  reach = int(np.floor(window * min(image.shape)))
  row, column = (s // 2 for s in image.shape)
  for r in range(row - reach, row + reach + 1):
    for c in range(column - reach, column + reach + 1):
      strength = np.abs(given[r, c])
      amplitude[r, c] = ratio * amplitude[r, c] + (1 - ratio) * strength
  found = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * phase)))
  return np.clip(found.real, -1, 1)


@pytest.mark.parametrize('size', [(12, 12), (20, 33)])
def test_amplitudes_are_mixed_within_the_window(size):
  rng = np.random.default_rng(0)
  images, donors = rng.uniform(-0.4, 0.4, (2, 3, *size, 1))
  ratio = np.array([0.1, 0.5, 1.0])
  found = ram_dsir.mix_amplitude(
    jnp.asarray(images), jnp.asarray(donors), jnp.asarray(ratio), 0.1
  )
  for i in range(3):
    expected = _mixed_by_hand(
      images[i, ..., 0], donors[i, ..., 0], ratio[i], 0.1
    )
    np.testing.assert_allclose(found[i, ..., 0], expected, atol=2e-6)
  # The share 1 keeps everything; so does an image as its own donor.
  np.testing.assert_allclose(found[2], images[2], atol=2e-6)
  same = ram_dsir.mix_amplitude(
    jnp.asarray(images), jnp.asarray(images), jnp.asarray(ratio), 0.1
  )
  np.testing.assert_allclose(same, images, atol=2e-6)


def test_a_donor_gives_its_mean_and_no_structure():
  """With a window of one frequency only the mean's size moves."""
  rng = np.random.default_rng(0)
  image = rng.uniform(0.1, 0.3, (1, 8, 8, 1))
  donor = np.full((1, 8, 8, 1), 0.5)
  found = ram_dsir.mix_amplitude(
    jnp.asarray(image), jnp.asarray(donor), jnp.array([0.5]), 0.0
  )
  expected = image + (0.5 - image.mean()) / 2
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_divergence_is_that_of_a_loop():
  a, b = np.random.default_rng(0).normal(size=(2, 4, 3))
  found = ram_dsir.divergence(jnp.asarray(a), jnp.asarray(b))
  p, q = pixelwise.softmax(a), pixelwise.softmax(b)
  for i in range(4):
    total = 0.0
    for x, y in zip(p[i], q[i], strict=True):
      total += x * np.log(x / y) + y * np.log(y / x)
    np.testing.assert_allclose(found[i], total / 3, rtol=1e-4)
  np.testing.assert_array_equal(jaxed(ram_dsir.divergence)(a, a), np.zeros(4))


def test_terms_are_those_of_a_loop(config, started):
  method, params, memory = started
  batch = pixelwise.batch(count=2)
  signals = methods.full_signals(np.ones((2, 5), bool), np.ones(2, bool))
  value, (new, metrics) = jax.jit(method.loss)(
    params, memory, batch, KEY, signals
  )
  total = sum(v for name, v in metrics.items() if name != 'dice_counts')
  np.testing.assert_allclose(value, total[0], rtol=1e-5)
  np.testing.assert_array_equal(total[1], 0)
  assert set(metrics) == {
    'sup_ce', 'sup_dice', 'sup_mixed_ce', 'sup_mixed_dice', 'consistency',
    'restoration', 'dice_counts',
  }  # fmt: skip
  # The same by hand, from the network's outputs for both views.
  network = RamDsir(5, 4)
  images, labels, donors, keys = pixelwise.views(config, batch, KEY)
  ratio = [int(jax.random.randint(k, (), 1, 11)) / 10 for k in keys[0]]
  x = 2 * images[0] - 1
  mixed = np.stack(
    [
      _mixed_by_hand(i[..., 0], d[..., 0], r, 0.1)
      for i, d, r in zip(x, 2 * donors[0] - 1, ratio, strict=True)
    ]
  )[..., None]
  apply = jax.jit(
    lambda x: network.apply(
      {'params': params, **memory}, x, True, mutable=['modulation']
    )[0]
  )
  (clean, _), (other, restored) = apply(x), apply(mixed)
  clean, other = np.asarray(clean)[None], np.asarray(other)[None]
  expected = {'restoration': 0.1 * np.mean((np.asarray(restored) - x) ** 2)}
  for name, z in (('sup', clean), ('sup_mixed', other)):
    expected[f'{name}_ce'] = pixelwise.cross_entropy(z, labels[:1])[0]
    p, scores = pixelwise.softmax(z), []
    for c in range(1, 5):
      g = labels[:1] == c
      q = p[..., c]
      below = (q**2).sum() + g.sum() + 1e-5
      scores.append(1 - (2 * q[g].sum() + 1e-5) / below)
    expected[f'{name}_dice'] = np.mean(scores)
  p, q = pixelwise.softmax(clean), pixelwise.softmax(other)
  gap = (p - q) * (np.log(p) - np.log(q))
  expected['consistency'] = 0.5 * gap.mean()
  for name, wanted in expected.items():
    np.testing.assert_allclose(metrics[name][0], wanted, rtol=1e-3)
  changed = pixelwise.largest(jax.tree.map(lambda a, b: a - b, new, memory))
  assert changed > 0


def test_the_target_has_no_part_in_training(started):
  """Not by its images, nor by its labels, nor by what is said of it."""
  method, params, memory = started
  batch = pixelwise.batch(count=2)
  signals = methods.full_signals(np.ones((2, 5), bool), np.ones(2, bool))
  run = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
  first = run(params, memory, batch, KEY, signals)
  other = {kind: dict(parts) for kind, parts in batch.items()}
  for kind, name in (
    ('labeled', 'image'), ('labeled', 'label'), ('unlabeled', 'image')
  ):  # fmt: skip
    changed = np.array(other[kind][name])
    changed[1] = changed[1][::-1, ::-1, ::-1] // 2
    other[kind][name] = changed
  signals = signals._replace(present=signals.present.at[1].set(False))
  again = run(params, memory, other, KEY, signals)
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(a, b)


def test_four_devices_equal_one(config):
  # The deepest norms divide by the spread of four values: rounding grows there.
  pixelwise.four_equal_one(config, tolerance=5e-4)


def test_own_recipe_has_half_the_rate_in_the_encoder(config):
  own = config.copy_and_resolve_references()
  own.recipe = 'own'
  method = methods.build(own)
  assert method.recipe.learning_rate == 1e-3
  params, _ = jax.eval_shape(method.init, jax.random.key(0))
  ones = jax.tree.map(lambda x: jnp.ones(x.shape), params)
  updates, _ = method.recipe.tx.update(ones, method.recipe.tx.init(ones), ones)
  for name, tree in updates.items():
    rate = 0.5 if name.startswith('encoder') else 1.0
    for x in jax.tree.leaves(tree):
      np.testing.assert_allclose(x, rate, rtol=1e-5)


def test_a_size_that_does_not_divide_by_16_is_refused(config):
  wrong = config.copy_and_resolve_references()
  wrong.augment.patch_size = 24
  with pytest.raises(ValueError, match='divide by 16'):
    jax.eval_shape(methods.build(wrong).init, jax.random.key(0))
