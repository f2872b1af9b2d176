from arrays import jaxed
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax.ops import prototypes

K, C, D, N = 3, 4, 6, 40


def _unit(shape, seed):
  x = np.random.default_rng(seed).normal(size=shape)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def _bank(ready=(True,) * K, seed=0):
  empty = prototypes.init(K, C, D)
  return empty._replace(
    bank=jnp.asarray(_unit((K, C, D), seed)), ready=jnp.array(ready)
  )


def _pixels(seed=1, classes=C):
  labels = np.random.default_rng(seed).integers(0, classes, (K, N))
  return _unit((K, N, D), seed), labels.astype(np.int32)


def _terms(bank, embeddings, labels, present, **kwargs):
  scale, bias = np.linspace(1, 2, C), np.linspace(-1, 1, C)
  found = jaxed(prototypes.mpcl_terms)(
    bank, embeddings, labels, present, scale, bias, temperature=0.1, **kwargs
  )
  return {name: np.asarray(value) for name, value in found.items()}


def _loop(bank, embeddings, labels, present):
  """Equations 8 to 11 pixel by pixel; a bank that is not ready gives 0."""
  scale, bias = np.linspace(1, 2, C), np.linspace(-1, 1, C)
  out = {name: np.zeros(K) for name in ('pseg', 'mc', 'pc', 'pd')}
  p, ready = np.asarray(bank.bank, np.float64), np.asarray(bank.ready)
  for k in range(K):
    if not ready[k]:
      continue
    keep = np.flatnonzero(present[k])
    probabilities, nll, own, pc, pd, across = [], [], [], [], [], []
    for n in range(N):
      i, y = embeddings[k, n].astype(np.float64), labels[k, n]
      s = p[k, keep] @ i
      normed = (s - s.mean()) / np.sqrt(s.var() + 1e-5)
      logits = normed * scale[keep] + bias[keep]
      soft = np.exp(logits) / np.exp(logits).sum()
      at = list(keep).index(y)
      probabilities.append(soft)
      nll.append(-np.log(soft[at]))
      own.append(s[at])
      sharp = np.exp(s / 0.1)
      pc.append(-np.log(sharp[at] / sharp.sum()))
      pd.append((1 - s[at]) ** 2)
      across += [
        p[j, y] @ i for j in range(K) if j != k and ready[j] and present[j, y]
      ]
    soft = np.array(probabilities)
    truth = labels[k][:, None] == keep
    dice = 1 - (2 * (soft * truth).sum(0) + 1e-5) / (
      (soft**2).sum(0) + truth.sum(0) + 1e-5
    )
    out['pseg'][k] = 0.5 * dice.mean() + 0.5 * np.mean(nll)
    out['mc'][k] = -np.mean(own) + (np.mean(across) if across else 0)
    out['pc'][k], out['pd'][k] = np.mean(pc), np.mean(pd)
  return out


@pytest.mark.parametrize('ready', [(True,) * 3, (True, False, True)])
def test_terms_equal_the_plain_loop(ready):
  embeddings, labels = _pixels(classes=3)
  present = np.ones((K, C), bool)
  present[1, 3] = present[2, 3] = False
  bank = _bank(ready)
  found = _terms(bank, embeddings, labels, present)
  for name, expected in _loop(bank, embeddings, labels, present).items():
    np.testing.assert_allclose(found[name], expected, atol=2e-5, err_msg=name)


def test_the_sign_turns_what_the_other_modalities_count():
  embeddings, labels = _pixels()
  given = _bank(), embeddings, labels, np.ones((K, C), bool)
  apart, near, neither = (
    _terms(*given, across=jnp.float32(sign))['mc'] for sign in (1, -1, 0)
  )
  np.testing.assert_allclose(apart + near, 2 * neither, atol=1e-6)
  assert (np.abs(apart - near) > 1e-3).all()
  np.testing.assert_allclose(apart, _loop(*given)['mc'], atol=2e-5)


def test_unsure_pixels_have_no_part_in_any_term():
  """Their embeddings have no gradient; means are over all pixels."""
  embeddings, labels = _pixels()
  sure = np.random.default_rng(5).random((K, N)) < 0.5
  given = _bank(), embeddings, labels, np.ones((K, C), bool)
  found = _terms(*given, sure=jnp.asarray(sure))
  own = np.einsum(
    'knd,knd->kn',
    embeddings,
    np.stack([np.asarray(_bank().bank)[k, labels[k]] for k in range(K)]),
  )
  np.testing.assert_allclose(
    found['pd'], np.where(sure, (1 - own) ** 2, 0).mean(1), atol=1e-5
  )

  def total(x):
    terms = prototypes.mpcl_terms(
      _bank(),
      x,
      jnp.asarray(labels),
      jnp.ones((K, C), bool),
      jnp.ones(C),
      jnp.zeros(C),
      temperature=0.1,
      sure=jnp.asarray(sure),
    )
    return sum(jnp.sum(t) for t in terms.values())

  gradient = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(embeddings)))
  assert not gradient[~sure].any()
  assert (np.abs(gradient[sure]).max(-1) > 0).all()


