from grids import ORIENTATIONS, affine_of
import hypothesis
from hypothesis import strategies as st
import nibabel as nib
import numpy as np
import pytest
import scipy.spatial

from data.preprocessing import preprocess
from data.task import ABDOMEN, HEART, Intensity, Scan

CT = ABDOMEN.modalities[0]


def _scan(shape=(12, 10, 7), spacing=(2.0, 2.0, 4.0), codes='RAS', seed=0):
  """A scan with smooth blobs, its array axes pointing as `codes` say."""
  rng = np.random.default_rng(seed)
  image = rng.uniform(-125, 275, shape).astype(np.float32)
  grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), -1)
  label = np.zeros(shape, np.uint8)
  centre = np.array(shape) / 2
  label[np.linalg.norm((grid - centre) / centre, axis=-1) < 0.7] = 1
  label[grid[..., 0] > shape[0] * 0.6] *= 2
  affine = np.diag([*spacing, 1.0])
  transform = nib.orientations.ornt_transform(
    nib.orientations.axcodes2ornt('RAS'),
    nib.orientations.axcodes2ornt(tuple(codes)),
  )
  turn = lambda v: nib.orientations.apply_orientation(v, transform)
  turned = affine @ nib.orientations.inv_ornt_aff(transform, shape)
  return Scan(turn(image), turn(label), turned)


def _on_disk(labels, geometry):
  """Native labels on the array grid of the file."""
  full = np.zeros(geometry['reoriented_shape'], labels.dtype)
  full[tuple(slice(*part) for part in geometry['box'])] = labels
  return preprocess.restore(full, np.array(geometry['affine']), 'axial')


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_every_orientation_gives_the_same_slices_and_the_way_back(codes):
  plain = preprocess.prepare_scan(_scan(), CT, roi='none', slice_size=16)
  scan = _scan(codes=codes)
  ready = preprocess.prepare_scan(scan, CT, roi='none', slice_size=16)
  np.testing.assert_array_equal(ready.images, plain.images)
  np.testing.assert_array_equal(ready.native_labels, plain.native_labels)
  back = _on_disk(ready.native_labels, ready.geometry)
  np.testing.assert_array_equal(back, scan.label)


def test_slices_rise_rows_run_to_the_back_columns_to_the_left():
  shape = (6, 5, 4)
  x, y, z = np.meshgrid(*map(np.arange, shape), indexing='ij')
  for axis, ramp in enumerate((z, -y, -x)):
    turned = preprocess.reorient(ramp, np.eye(4), 'axial')
    assert (np.diff(turned, axis=axis) > 0).all()


def test_longer_side_fills_the_slice_and_pixels_are_square():
  scan = _scan(shape=(20, 10, 3), spacing=(1.0, 1.5, 5.0))
  ready = preprocess.prepare_scan(scan, CT, roi='none', slice_size=32)
  assert ready.images.shape == (3, 32, 32)
  assert ready.geometry['mm_per_pixel'] == pytest.approx(20 / 32)
  filled = (ready.images > 0).any(0)
  assert filled.any(0).all()  # Columns are the longer side.
  assert filled.any(1).sum() == pytest.approx(15 / (20 / 32), abs=2)
  assert ready.spacing == (5.0, 1.5, 1.0)


@pytest.mark.parametrize('codes', ORIENTATIONS)
@hypothesis.settings(max_examples=4)
@hypothesis.given(
  shape=st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 6)),
  spacing=st.tuples(*[st.floats(0.5, 2.0)] * 2, st.floats(0.5, 9.0)),
)
def test_labels_find_their_way_back_from_any_grid(codes, shape, spacing):
  """Exactly, when prepared pixels are no larger than half a voxel."""
  scan = _scan(shape, spacing, codes)
  lengths = np.array(shape[:2]) * spacing[:2]
  size = 2 * int(np.ceil(lengths.max() / min(spacing[:2])))
  ready = preprocess.prepare_scan(scan, CT, roi='none', slice_size=size)
  assert ready.images.shape == (shape[2], size, size)
  assert ready.spacing == pytest.approx(spacing[::-1])
  native = preprocess.to_native(np.eye(3)[ready.labels], ready.geometry)
  back = _on_disk(native, ready.geometry)
  assert back.dtype == np.uint8
  np.testing.assert_array_equal(back, scan.label)


