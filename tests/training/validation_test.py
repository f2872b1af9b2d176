from fake_scans import Case, Scans
import jax.numpy as jnp
import numpy as np
import pytest

from configs import abdomen
from data.task import UNKNOWN
from dbdc_jax import methods
from dbdc_jax.evaluation import metrics
from dbdc_jax.inference import prepared_cases, sliding_window
from dbdc_jax.methods import Traits
from dbdc_jax.runtime import parallel
from dbdc_jax.training.validation import Validation

CLASSES, SIDE = 5, 12


GROUPS = [
  [Case('a', 5, SIDE), Case('b', 3, SIDE)],
  [],
  [Case('c', 9, SIDE), Case('d', 1, SIDE)],
]
ALL = [case for group in GROUPS for case in group]


def _predict(params, memory, images, modality):
  """Class by brightness and modality: 0, 1 or 2."""
  level = jnp.clip((images[..., 0] * 3).astype(int), 0, 2)
  shifted = (level + modality[:, None, None] * params) % 3
  return 9.0 * (shifted[..., None] == jnp.arange(CLASSES))


class Method:
  predict = staticmethod(_predict)
  traits = Traits()


def _scans(method=Method, params=1):
  config = abdomen.get_config(None)
  config.augment.patch_size, config.evaluation.batch_size = 8, 4
  problem = methods.resolve(config)
  return prepared_cases.Scans(problem, method, params, None, None, [])


def _slow(prepared, shift=1):
  """Scan by scan, class by class."""
  out = []
  for k, group in enumerate(GROUPS):
    found = []
    for case in group:
      level = np.clip(
        (prepared._images[case.name] / 65535 * 3).astype(int), 0, 2
      )
      predicted = (level + k * shift) % 3
      reference = prepared._labels[case.name]
      dice = []
      for c in range(1, CLASSES):
        a, b = predicted == c, reference == c
        if a.any() or b.any():
          dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
      if dice:
        found.append(np.mean(dice))
    out.append(np.mean(found) if found else 0.0)
  return out


@pytest.mark.parametrize('limit', [0, 1e9])
def test_equals_the_plain_loop_over_scans(limit):
  prepared = Scans(ALL, 3)
  made = Validation(prepared, GROUPS, limit)
  for shift in (1, 2):
    found = made.dice(_scans(params=shift))
    np.testing.assert_allclose(found, _slow(prepared, shift), rtol=1e-6)
  # Decoded once, or once each time.
  decoded = [name for kind, name in prepared.asked if kind == 'image']
  assert len(decoded) == len(ALL) * (1 if limit else 2)


def test_a_scan_without_any_foreground_does_not_count():
  prepared = Scans(ALL, 3)
  prepared._labels['d'][:] = 0
  # Class 1 by brightness, 0 after the shift of modality 2.
  prepared._images['d'][:] = 30000
  expected = _slow(prepared)
  found = Validation(prepared, GROUPS, 1e9).dice(_scans())
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  alone = Validation(prepared, [[], [], [ALL[2]]], 1e9).dice(_scans())
  np.testing.assert_allclose(found[2], alone[2], rtol=1e-6)


def test_what_nobody_drew_has_no_score():
  """Neither pixels, whatever is predicted there, nor classes."""
  whole, part = Case('a', 4, SIDE), Case('b', 3, SIDE, drawn=[2])
  prepared = Scans([whole, part], 3)
  prepared._labels['b'][prepared._labels['b'] == 1] = 0
  unknown = np.random.default_rng(1).random(whole.shape) < 0.3
  prepared._labels['a'][unknown] = UNKNOWN
  level = lambda name: np.clip(
    (prepared._images[name] / 65535 * 3).astype(int), 0, 2
  )
  expected = []
  for name, classes, asked in (('a', (1, 2), ~unknown), ('b', (2,), None)):
    p, r = level(name), prepared._labels[name]
    if asked is not None:
      p, r = p[asked], r[asked]
    pairs = [(p == c, r == c) for c in classes]
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]
    expected.append(np.mean(dice))
  groups = [[whole, part], [], []]
  found = Validation(prepared, groups, 1e9).dice(_scans())
  np.testing.assert_allclose(found[0], np.mean(expected), rtol=1e-6)


