from arrays import jaxed
import jax
import jax.numpy as jnp
import numpy as np
import pixelwise
import pytest

from configs import abdomen, heart
from dbdc_jax import methods
from dbdc_jax.methods import summl
from dbdc_jax.methods.common import plain
from dbdc_jax.models import counting
from dbdc_jax.models.patch_gan import PatchGan
from dbdc_jax.models.unet import UNet

KEY = jax.random.key(5)
NAMES = ('net1', 'net2')


@pytest.fixture
def method(monkeypatch):
  return pixelwise.build(monkeypatch, pixelwise.config('summl'))


def _passed(params, images):
  """One network's logits of `[n, H, W, 1]` images."""
  return pixelwise.passed(params, images[None])[0][0]


def _taught(teacher, student, share):
  labels, kept = pixelwise.sorted_share(teacher, share)
  p = pixelwise.softmax(student)[kept]
  return -np.mean([np.log(q[y]) for q, y in zip(p, labels[kept], strict=True)])


def test_loss_is_that_of_a_loop(method):
  config, batch = pixelwise.config('summl'), pixelwise.batch()
  params, memory = jax.jit(method.init)(jax.random.key(0))
  value, metrics, new, (_, of_memory) = pixelwise.evaluate(
    method, params, memory, batch, KEY, pixelwise.signals()
  )
  images, labels, unlabeled, _ = pixelwise.views(config, batch, KEY)
  everything = np.concatenate([images, unlabeled], 1)
  count = images.shape[1]
  segment, generate = params['segmenter'], params['generator']
  own, other, made, cycle = [], [], [], []
  for x, here, there in zip(everything, NAMES, NAMES[::-1], strict=True):
    own.append(_passed(segment[here], x))
    fake = np.tanh(_passed(generate[here], 2 * x - 1))
    other.append(_passed(segment[there], (fake + 1) / 2))
    back = np.tanh(_passed(generate[there], fake))
    made.append(fake)
    cycle.append(10 * np.abs(back - (2 * x - 1)).mean())
  own, other = np.stack(own), np.stack(other)
  judge = lambda k, x: np.asarray(
    jaxed(PatchGan(2 * config.model.width).apply)(
      {'params': params['discriminator'][NAMES[k]]}, x
    )
  )
  real = [judge(k, 2 * everything[k] - 1) for k in range(2)]
  fake = [judge(k, made[1 - k]) for k in range(2)]
  expected = {
    'sup_ce': pixelwise.cross_entropy(own[:, :count], labels),
    'sup_dice': pixelwise.dice(own[:, :count], labels),
    'translated_ce': pixelwise.cross_entropy(other[:, :count], labels),
    'translated_dice': pixelwise.dice(other[:, :count], labels),
    'generator': [np.mean((f - 1) ** 2) for f in fake],
    'discriminator': [
      (np.mean((r - 1) ** 2) + np.mean(f**2)) / 2
      for r, f in zip(real, fake, strict=True)
    ],
    'cycle': cycle,
    'consistency': [
      0.5 * pixelwise.divergence(z, w) for z, w in zip(own, other, strict=True)
    ],
    # At the end of the run 80 % of each class teach.
    'teach_other': [
      0.5 * _taught(z[count:], w[count:], 0.8)
      for z, w in zip(own, other, strict=True)
    ],
    'teach_own': [
      0.5 * _taught(w[count:], z[count:], 0.8)
      for z, w in zip(own, other, strict=True)
    ],
  }
  assert metrics.keys() == expected.keys() | {'dice_counts'}
  for name, terms in expected.items():
    # Confidence is told apart in steps: a few pixels more may be kept.
    slack = 0.01 if name.startswith('teach') else 2e-4
    np.testing.assert_allclose(metrics[name], terms, rtol=slack)
  total = sum(np.sum(metrics[name]) for name in expected)
  np.testing.assert_allclose(value, total, rtol=1e-5)
  assert pixelwise.largest(of_memory) == 0
  assert set(new['modulation']) == set(NAMES)


def test_statistics_are_of_a_modality_s_own_slices(method):
  """Whatever the translators make of the other's."""
  params, memory = jax.jit(method.init)(jax.random.key(0))
  other = jax.tree.map(lambda x: x + 1, params['generator'])
  batch = jax.tree.map(jnp.asarray, pixelwise.batch())
  run = jax.jit(
    lambda p: method.loss(p, memory, batch, KEY, pixelwise.signals())[1][0]
  )
  one, two = run(params), run({**params, 'generator': other})
  one, two = one['modulation'], two['modulation']
  jax.tree.map(np.testing.assert_array_equal, one, two)
  assert pixelwise.largest(one['net1']) > 0


