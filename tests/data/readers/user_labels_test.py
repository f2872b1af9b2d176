import itertools

import numpy as np
import pytest

from data.formats.scan_error import ScanError
from data.readers import user_labels


def _ball(count=2, side=24, seed=0):
  """A label map of `count` boxes, and an image with noise."""
  label = np.zeros((side,) * 3, np.int32)
  edges = np.linspace(2, side - 2, count + 1).astype(int)
  for code, (low, high) in enumerate(itertools.pairwise(edges)):
    label[low:high, 4:-4, 4:-4] = code + 1
  noise = np.random.default_rng(seed).normal(0, 30, label.shape)
  return label, (100 * label + noise).astype(np.float32)


def test_a_label_map_is_one_whatever_its_codes():
  label, image = _ball()
  assert set(user_labels.check_drawn(label, image, 'l', 'i')) == {0, 1, 2}
  assert user_labels.check_drawn(-label, image, 'l')
  # An atlas of a hundred regions, without any image.
  atlas = np.kron(np.arange(125).reshape(5, 5, 5), np.ones((6, 6, 6), int))
  assert len(user_labels.check_drawn(atlas.astype(np.int32), None, 'l')) == 125


@pytest.mark.parametrize('scale', [1, 0.1])
def test_an_image_among_the_labels_is_named_as_what_it_is(scale):
  _, image = _ball()
  _, other = _ball(seed=1)
  wrong = np.round(other * scale).astype(np.int32)
  with pytest.raises(ScanError) as caught:
    user_labels.check_drawn(wrong, image, 'labels/a.nii')
  assert caught.value.file == 'labels/a.nii'
  codes = np.unique(wrong)
  assert f'{len(codes)} different codes ({codes[0]} to {codes[-1]})' in (
    caught.value.reason
  )
  assert caught.value.remedy == 'give the label map, not an image'


def test_its_own_image_is_noticed_even_if_it_is_smooth():
  image = np.kron(np.arange(64).reshape(4, 4, 4), np.ones((6, 6, 6)))
  with pytest.raises(ScanError, match='the voxels of its own image'):
    user_labels.check_drawn(image.astype(np.int32), image, 'l', 'i')


def test_a_label_map_among_the_images_is_noticed():
  label, _ = _ball()
  with pytest.raises(
    ScanError, match=r'i: holds the voxels of its label map l'
  ):
    user_labels.check_drawn(label, label.astype(np.float32), 'l', 'i')


def test_codes_become_classes_or_are_named():
  label, _ = _ball()
  classes = user_labels.classes(label, {0: 0, 1: 2, 2: 1}, 'l')
  np.testing.assert_array_equal(classes, np.array([0, 2, 1])[label])
  with pytest.raises(ScanError, match='unknown label codes: 2') as caught:
    user_labels.classes(label, {0: 0, 1: 1}, 'l')
  assert '"background"' in caught.value.remedy
  for code in (255, -1):
    odd = np.where(label == 2, code, label).astype(np.int32)
    with pytest.raises(ScanError, match=rf'{code} \(\d+ voxels\)') as caught:
      user_labels.classes(odd, {0: 0, 1: 1}, 'l')
    assert 'not annotated' in caught.value.reason
    assert '"ignore"' in caught.value.remedy
    assert user_labels.classes(odd, {0: 0, 1: 1, code: 2}, 'l').max() == 2
