from grids import ORIENTATIONS, affine_of
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pydicom
import pytest
import scipy.spatial

from data import phantom_archive
from data.dicom_io import read_dicom
from data.volume_io import ScanError


def _write(folder, voxels, affine, numbers=None):
  phantom_archive.write_dicom(
    folder,
    voxels.astype(np.uint16),
    affine,
    numbers or list(range(1, voxels.shape[2] + 1)),
    patient=1,
    series=1,
    protocol='T2',
  )
  return sorted(folder.iterdir())


@pytest.mark.parametrize('codes', ORIENTATIONS)
@hypothesis.settings(max_examples=2)
@hypothesis.given(
  shape=st.tuples(*[st.integers(1, 6)] * 2, st.integers(2, 6)),
  spacing=st.tuples(*[st.floats(0.5, 9.0)] * 3),
  tilt=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
  data=st.data(),
)
def test_a_series_comes_back_whatever_the_order_of_its_files(
  tmp_path_factory, codes, shape, spacing, tilt, data
):
  """Every value is where it was, up to the six decimals of the headers."""
  folder = tmp_path_factory.mktemp('series') / 'a'
  numbers = data.draw(st.permutations(range(1, shape[2] + 1)))
  turn = scipy.spatial.transform.Rotation.from_rotvec(tilt).as_matrix()
  affine = affine_of(codes, spacing, (-80, 60, 5), turn)
  voxels = np.arange(np.prod(shape)).reshape(shape)
  files = _write(folder, voxels, affine, list(numbers))
  found = read_dicom(folder)
  # A file does not say which end of the series comes first: slices follow the
  # normal of their rows and columns.
  slices = np.arange(shape[2])[:: 1 if np.linalg.det(affine) > 0 else -1]
  np.testing.assert_array_equal(found.voxels, voxels[:, :, slices])
  assert list(found.files) == [files[numbers[k] - 1] for k in slices]
  last = np.array([*shape, 2]) - 1
  ends = np.array([[*end, 1] for end in np.ndindex(2, 2, 2)]) * last
  theirs = ends.copy()
  theirs[:, 2] = slices[ends[:, 2]]
  np.testing.assert_allclose(
    ends @ found.affine.T, theirs @ affine.T, atol=1e-3
  )


@hypothesis.settings(max_examples=100)
@hypothesis.given(
  patches=st.lists(
    st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=2)),
    max_size=3,
  ),
  cut=st.integers(0, 4000),
)
def test_any_damage_gives_a_sound_volume_or_a_row(
  tmp_path_factory, patches, cut
):
  """Never another error, a warning, or values that are not finite."""
  folder = tmp_path_factory.getbasetemp() / 'damaged'
  voxels = np.arange(60).reshape(5, 4, 3)
  if not folder.exists():
    _write(folder, voxels, np.diag([-2.0, -2.0, 3.0, 1.0]))
  path = sorted(folder.iterdir())[1]
  sound = path.read_bytes()
  data = bytearray(sound)
  for offset, patch in patches:
    at = offset % len(data)
    data[at : at + len(patch)] = patch
  path.unlink()  # Overwriting waits for the disk.
  path.write_bytes(bytes(data[: cut if cut < len(data) else len(data)]))
  try:
    found = read_dicom(folder)
  except ScanError as error:
    assert error.file in (str(folder), *map(str, folder.iterdir()))
    assert error.reason and error.remedy
  else:
    assert found.voxels.shape == voxels.shape
    assert np.isfinite(found.voxels).all()
    assert np.linalg.matrix_rank(found.affine) == 4
  finally:
    path.unlink()
    path.write_bytes(sound)


def test_values_are_scaled_slice_by_slice(tmp_path):
  files = _write(tmp_path / 'a', np.ones((4, 3, 2)), np.diag([-2, -2, 3.0, 1]))
  for slope, file in enumerate(files, start=2):
    found = pydicom.dcmread(file)
    found.RescaleSlope, found.RescaleIntercept = slope, -10
    found.save_as(file)
  found = read_dicom(tmp_path / 'a')
  np.testing.assert_array_equal(found.voxels[0, 0], [-8, -7])
  # Elements that are there but empty say nothing.
  for file in files:
    found = pydicom.dcmread(file)
    found.RescaleSlope = found.RescaleIntercept = None
    found.PixelData = bytes([file == files[0], *bytes(23)])
    found.save_as(file)
  assert read_dicom(tmp_path / 'a').voxels.max() == 1
