import gzip
import struct

from grids import ORIENTATIONS, affine_of
import hypothesis
from hypothesis import strategies as st
import nibabel as nib
import numpy as np
import pytest

from data.formats import nifti
from data.formats.nifti import ScanError, read_nifti

SHAPE = (5, 4, 3)
VOXELS = np.arange(60, dtype=np.int16).reshape(SHAPE)


def test_missing_file(tmp_path):
  with pytest.raises(ScanError, match='cannot be read'):
    read_nifti(tmp_path / 'none.nii')


@pytest.mark.parametrize('codes', ORIENTATIONS)
@hypothesis.settings(max_examples=5)
@hypothesis.given(
  shape=st.tuples(*[st.integers(1, 6)] * 3).filter(lambda s: np.prod(s) > 1),
  spacing=st.tuples(*[st.floats(0.3, 9.0)] * 3),
  origin=st.tuples(*[st.floats(-400.0, 400.0)] * 3),
  dtype=st.sampled_from(['u1', 'i1', 'i2', 'u2', 'i4', 'u4', 'f4', 'f8']),
  ending=st.sampled_from(['nii', 'nii.gz']),
)
def test_written_volumes_come_back(
  tmp_path_factory, codes, shape, spacing, origin, dtype, ending
):
  path = tmp_path_factory.mktemp('round') / f'a.{ending}'
  voxels = np.random.default_rng(0).permutation(np.prod(shape))
  voxels = voxels.reshape(shape).astype(dtype)
  affine = affine_of(codes, spacing, origin)
  nifti.write_nifti(path, voxels, affine)
  found = read_nifti(path)
  np.testing.assert_array_equal(found.voxels, voxels)
  # The format holds affines in single precision.
  np.testing.assert_array_equal(found.affine, affine.astype(np.float32))
  assert nib.aff2axcodes(found.affine) == tuple(codes)
  label = read_nifti(path, label=True).voxels
  np.testing.assert_array_equal(label, voxels)
  assert label.dtype == np.int32
  assert [p.name for p in path.parent.iterdir()] == [path.name]
  again = path.with_name(f'again.{ending}')
  nifti.write_nifti(again, voxels, affine)
  assert again.read_bytes() == path.read_bytes()


@hypothesis.settings(max_examples=300)
@hypothesis.given(
  patches=st.lists(
    st.tuples(
      st.integers(0, 87).map(lambda i: 4 * i),
      st.one_of(
        st.binary(min_size=1, max_size=4),
        st.floats(width=32).map(lambda x: struct.pack('<f', x)),
        st.integers(-(2**15), 2**15 - 1).map(lambda n: struct.pack('<h', n)),
      ),
    ),
    min_size=1,
    max_size=3,
  ),
  cut=st.integers(0, 600),
  label=st.booleans(),
)
def test_any_damage_gives_a_sound_volume_or_a_row(
  tmp_path_factory, patches, cut, label
):
  """Never another error, a warning, or values that are not finite."""
  image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(SHAPE), None)
  data = bytearray(image.to_bytes())
  for offset, patch in patches:
    data[offset : offset + len(patch)] = patch
  if cut < len(data) // 4:
    del data[-1 - cut :]
  path = tmp_path_factory.getbasetemp() / 'damaged.nii'
  path.unlink(missing_ok=True)  # Overwriting waits for the disk.
  path.write_bytes(bytes(data))
  try:
    found = read_nifti(path, label=label)
  except ScanError as error:
    assert error.file == str(path) and error.reason and error.remedy
  else:
    assert found.voxels.ndim == 3 and np.isfinite(found.voxels).all()
    assert np.isfinite(found.affine).all()
    assert np.linalg.matrix_rank(found.affine) == 4


def test_a_volume_that_cannot_be_written_leaves_the_one_before(
  tmp_path, monkeypatch
):
  path = tmp_path / 'a.nii'
  nifti.write_nifti(path, np.ones(SHAPE, np.int16), np.eye(4))
  before = path.read_bytes()

  def full(*_):
    raise OSError(28, 'full')

  monkeypatch.setattr(nifti.atomic.os, 'replace', full)
  with pytest.raises(OSError, match=f'room there.*{path}'):
    nifti.write_nifti(path, np.zeros(SHAPE, np.int16), np.eye(4))
  assert [p.name for p in tmp_path.iterdir()] == ['a.nii']
  assert path.read_bytes() == before


def test_image_and_label_must_share_their_grid():
  image = nifti.Volume(np.zeros(SHAPE), np.eye(4))
  shifted = np.eye(4)
  shifted[0, 3] = 0.01
  nifti.check_pair(image, image._replace(affine=shifted), 'l')
  shifted[0, 3] = 1.0
  with pytest.raises(ScanError, match='affines differ'):
    nifti.check_pair(image, image._replace(affine=shifted), 'l')
  noted = image._replace(affine=shifted, notes=('left and right are assumed',))
  with pytest.raises(ScanError, match='left and right are assumed'):
    nifti.check_pair(image, noted, 'l')
  with pytest.raises(ScanError, match='shape'):
    small = image._replace(voxels=np.zeros((2, 4, 3)))
    nifti.check_pair(image, small, 'l')