@hypothesis.settings(max_examples=100)
@hypothesis.given(
  codes=st.sampled_from(ORIENTATIONS),
  shape=st.tuples(st.integers(8, 30), st.integers(8, 30), st.integers(1, 4)),
  spacing=st.tuples(*[st.floats(0.5, 3.0)] * 3),
  size=st.integers(12, 40),
)
def test_labels_stay_in_their_place_at_any_resolution(
  codes, shape, spacing, size
):
  """Of what is some prepared pixels wide, the centroid moves by under one."""
  scan = _scan(shape, spacing, codes)
  ready = preprocess.prepare_scan(scan, CT, roi='none', slice_size=size)
  assert ready.images.shape == (shape[2], size, size)
  native = preprocess.to_native(np.eye(3)[ready.labels], ready.geometry)
  back = _on_disk(native, ready.geometry)
  assert back.shape == scan.image.shape
  place = lambda label: [
    np.argwhere(label == c) @ scan.affine[:3, :3].T for c in (1, 2)
  ]
  for ours, theirs in zip(place(back), place(scan.label), strict=True):
    pixel = max(ready.geometry['mm_per_pixel'], *spacing[:2])
    if len(theirs) and np.ptp(theirs[:, :2], 0).min() >= 4 * pixel:
      gap = np.abs(ours.mean(0) - theirs.mean(0))
      assert gap[:2].max() < pixel
      assert gap[2] < spacing[2] / 2


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_a_cropped_label_returns_to_its_place_exactly(codes):
  scan = _scan((20, 18, 6), (1.0, 1.5, 3.0), codes)
  ready = preprocess.prepare_scan(
    scan, CT, roi='label', slice_size=16, margin=1.0
  )
  assert ready.geometry['native_shape'] != ready.geometry['reoriented_shape']
  back = _on_disk(ready.native_labels, ready.geometry)
  np.testing.assert_array_equal(back, scan.label)


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_an_oblique_grid_is_turned_to_its_nearest_orientation(codes):
  turn = scipy.spatial.transform.Rotation.from_rotvec([0.2, -0.1, 0.3])
  affine = affine_of(codes, (1.0, 1.2, 3.0), (5, -3, 2), turn.as_matrix())
  voxels = np.arange(60).reshape(3, 4, 5)
  turned = preprocess.reorient(voxels, affine, 'axial')
  straight = preprocess.reorient(
    voxels, affine_of(codes, (1.0, 1.2, 3.0)), 'axial'
  )
  np.testing.assert_array_equal(turned, straight)


def test_way_back_keeps_place_and_shape():
  scan = _scan(shape=(60, 44, 5), spacing=(1.3, 1.3, 4.0))
  ready = preprocess.prepare_scan(scan, CT, roi='none', slice_size=72)
  native = preprocess.to_native(np.eye(3)[ready.labels], ready.geometry)
  reference = ready.native_labels
  for c in (1, 2):
    a, b = native == c, reference == c
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95
    gap = np.argwhere(a).mean(0) - np.argwhere(b).mean(0)
    assert np.abs(gap).max() < 0.5


def test_ct_window_and_percentile_clip():
  image = np.array([-1000.0, -125, 75, 275, 2000])
  window = preprocess.to_unit(image, CT.intensity)
  np.testing.assert_allclose(window, [0, 0, 0.5, 1, 1])
  ramp = np.arange(1001.0)
  unit = preprocess.to_unit(ramp, Intensity(None, 98.0))
  assert unit[0] == 0 and (unit == 1).sum() == 21 and unit[490] == 0.5
  assert not preprocess.to_unit(np.ones(5), Intensity()).any()


def test_region_of_interest_ignores_stray_foreground_and_classes():
  label = np.zeros((30, 40, 40), np.uint8)
  label[10:20, 12:28, 15:25] = 3
  label[:1, :2, :2] = 5
  box = preprocess.label_box(label, (2.0, 1.0, 1.0), margin=4.0)
  assert box == [[8, 22], [8, 32], [11, 29]]
  shuffled = np.where(label > 0, 7, 0)
  assert preprocess.label_box(shuffled, (2.0, 1.0, 1.0), 4.0) == box
  assert preprocess.label_box(label * 0, (1.0, 1.0, 1.0), 4.0) is None


def test_scan_without_a_label_stays_whole():
  scan = _scan()._replace(label=None)
  ready = preprocess.prepare_scan(
    scan, HEART.modalities[0], roi='label', slice_size=16
  )
  assert ready.geometry['native_shape'] == [7, 10, 12]
  assert not ready.labels.any()


def test_unknown_region_of_interest():
  with pytest.raises(ValueError, match='choose label or none'):
    preprocess.prepare_scan(_scan(), CT, roi='heart', slice_size=16)
