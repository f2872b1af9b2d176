import types

from arrays import jaxed
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import abdomen, heart
from dbdc_jax import methods
from dbdc_jax.inference import trained_run, voting
from dbdc_jax.methods import mass
from dbdc_jax.methods.common import base
from dbdc_jax.models import registration
from dbdc_jax.ops.local_correlation import local_correlation
from dbdc_jax.runtime import parallel
from dbdc_jax.training import train

K, B, D, SIZE, C = 2, 4, 8, 16, 8
KEY = jax.random.key(5)
ALL = np.ones((K, C), bool)


def _config(**fields):
  config = heart.get_config('method=mass')
  config.model.width, config.dtype = 4, 'float32'
  config.mass.depth, config.data.slice_size, config.mass.volumes = D, SIZE, B
  config.update_from_flattened_dict(fields)
  return config


def _batch():
  rng = np.random.default_rng(0)
  index = np.arange(K * B, dtype=np.int32).reshape(K, B)
  shape = (K, B, D, SIZE, SIZE)
  draw = lambda: rng.integers(0, 65536, shape).astype(np.uint16)
  label = rng.integers(0, C, (K, B, 2, 4, 4)).astype(np.uint8)
  label = label.repeat(4, 2).repeat(4, 3).repeat(4, 4)
  return {
    'labeled': {'image': draw(), 'label': label, 'index': index},
    'unlabeled': {'image': draw(), 'index': index},
  }


def _signals():
  return methods.full_signals(np.ones((K, C), bool), np.ones(K, bool))


def _lively(params):
  """Flows of about a voxel: near 0, as they start, nothing moves."""
  decoder = {
    name: jax.tree.map(lambda x: x * 3e4, layer)
    if name.startswith('Conv3_')
    else layer
    for name, layer in params['decoder'].items()
  }
  return {**params, 'decoder': decoder}


@pytest.fixture(scope='module')
def started():
  method = methods.build(_config())
  params, memory = jax.jit(method.init)(jax.random.key(0))
  return method, _lively(params), memory


@pytest.fixture(scope='module')
def stepped(started):
  """Gradients and metrics of a step."""
  method, params, memory = started
  step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
  return step(params, memory, _batch(), KEY, _signals())


def _dice(p, q):
  scores = []
  for c in range(C):
    x, y = p[..., c], q[..., c]
    below = (x**2).sum() + (y**2).sum() + 1e-5
    scores.append((2 * (x * y).sum() + 1e-5) / below)
  return np.mean(scores)


def test_loss_is_that_of_a_loop_over_targets(started, stepped):
  """Each registration by itself: encoders do not mix volumes."""
  _, params, _ = started
  (value, (_, metrics)), _ = stepped
  encoder, decoder = registration.Encoder(4), registration.Decoder(4)
  head, names = registration.Head(4), ('net1', 'net2')
  encode = [
    jax.jit(lambda x, n=n: encoder.apply({'params': params['encoder'][n]}, x))
    for n in names
  ]
  decode = jax.jit(
    lambda s, t: decoder.apply({'params': params['decoder']}, s, t)
  )
  warp, vectors = (
    jax.jit(registration.warp),
    jax.jit(lambda f: head.apply({'params': params['head']}, f)),
  )
  batch, found = _batch(), {name: np.zeros(K) for name in metrics}
  image = lambda kind, k, s: (
    batch[kind]['image'][k, s : s + 1, ..., None] / np.float32(65535)
  )
  one_hot = np.eye(C, dtype=np.float32)[batch['labeled']['label']]
  slope = lambda f: (
    np.mean([np.mean(np.diff(f, axis=a) ** 2) for a in (1, 2, 3)]) / B
  )
  for k in range(K):
    votes = [[], []]
    for s in range(B):
      target = image('unlabeled', k, s)
      own, other = image('labeled', k, s), image('labeled', 1 - k, s)
      of_target = encode[k](target)
      same = decode(encode[k](own), of_target)
      cross = decode(encode[1 - k](other), of_target)
      moved, moved_other = warp(own, same), warp(other, cross)
      again = decode(encode[k](moved), of_target)
      a, b = (
        np.asarray(vectors(encode[k](x)[-1]))[0] for x in (moved, moved_other)
      )
      e = np.exp(a @ b.T)
      found['smooth'][k] += slope(np.asarray(same))
      found['smooth_cross'][k] += slope(np.asarray(cross))
      found['smooth_again'][k] += slope(np.asarray(again))
      alike = local_correlation(moved[..., 0], jnp.asarray(target[..., 0]))
      found['correlation'][k] += (1 - np.mean(alike)) / B
      found['difference'][k] += np.mean((moved - target) ** 2) / B
      found['contrast'][k] -= np.mean(np.log(np.diag(e) / e.sum(1))) / B
      votes[0].append(np.asarray(warp(one_hot[k, s : s + 1], same)))
      votes[1].append(np.asarray(warp(one_hot[1 - k, s : s + 1], cross)))
    found['cross_dice'][k] = 1 - _dice(*map(np.concatenate, votes))
  del found['dice_counts']
  for name, terms in found.items():
    np.testing.assert_allclose(metrics[name], terms, rtol=2e-3, err_msg=name)
  assert found['smooth'].min() > 1e-3
  total = sum(np.sum(metrics[name]) for name in found)
  np.testing.assert_allclose(value, total, rtol=1e-5)


