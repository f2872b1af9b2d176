import types

from arrays import jaxed
import jax
import jax.numpy as jnp
import numpy as np
import pixelwise
import pytest

from configs import abdomen
from data.task import UNKNOWN
from dbdc_jax import methods
from dbdc_jax.methods import varda
from dbdc_jax.methods.common.networks import Step
from dbdc_jax.models import counting
from dbdc_jax.models.blocks import Upsample
from dbdc_jax.models.varda import Latent, LatentLayer, VarDA
from dbdc_jax.ops import domain_distance
from dbdc_jax.runtime import parallel

KEY = jax.random.key(5)
SCALES = (4, 2, 1)


@pytest.fixture(scope='module')
def config():
  made = abdomen.get_config('method=varda')
  made.source, made.target, made.dtype = 't2', 'ct', 'float32'
  made.model.width, made.augment.patch_size = 2, 16
  return made


@pytest.fixture(scope='module')
def started(config):
  method = methods.build(config)
  return jax.jit(method.loss), *jax.jit(method.init)(jax.random.key(0))


def _signals():
  return methods.full_signals(np.ones((2, 5), bool), np.ones(2, bool))


def test_the_networks_have_the_papers_size(monkeypatch):
  """33.287 M parameters; 38.74 G at 160 x 160 and the fusion's doubling."""
  image, key = jnp.zeros((1, 160, 160, 1)), jax.random.key(0)
  init = lambda key: VarDA(8, domains=1).init(key, image, False)
  params = jax.eval_shape(init, key)['params']
  assert sum(x.size for x in jax.tree.leaves(params)) == 33_287_454
  macs = counting.macs(init, key)
  monkeypatch.setitem(counting._VALUES, Upsample, 0)
  less = counting.macs(init, key)
  assert round(less / 1e9, 2) == 38.74
  # Class maps of 1/4 doubled twice, of 1/2 once: 11 for each value.
  assert macs - less == 11 * 8 * (80**2 + 2 * 160**2)


def _balanced(z, labels):
  """Class by class, pixel by pixel."""
  p = pixelwise.softmax(np.asarray(z, float))
  found = []
  for c in np.unique(labels):
    found.append(-np.mean(np.log(p[labels == c][:, c])))
  return np.mean(found)


def test_balanced_cross_entropy_is_that_of_a_loop():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
  labels = rng.choice(2, (2, 4, 5), p=(0.9, 0.1))  # One class is missing.
  assert set(np.unique(labels)) == {0, 1}
  found = varda.balanced_cross_entropy(jnp.asarray(z), jnp.asarray(labels))
  np.testing.assert_allclose(found, _balanced(z, labels), rtol=1e-5)