def test_each_process_does_its_share(monkeypatch):
  prepared = Scans(ALL, 3)
  whole = Validation(prepared, GROUPS, 1e9).dice(_scans())
  shares = []
  for process in (0, 1):
    monkeypatch.setattr(
      parallel, 'own_items', lambda n, p=process: range(p, n, 2)
    )
    monkeypatch.setattr(parallel, 'gather', lambda v: shares.append(v) or [v])
    with pytest.raises(KeyError):
      Validation(prepared, GROUPS, 1e9).dice(_scans())
  monkeypatch.setattr(parallel, 'gather', lambda value: shares)
  assert [sorted(share) for share in shares] == [[0, 2], [1, 3]]
  joined = Validation(prepared, GROUPS, 1e9).dice(_scans())
  np.testing.assert_array_equal(joined, whole)


def test_a_method_that_votes_is_asked_scan_by_scan(monkeypatch):
  class Voters:
    def __init__(self, *args):
      pass

    def probabilities(self, images, modality):
      level = np.clip((images / 65535 * 3).astype(int), 0, 2)
      return np.eye(CLASSES)[(level + modality) % 3]

  class Voting(Method):
    vote = staticmethod(lambda: None)

  monkeypatch.setattr(prepared_cases.voting, 'Voters', Voters)
  prepared = Scans(ALL, 3)
  found = Validation(prepared, GROUPS, 1e9).dice(_scans(Voting))
  np.testing.assert_allclose(found, _slow(prepared), rtol=1e-6)


@pytest.mark.parametrize('room', [None, 1e9, 10.0])
def test_slices_stay_on_devices_that_have_memory(monkeypatch, room):
  """The same scores, wherever they are; placed once, or each time."""
  prepared = Scans(ALL, 3)
  expected = _slow(prepared)
  placed = []
  spread = parallel.spread
  monkeypatch.setattr(parallel, 'room', lambda: room)
  monkeypatch.setattr(
    parallel, 'spread', lambda x: placed.append(x.shape) or spread(x)
  )
  made = Validation(prepared, GROUPS, 1e9)
  for _ in range(2):
    np.testing.assert_allclose(made.dice(_scans()), expected, rtol=1e-6)
  # 18 slices, 4 a call, of images, labels and ids; scan by scan 2 + 1 + 3 + 1.
  calls = {None: 2 * 5, 1e9: 5, 10.0: 2 * 7}
  assert len(placed) == 3 * calls[room]


def test_windows_lie_side_by_side():
  """A slice of twice the window's side: each pixel is in one window alone."""
  seen = []

  def predict(params, memory, images, modality):
    seen.append(images.shape)
    return _predict(params, memory, images, modality)

  class Counted(Method):
    pass

  Counted.predict = staticmethod(predict)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 65536, (4, 16, 16)).astype(np.uint16)
  slices = prepared_cases.Slices(
    images, np.zeros((4, 16, 16), np.uint8), [4], [0]
  )
  (joint,) = _scans(Counted).joint_histograms(slices)
  assert seen == [(4 * 4, 8, 8, 1)] and joint.sum() == images.size


def test_histograms_of_slices_are_those_of_their_labels():
  """On the device as on the host, with slices that fill up a call."""
  prepared = Scans(ALL, 3)
  slices = prepared_cases.Slices(
    prepared._images['c'], prepared._labels['c'], [4, 5], [0, 2]
  )
  scans = _scans()
  found = scans.joint_histograms(slices)
  parts = ((0, slice(0, 4)), (2, slice(4, 9)))
  for joint, (k, part) in zip(found, parts, strict=True):
    labels = sliding_window.of_one_size(
      sliding_window.Network(_predict, 1, None),
      slices.images[part],
      k,
      patch=8,
      stride=4,
      batch=2,
      hard=True,
    )
    expected = metrics.joint_histogram(labels, slices.labels[part], CLASSES)
    np.testing.assert_array_equal(joint, expected)