def test_one_modality_has_no_modality_contrast():
  bank = prototypes.init(1, C, D)._replace(
    bank=jnp.asarray(_unit((1, C, D), 0)), ready=jnp.ones(1, bool)
  )
  embeddings, labels = _pixels()
  found = _terms(bank, embeddings[:1], labels[:1], np.ones((1, C), bool))
  assert found['mc'] == 0 < found['pc']


def test_no_gradient_reaches_the_bank_and_all_others_are_finite():
  embeddings, labels = _pixels()
  present = np.ones((K, C), bool)

  def loss(bank, x):
    state = _bank()._replace(bank=bank)
    terms = jaxed(prototypes.mpcl_terms)(
      state, x, labels, present, jnp.ones(C), jnp.zeros(C), temperature=0.1
    )
    return sum(jnp.sum(t) for t in terms.values())

  to_bank, to_x = jax.grad(loss, (0, 1))(_bank().bank, jnp.asarray(embeddings))
  assert not np.asarray(to_bank).any()
  assert np.isfinite(to_x).all() and np.asarray(to_x).any()


def test_start_waits_for_every_present_class():
  embeddings, labels = _pixels(classes=2)
  present = np.zeros((K, C), bool)
  present[:, :2] = True
  present[2, 3] = True  # Modality 2 also has class 3, not seen yet.
  every = np.ones(labels.shape, bool)
  state = jaxed(prototypes.start)(
    prototypes.init(K, C, D), embeddings, labels, every, present
  )
  assert state.ready.tolist() == [True, True, False]
  mean = embeddings[0][labels[0] == 1].mean(0)
  np.testing.assert_allclose(
    state.bank[0, 1], mean / np.linalg.norm(mean), atol=1e-4
  )
  assert not np.asarray(state.bank[2]).any()
  more = labels.copy()
  more[:, :5] = 3
  # What is not kept is not seen.
  some = jaxed(prototypes.start)(state, embeddings, more, more != 3, present)
  assert not some.ready[2]
  again = jaxed(prototypes.start)(state, embeddings, more, every, present)
  assert again.ready.all()
  np.testing.assert_array_equal(again.bank[:2], state.bank[:2])
  # Both batches count.
  total = embeddings[2][labels[2] == 1].sum(0) + embeddings[2][
    more[2] == 1
  ].sum(0)
  np.testing.assert_allclose(
    again.bank[2, 1], total / np.linalg.norm(total), atol=1e-4
  )


def test_update_equals_the_plain_loop():
  embeddings, labels = _pixels()
  kept = np.random.default_rng(5).random((K, N)) < 0.5
  kept[0, labels[0] == 2] = False
  bank = _bank((True, True, False))
  state, counts = jaxed(prototypes.update)(
    bank, embeddings, labels, kept, momentum=0.9
  )
  for k in range(K):
    for c in range(C):
      mine = kept[k] & (labels[k] == c)
      assert counts[k, c] == mine.sum()
      expected = bank.bank[k, c]
      if mine.any() and k < 2:
        mean = embeddings[k][mine].mean(0)
        moved = 0.9 * expected + 0.1 * mean / np.linalg.norm(mean)
        expected = moved / np.linalg.norm(moved)
      np.testing.assert_allclose(state.bank[k, c], expected, atol=1e-4)


def test_assignment_is_one_problem_per_modality():
  scores = np.random.default_rng(0).uniform(-1, 1, (K, N, C)).astype('f4')
  mask = np.ones((K, N), bool)
  present = np.ones((K, C), bool)
  present[1, 0] = False
  found = jaxed(prototypes.assign)(
    scores, mask, present, epsilon=0.05, iterations=3
  )
  alone = jaxed(prototypes.assign)(
    scores[:1], mask[:1], present[:1], epsilon=0.05, iterations=3
  )
  np.testing.assert_array_equal(found[:1], alone)
  assert not (np.asarray(found[1]) == 0).any()


def test_cosine_between_modalities():
  bank = np.tile(_unit((1, C, D), 0), (K, 1, 1))
  np.testing.assert_allclose(
    jaxed(prototypes.cross_modality_cosine)(bank), 1, atol=1e-5
  )
  bank[1] *= -1
  np.testing.assert_allclose(
    jaxed(prototypes.cross_modality_cosine)(bank), -1 / 3, atol=1e-5
  )