def test_balanced_cross_entropy_of_what_was_drawn():
  """In the second slice class 1; class 3 in none; and no pixel of a corner."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(2, 4, 5, 4)).astype(np.float32)
  labels = rng.integers(0, 3, (2, 4, 5))
  labels[1][labels[1] == 2] = 0
  labels[:, :2, :2] = UNKNOWN
  drawn = np.array([[[1, 1, 1, 0], [0, 1, 0, 0]]], bool)
  present = jnp.array([[True, True, True, False]])
  p = pixelwise.softmax(np.asarray(z[..., :3], float))
  p[1, ..., 0] += p[1, ..., 2]
  terms = [-np.log(p[labels == c][:, c]).mean() for c in range(3)]
  found = varda.balanced_cross_entropy(
    jnp.asarray(z), jnp.asarray(labels), (present, jnp.asarray(drawn))
  )
  np.testing.assert_allclose(found, np.mean(terms), rtol=1e-5)


def test_divergence_is_0_at_the_standard_normal_alone():
  zero = jnp.zeros(3)
  np.testing.assert_array_equal(varda.divergence(zero, zero), zero)
  mean, log_variance = np.random.default_rng(0).normal(size=(2, 50))
  # KL(N(m, v) || N(0, 1)) as the mean of log p - log q over draws.
  draws = np.random.default_rng(1).normal(size=(200_000, 1))
  x = mean + np.exp(log_variance / 2) * draws
  gap = -0.5 * (log_variance + draws**2) + 0.5 * x**2
  found = varda.divergence(jnp.asarray(mean), jnp.asarray(log_variance))
  assert (np.asarray(found) > 0).all()
  np.testing.assert_allclose(found, gap.mean(0), atol=0.05, rtol=0.02)


def test_a_latents_noise_is_normal_and_belongs_to_its_sample():
  layer = LatentLayer(4, jnp.float32)
  h = np.random.default_rng(0).normal(size=(3, 32, 32, 4)).astype(np.float32)
  variables = jax.jit(layer.init, static_argnums=(2, 3))(KEY, h, None, 0)
  apply = jax.jit(layer.apply, static_argnums=3)
  keys = jax.random.split(KEY, 3)
  mean, log_variance, value = apply(variables, h, keys, 0)
  noise = np.asarray((value - mean) * np.exp(-log_variance / 2))
  # Five standard errors of 12,288 draws.
  assert abs(noise.mean()) < 0.045 and abs(noise.var() - 1) < 0.065
  turned = apply(variables, h[::-1], keys[::-1], 0)
  np.testing.assert_allclose(turned.value[::-1], value, atol=1e-5)
  assert np.abs(mean).max() <= 1 and np.abs(log_variance).max() <= 1


def _by_hand(config, params, memory, batch):
  """The terms of the loss from the network's own outputs."""
  network = VarDA(5, 2)
  images, labels, unlabeled, keys = pixelwise.views(config, batch, KEY)
  x, count = np.concatenate([images[0], unlabeled[1]]), images.shape[1]

  @jax.jit
  def run(x):
    variables = {'params': params, **memory}
    found = network.apply(variables, x, keys.reshape(-1), method='segment')
    drawn = []
    for domain, part in enumerate((slice(count), slice(count, None))):
      shown = [
        jax.nn.one_hot(labels[0][:, ::s, ::s], 5)
        if domain == 0
        else jax.nn.softmax(z[part])
        for s, z in zip(SCALES, found.logits, strict=True)
      ]
      values = [latent.value[part] for latent in found.latents]
      drawn.append(
        network.apply(
          variables, values, shown, domain, True,
          method='draw', mutable=['modulation'],
        )[0]
      )  # fmt: skip
    return found, drawn

  found, drawn = jax.device_get(run(x))
  terms = {'sup_ce': 1000 * _balanced(found.fused[:count], labels[0])}
  distance = 0.0
  for name in ('drawing', 'prior'):
    terms[name] = np.zeros(2)
  for i, s in enumerate(SCALES):
    mean, log_variance, _ = found.latents[i]
    part = labels[0][:, ::s, ::s]
    terms[f'sup{s}_ce'] = 1000 * _balanced(found.logits[i][:count], part)
    small = x.reshape(len(x), 16 // s, s, 16 // s, s, 1).mean((2, 4))
    gap = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance)
    for domain, which in enumerate((slice(count), slice(count, None))):
      q = 1 / (1 + np.exp(-np.asarray(drawn[domain][i], float)))
      p = small[which]
      error = -(p * np.log(q) + (1 - p) * np.log(1 - q))
      terms['drawing'][domain] += 10 * error.mean()
      terms['prior'][domain] += gap[which].mean()
    pooled = jaxed(domain_distance.pooled)(mean, np.exp(log_variance))
    a, b = [v[:count] for v in pooled], [v[count:] for v in pooled]
    # 10 x 10 pairs; the elements of 160 x 160 pixels and 64, 128, 256 channels.
    weight = 1e-3 * (0.1 if s == 4 else 1.0) * 100 * 102_400 / s
    distance += weight * float(domain_distance.distance(a, b))
  return terms | {'distance': distance}