def _header(*patches, image=None):
  """A sound file's bytes with some of the header's changed."""
  image = image or nib.Nifti1Image(VOXELS, np.eye(4))
  data = bytearray(image.to_bytes())
  for offset, code, *values in patches:
    struct.pack_into('<' + code, data, offset, *values)
  return bytes(data)


@pytest.mark.parametrize('slope', [0, 1, -2, 0.5, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('inter', [0, 3, np.nan, np.inf])
def test_intensity_scaling_means_what_nibabel_takes_it_for(
  slope, inter, tmp_path
):
  path = tmp_path / 'a.nii'
  path.write_bytes(_header((112, '2f', slope, inter)))
  try:
    reference = nib.load(path).get_fdata(dtype=np.float32)
  except nib.spatialimages.HeaderDataError:
    with pytest.raises(ScanError, match='is not finite; set scl_slope to 1'):
      read_nifti(path)
    return
  np.testing.assert_array_equal(read_nifti(path).voxels, reference)


@pytest.mark.parametrize('offset', [0, 348, 352])
@pytest.mark.parametrize('kind', [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_never_begin_inside_of_the_header(offset, kind, tmp_path):
  """The standard takes a lower offset for the lowest possible one."""
  path = tmp_path / 'a.nii'
  place = (108, 'f') if kind is nib.Nifti1Image else (168, 'q')
  path.write_bytes(_header((*place, offset), image=kind(VOXELS, np.eye(4))))
  np.testing.assert_array_equal(read_nifti(path).voxels, VOXELS)


@pytest.mark.parametrize('ending', ['.NII.GZ', '.Nii', '.nii.Gz', '.NII'])
def test_endings_may_be_in_capitals(ending, tmp_path):
  path = tmp_path / ('a' + ending)
  data = _header()
  path.write_bytes(gzip.compress(data) if 'z' in ending.lower() else data)
  np.testing.assert_array_equal(read_nifti(path).voxels, VOXELS)


def test_padding_and_gzip_members_are_no_damage(tmp_path):
  data = _header()
  path = tmp_path / 'a.nii'
  path.write_bytes(data + bytes(1000))
  np.testing.assert_array_equal(read_nifti(path).voxels, VOXELS)
  path = tmp_path / 'a.nii.gz'
  for parts in (
    (data[:400], data[400:]),
    (data, b''),
    (data[:100], data[100:]),
  ):
    path.write_bytes(b''.join(gzip.compress(part) for part in parts))
    np.testing.assert_array_equal(read_nifti(path).voxels, VOXELS)


def test_sound_extensions_are_kept_and_damaged_ones_are_left(tmp_path, recwarn):
  image = nib.Nifti1Image(VOXELS, np.eye(4))
  image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b'a comment'))
  path = tmp_path / 'a.nii'
  path.write_bytes(_header(image=image))
  (extension,) = read_nifti(path).header.extensions
  assert extension.get_content() == b'a comment'
  for size in (0, 1, 17, -16, 1 << 30):
    path.write_bytes(_header((352, 'i', size), image=image))
    found = read_nifti(path)
    np.testing.assert_array_equal(found.voxels, VOXELS)
    assert not found.header.extensions
  assert not recwarn.list


@pytest.mark.parametrize('ending', ['nii', 'nii.gz'])
def test_the_affine_is_read_from_the_first_bytes(ending, tmp_path):
  path = tmp_path / f'a.{ending}'
  affine = affine_of('PIR', (1.1, 1.2, 2.3), (4, 5, 6))
  noise = np.random.default_rng(0).integers(0, 9999, (40, 40, 40), np.int16)
  nifti.write_nifti(path, noise, affine)
  whole = read_nifti(path).affine
  path.write_bytes(path.read_bytes()[:9000])
  np.testing.assert_array_equal(nifti.read_affine(path), whole)
  with pytest.raises(ScanError, match='truncated'):
    read_nifti(path)


def test_results_have_no_remark_of_nibabel(tmp_path, caplog):
  """Headers with what nibabel would repair, and an offset it dislikes."""
  path = tmp_path / 'a.nii'
  for patch in ((72, 'h', 99), (76, 'f', 0), (112, 'f', np.nan)):
    path.write_bytes(_header(patch))
    found = read_nifti(path)
    data = nifti.nifti_bytes(VOXELS.astype(np.uint16), found)
    again = tmp_path / 'again.nii.gz'
    again.write_bytes(data)
    np.testing.assert_array_equal(read_nifti(again).voxels, VOXELS)
  assert not caplog.records