def test_translator_and_discriminator_move_apart():
  """Neither's loss has a gradient in the other."""
  net, rng = PatchGan(2), np.random.default_rng(0)
  draw = lambda: jnp.asarray(rng.normal(size=(2, 1, 24, 24, 1)), jnp.float32)
  real, made = draw(), draw()
  params = {n: net.init(KEY, real[0])['params'] for n in NAMES}

  @jax.jit
  def gradients(params, made):
    term = lambda p, m, name: summl.adversarial_terms(net, p, real, m, m)[
      name
    ].sum()
    return [
      jax.grad(term, (0, 1))(params, made, name)
      for name in ('generator', 'discriminator')
    ]

  (to_params, to_made), (of_params, of_made) = gradients(params, made)
  assert pixelwise.largest(to_params) == 0 < pixelwise.largest(to_made)
  assert pixelwise.largest(of_made) == 0 < pixelwise.largest(of_params)


def test_until_the_start_no_translation_teaches(method):
  """Whatever it is; real labels and the game do."""
  params, memory = jax.jit(method.init)(jax.random.key(0))
  early = pixelwise.signals(active=jnp.asarray(False))
  _, metrics, _, (gradients, _) = pixelwise.evaluate(
    method, params, memory, pixelwise.batch(), KEY, early
  )
  for name in ('translated_ce', 'consistency', 'teach_own', 'teach_other'):
    np.testing.assert_array_equal(metrics[name], 0)
  other = jax.tree.map(lambda x: x + 1, params['generator'])
  *_, (of_other, _) = pixelwise.evaluate(
    method,
    {**params, 'generator': other},
    memory,
    pixelwise.batch(),
    KEY,
    early,
  )
  jax.tree.map(
    np.testing.assert_array_equal, gradients['segmenter'], of_other['segmenter']
  )
  assert pixelwise.largest(gradients['segmenter']) > 0
  assert pixelwise.largest(gradients['generator']) > 0


def test_each_modality_is_tested_by_its_own_segmenter(method):
  params, memory = jax.jit(method.init)(jax.random.key(0))
  images = np.random.default_rng(0).normal(size=(2, 24, 24, 1))
  predict = lambda p, ids: np.asarray(
    jax.jit(method.predict)(p, memory, images, np.array(ids))
  )
  segmenters = params['segmenter']
  moved = jax.tree.map(lambda x: x + 1, segmenters['net2'])
  other = {**params, 'segmenter': {**segmenters, 'net2': moved}}
  one, two = predict(params, [0, 1]), predict(other, [0, 1])
  np.testing.assert_array_equal(one[0], two[0])
  assert not np.allclose(one[1], two[1])
  np.testing.assert_array_equal(predict(params, [1, 1])[1], one[1])


def test_parameters_and_multiply_accumulates_are_the_papers():
  config = heart.get_config('scans=/d,method=summl')
  init = methods.build(config).init
  params, _ = jax.eval_shape(init, jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(params))
  assert count == 25_024_340
  judge, image = PatchGan(), jnp.zeros((1, 96, 96, 1))
  variables = jax.eval_shape(judge.init, KEY, image)
  macs = counting.macs(judge.apply, variables, image)
  nets = sum(counting.of_unet(UNet(outputs, 1), 96)[1] for outputs in (8, 1))
  assert 2 * (nets + macs) // 10**6 == 23_458


def test_anything_but_two_modalities_is_refused():
  config = abdomen.get_config('method=summl')
  with pytest.raises(ValueError, match=r'two modalities.*this is 4 modalities'):
    methods.build(config)
  config.modalities, config.joint = 'ct,t2', 'false'
  with pytest.raises(ValueError, match='joint=false'):
    methods.build(config)


def test_parts_have_rates_of_their_own():
  """Adam's first step is its rate, whatever the gradient."""
  config = heart.get_config('method=summl,preset=paper')
  tx = methods.build(config).recipe.tx
  kinds = ('segmenter', 'generator', 'discriminator')
  params = {kind: jnp.ones(1) for kind in kinds}
  updates, _ = tx.update(params, tx.init(params), params)
  found = [float(updates[kind][0]) for kind in kinds]
  # Published: 1e-4 and 2e-4.
  np.testing.assert_allclose(found, [1, 2, 2], rtol=1e-5)


def test_ramp_of_the_recipes():
  config = pixelwise.config('summl', recipe='own')
  signals = pixelwise.signals(progress=jnp.float32(0.5))
  step = lambda made: pixelwise.step(made, signals)
  np.testing.assert_allclose(plain.ramp(step(config)), np.exp(-1.25))
  assert plain.ramp(step(pixelwise.config('summl'))) == 0.5