def test_at_the_published_size_the_distance_is_the_published_sum(config):
  """Of 10 + 10 images of 160 x 160 pixels by the network of width 32."""
  shapes = [(40 // s, 40 // s, 64 * s) for s in SCALES]
  init = jax.eval_shape(
    lambda: VarDA(5).init_with_output(
      KEY, jnp.zeros((20, 160, 160, 1)), method='segment'
    )[0]
  )
  made = [
    jax.eval_shape(domain_distance.pooled, *latent[:2])
    for latent in init.latents
  ]
  assert [mean.shape[1:] for mean, _ in made] == shapes
  # All elements alike, so that the sum over them is a product.
  rng = np.random.default_rng(0)
  means, log_variances = rng.normal(size=(2, 20)).astype(np.float32)
  spread = lambda x, like: jnp.broadcast_to(
    x[:, None, None, None], (20, 4, 4, like[2])
  )
  latents = [
    Latent(*(spread(x, shape) for x in (means, log_variances)), None)
    for shape in shapes
  ]
  v = np.exp(log_variances) / 16
  both = v[:, None] + v
  kernel = np.exp(-0.5 * np.subtract.outer(means, means) ** 2 / both)
  kernel /= np.sqrt(both)
  sums = kernel.reshape(2, 10, 2, 10).sum((1, 3))
  sums = sums[0, 0] + sums[1, 1] - 2 * sums[0, 1]
  elements = [np.prod(shape) for shape in shapes]
  wanted = 1e-3 * sums * (0.1 * elements[0] + elements[1] + elements[2])
  step = Step(types.SimpleNamespace(config=config), None, None, None)
  found = jax.jit(lambda: varda._distance(step, latents, 10))()
  np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_terms_are_those_of_a_loop(config, started):
  loss, params, memory = started
  batch = pixelwise.batch(count=2)
  value, (new, metrics) = loss(params, memory, batch, KEY, _signals())
  counts = metrics.pop('dice_counts')
  assert counts.shape == (2, 2, 5)
  # Both sizes of the source's slices, nothing of the target's.
  assert counts[1].sum(-1).tolist() == [2 * 2 * 16 * 16, 0]
  total = sum(x.sum() for x in metrics.values())
  np.testing.assert_allclose(value, total, rtol=1e-6)
  wanted = _by_hand(config, params, memory, batch)
  assert metrics.keys() == wanted.keys()
  distance = wanted.pop('distance')
  np.testing.assert_allclose(metrics['distance'], distance / 2, rtol=1e-3)
  for name in ('drawing', 'prior'):
    np.testing.assert_allclose(metrics[name], wanted.pop(name), rtol=1e-3)
  for name, x in wanted.items():
    np.testing.assert_allclose(metrics[name], [x, 0], rtol=1e-3)
  gap = jax.tree.map(lambda a, b: a - b, new, memory)
  assert pixelwise.largest(gap) > 0


def test_what_the_target_is_labelled_with_may_be_anything(started):
  """Nor do the source's unlabelled slices take part; the target's do."""
  loss, params, memory = started
  batch, signals = pixelwise.batch(count=2), _signals()
  first = loss(params, memory, batch, KEY, signals)

  def other(kind, name, row):
    changed = np.array(batch[kind][name])
    changed[row] = changed[row][::-1, ::-1, ::-1] // 2
    return {**batch, kind: {**batch[kind], name: changed}}

  for kind, name, row in (
    ('labeled', 'label', 1),
    ('labeled', 'image', 1),
    ('unlabeled', 'image', 0),
  ):
    again = loss(params, memory, other(kind, name, row), KEY, signals)
    for a, b in zip(
      jax.tree.leaves(first), jax.tree.leaves(again), strict=True
    ):
      np.testing.assert_array_equal(a, b)
  for kind, name, row in (('labeled', 'label', 0), ('unlabeled', 'image', 1)):
    moved, _ = loss(params, memory, other(kind, name, row), KEY, signals)
    assert moved != first[0]


def test_four_devices_equal_one(config):
  """Gradients over devices: here those of the parts that look across."""
  # Rounding grows in norms over few pixels.
  pixelwise.four_equal_one(config, tolerance=2e-4, with_gradients=False)


def test_balanced_cross_entropy_and_its_gradient_on_four_devices():
  """Also where a device lacks a class that another has."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(1, 4, 3, 3, 3)).astype(np.float32)
  labels = np.zeros((1, 4, 3, 3), np.int32)
  labels += np.arange(4, dtype=np.int32).reshape(1, 4, 1, 1) % 3
  entropy = varda.balanced_cross_entropy
  loss = lambda w: lambda z, y: entropy(w * z, y)

  def one(w):
    return loss(w)(z[0], jnp.asarray(labels[0]))

  wanted = jax.jit(jax.value_and_grad(one))(jnp.ones(3))

  def step(w, batch, signals, plan):
    spread = lambda w: loss(w)(*(x[0] for x in batch))
    value, gradient = jax.value_and_grad(spread)(w)
    return value, parallel.mean_gradients(gradient)

  w, told = parallel.place((jnp.ones(3), jnp.zeros(())))
  # Arrays for all four: pmap loses count of its axes where one is None.
  found = parallel.pmap_step(step)(w, parallel.shard((z, labels)), told, told)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_size_that_does_not_divide_by_16_is_refused(config):
  wrong = config.copy_and_resolve_references()
  wrong.augment.patch_size = 24
  with pytest.raises(ValueError, match='divide by 16'):
    jax.eval_shape(methods.build(wrong).init, jax.random.key(0))