def test_labels_are_compared_but_teach_nothing(started, stepped):
  method, params, memory = started
  (value, _), gradients = stepped
  batch = _batch()
  batch['labeled']['label'] = batch['labeled']['label'][:, :, ::-1]
  step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
  (other, _), same = step(params, memory, batch, KEY, _signals())
  assert other != value
  assert tiny.same(same, gradients)


def test_four_devices_equal_one(started, stepped):
  _, params, memory = started
  (_, (_, one)), of_one = stepped
  method = methods.build(_config())

  def step(params, batch, signals, plan):
    (_, (_, metrics)), gradients = jax.value_and_grad(
      method.loss, has_aux=True
    )(params, memory, batch, KEY, signals)
    return parallel.mean_gradients(gradients), metrics

  placed = parallel.place(params), parallel.place(_signals())
  of_four, four = parallel.pmap_step(step)(
    placed[0], parallel.shard(_batch()), placed[1], None
  )
  for name, terms in one.items():
    np.testing.assert_allclose(four[name], terms, rtol=2e-4, err_msg=name)
  flat = lambda tree: np.concatenate(
    [np.ravel(x) for x in jax.tree.leaves(tree)]
  )
  a, b = flat(of_one), flat(of_four)
  assert np.linalg.norm(a - b) < 2e-4 * np.linalg.norm(a)


class _Case(int):
  """A scan by its number, drawn for everything."""

  def drawn_for(self, labelable):
    return np.ones(len(labelable), bool)


class _Prepared:
  """Scans in memory, as `Prepared` gives them."""

  def __init__(self, images, labels):
    self.images = lambda case: images[case]
    self.labels = lambda case: labels[case]


def _scans(depth):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 65536, (3, depth, SIZE, SIZE)).astype(np.uint16)
  labels = rng.integers(0, C, (3, depth, SIZE, SIZE)).astype(np.uint8)
  return images, labels


def test_registered_to_itself_a_volume_keeps_its_labels():
  """With flows as they start; and it outvotes two strangers."""
  method = methods.build(_config())
  params, memory = jax.jit(method.init)(jax.random.key(0))
  images, labels = _scans(D)
  prepared = _Prepared(images, labels)
  for modality in range(K):
    atlases = [[], []]
    atlases[modality] = [_Case(1)]
    voters = voting.Voters(method, params, memory, prepared, atlases, ALL)
    p = voters.probabilities(images[1], modality)
    np.testing.assert_array_equal(p.argmax(-1), labels[1])
    np.testing.assert_allclose(p.max(-1), 1)
  atlases[modality] = list(map(_Case, range(3)))
  voters = voting.Voters(method, params, memory, prepared, atlases, ALL)
  p = voters.probabilities(images[1], modality)
  np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
  # At the edges any two are alike: outside of both is 0.
  assert np.mean(p.argmax(-1) == labels[1]) > 0.9


def test_votes_are_weighted_by_the_softmax_over_atlases():
  """Whatever the atlases are; and come back to the scan's own slices."""
  rng = np.random.default_rng(1)
  images, labels = _scans(D)
  weights = rng.normal(size=(3, D, SIZE, SIZE)).astype(np.float32)

  def vote(params, memory, atlas, labels, volume, modality):
    number = jnp.argmax(
      jnp.array([jnp.all(atlas == image) for image in images])
    )
    votes = labels[..., None] == jnp.arange(C)
    return votes, jnp.asarray(weights)[number]

  method = types.SimpleNamespace(
    predict=vote, traits=base.Traits(volumes=D, vote=True)
  )
  prepared = _Prepared(images, labels)
  atlases = [list(map(_Case, range(3)))]
  voters = voting.Voters(method, {}, {}, prepared, atlases, ALL[:1])
  share = np.exp(weights) / np.exp(weights).sum(0)
  expected = np.einsum('adhw,adhwc->dhwc', share, np.eye(C)[labels])
  found = voters.probabilities(images[0], 0)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert voters.probabilities(images[0][:5], 0).shape == (5, SIZE, SIZE, C)


