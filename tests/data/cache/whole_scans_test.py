import numpy as np

from data.cache import whole_scans


def test_as_many_slices_are_the_same_slices():
  slices = np.random.default_rng(0).integers(0, 65536, (5, 4, 3), np.uint16)
  for function in (whole_scans.resample, whole_scans.resample_labels):
    np.testing.assert_array_equal(function(slices, 5), slices)


def test_a_slope_stays_one_whatever_the_depth():
  """Slices are equally thick: a line through their centres, held at the end."""
  slices = np.arange(6, dtype=np.float32)[:, None]
  for depth in (3, 12):
    found = whole_scans.resample(slices, depth)[:, 0]
    centres = (np.arange(depth) + 0.5) * 6 / depth - 0.5
    np.testing.assert_allclose(found, np.clip(centres, 0, 5))


def test_labels_are_never_mixed():
  labels = np.array([0, 7, 7, 2], np.uint8)[:, None]
  assert whole_scans.resample_labels(labels, 8)[:, 0].tolist() == [
    *(0, 0, 7, 7, 7, 7, 2, 2)
  ]
  assert whole_scans.resample_labels(labels, 2)[:, 0].tolist() == [7, 2]


def test_integers_are_rounded_and_keep_their_range():
  slices = np.array([[0], [65535]], np.uint16)
  found = whole_scans.resample(slices, 4)
  assert found.dtype == np.uint16
  assert found[:, 0].tolist() == [0, 16384, 49151, 65535]