def test_a_translation_is_smooth_and_a_slope_is_not():
  flow = np.ones((2, 1, 4, 5, 6, 3), np.float32)
  np.testing.assert_array_equal(jaxed(mass.smoothness)(flow), 0)
  flow[0] *= np.arange(4, dtype=np.float32)[:, None, None, None]
  np.testing.assert_allclose(jaxed(mass.smoothness)(flow), [1 / 3, 0])


def test_contrast_is_least_for_partners():
  a = np.eye(6, dtype=np.float32)
  least = -np.log(np.e / (np.e + 5))
  np.testing.assert_allclose(jaxed(mass.contrast)(a, a), least, rtol=1e-5)
  assert jaxed(mass.contrast)(a, np.roll(a, 1, 0)) > least
  # Vectors that are all the same tell nothing apart.
  same = np.ones((6, 4), np.float32) / 2
  np.testing.assert_allclose(
    jaxed(mass.contrast)(same, same), np.log(6), rtol=1e-5
  )


def test_overlap_of_equal_maps_is_1_and_of_others_0():
  p = np.eye(3, dtype=np.float32)[np.array([0, 1, 1, 0]).reshape(1, 1, 1, 2, 2)]
  present = np.array([[True, True, False]])
  np.testing.assert_allclose(jaxed(mass.overlap)(p, p, present), 1, rtol=1e-5)
  q = np.roll(p, 1, -2)
  assert jaxed(mass.overlap)(p, q, present) < 1e-4


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'joint': 'false'}, 'joint=false'),
    ({'modalities': 'ct'}, 'two modalities.*1 modalities'),
    ({'mass.depth': 12}, '12 x 16 x 16 voxels'),
    ({'mass.depth': 0}, '0 x 16 x 16 voxels'),
  ],
)
def test_what_it_cannot_do_is_refused(fields, said):
  with pytest.raises(ValueError, match=said):
    methods.build(_config(**fields))
  with pytest.raises(ValueError, match='4 modalities'):
    methods.build(abdomen.get_config('method=mass'))


def test_without_unlabelled_scans_there_is_no_target(started):
  method, params, memory = started
  batch = {'labeled': _batch()['labeled']}
  with pytest.raises(ValueError, match='labeled_fraction below 1'):
    method.loss(params, memory, batch, KEY, _signals())


def test_its_own_recipe_has_a_constant_rate():
  method = methods.build(_config(recipe='own'))
  assert method.recipe.learning_rate == 3e-4
  params = {'w': jnp.ones(1)}
  state = method.recipe.tx.init(params)
  for left in (1.0, 0.3):
    updates, _ = method.recipe.tx.update(params, state, params, left=left)
    # The loop's rate has fallen by left ** 0.9.
    np.testing.assert_allclose(updates['w'] * left**0.9, 1, rtol=1e-5)


def test_a_run_goes_from_scans_to_scores(cache, tmp_path):
  """Training, validation and test; only its own scans are segmented."""
  config = tiny.heart_config(cache, 'method=mass')
  config.mass.depth, config.mass.volumes, config.model.width = D, B, 4
  config.epochs = 1
  epochs = []
  results = train.train(config, tmp_path / 'run', epochs.append)
  assert set(results['modalities']) == {'ct', 'mr'}
  assert np.isfinite(epochs[0]['validation_dice_mean'])
  network = results['run']['networks']['ct,mr']
  assert network['macs'] > 0
  # An atlas of the same anatomy is better than nothing at all.
  for modality in ('ct', 'mr'):
    (case, *_) = [c for c in results['cases'] if c['modality'] == modality]
    assert max(row['dice'] or 0 for row in case['native'].values()) > 5
  with pytest.raises(ValueError, match='mass segments by the labelled'):
    trained_run.load(tmp_path / 'run')


def test_scans_that_do_not_divide_over_the_devices_are_refused(cache, tmp_path):
  config = tiny.heart_config(cache, 'method=mass')
  config.mass.volumes = 3
  with pytest.raises(ValueError, match=r'--config.mass.volumes=4'):
    train.train(config, tmp_path / 'run')
