import gzip
import struct

import hypothesis
from hypothesis import strategies as st
import nibabel as nib
import numpy as np
import pytest

from data import volume_io
from data.volume_io import ScanError, read_nifti

SHAPE = (5, 4, 3)


def _voxels(dtype=np.int16):
  return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def _bytes(voxels=None, affine=None, kind=nib.Nifti1Image):
  affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
  return kind(_voxels() if voxels is None else voxels, affine).to_bytes()


def _patched(offset, code, *values):
  data = bytearray(_bytes())
  struct.pack_into('<' + code, data, offset, *values)
  return bytes(data)


def _flipped(data):
  data = bytearray(data)
  data[len(data) // 2] ^= 4
  return bytes(data)


def _two_affines():
  image = nib.Nifti1Image(_voxels(), np.diag([2.0, 2.0, 3.0, 1.0]))
  image.set_sform(np.diag([2.0, 2.0, 3.0, 1.0]), 1)
  image.set_qform(np.diag([2.0, -2.0, 3.0, 1.0]), 1)
  return image.to_bytes()


def _singular():
  image = nib.Nifti1Image(_voxels(), np.eye(4))
  image.header['sform_code'] = 1
  data = bytearray(image.to_bytes())
  struct.pack_into('<4f', data, 296, 1, 0, 0, 0)  # srow_y = srow_x
  return bytes(data)


def _with(value):
  voxels = _voxels(np.float32)
  voxels[1, 1, 1] = value
  return _bytes(voxels)


_RGB = np.zeros(SHAPE, [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
_GZ = gzip.compress(_bytes(), mtime=0)
BAD = {
  'zero bytes': ('a.nii', b'', 'empty'),
  'text': ('a.nii', b'x' * 400, 'not a NIfTI'),
  'short': ('a.nii', b'\x5c\1\0\0', 'no NIfTI header'),
  'not gzip': ('a.nii.gz', _bytes(), 'not gzip'),
  'truncated': ('a.nii', _bytes()[:-8], 'truncated'),
  'truncated gzip': ('a.nii.gz', _GZ[:-30], 'truncated'),
  'no trailer': ('a.nii.gz', _GZ[:-8], 'trailer'),
  'wrong CRC': (
    'a.nii.gz',
    _GZ[:-8] + bytes(4) + _GZ[-4:],
    'damaged',
  ),
  'wrong length': ('a.nii.gz', _GZ[:-4] + bytes(4), 'damaged'),
  'flipped bit': ('a.nii.gz', _flipped(_GZ), 'damaged|truncated|holds'),
  'bytes behind': ('a.nii.gz', _GZ + b'more', 'behind'),
  'huge header': ('a.nii', _patched(40, '4h', 3, 30000, 30000, 30000), 'bytes'),
  'huge gzip header': (
    'a.nii.gz',
    gzip.compress(_patched(40, '4h', 3, 30000, 30000, 30000)),
    'bytes',
  ),
  'gzip bomb': (
    'a.nii.gz',
    gzip.compress(_bytes() + bytes(10_000_000)),
    'more than',
  ),
  'no dimension': ('a.nii', _patched(42, 'h', 0), 'dimensions'),
  'zero pixdim': ('a.nii', _patched(80, 'f', 0), 'pixel sizes'),
  'NaN slope': ('a.nii', _patched(112, 'f', np.nan), 'scaling'),
  'NaN': ('a.nii', _with(np.nan), '1 voxels are NaN'),
  'Inf': ('a.nii', _with(np.inf), '1 voxels are NaN or infinite'),
  'constant': ('a.nii', _bytes(np.ones(SHAPE, np.int16)), 'constant'),
  '4-D': ('a.nii', _bytes(np.zeros((*SHAPE, 2), np.int16)), '4-dimensional'),
  'RGB': ('a.nii', _bytes(_RGB), 'RGB'),
  'forms disagree': ('a.nii', _two_affines(), 'disagree'),
  'singular': ('a.nii', _singular(), 'singular|disagree'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_file_is_refused_with_file_reason_and_remedy(name, tmp_path):
  file, data, reason = BAD[name]
  path = tmp_path / file
  path.write_bytes(data)
  with pytest.raises(ScanError, match=reason) as caught:
    read_nifti(path)
  assert caught.value.file == str(path)
  assert caught.value.remedy


def test_missing_file(tmp_path):
  with pytest.raises(ScanError, match='cannot be read'):
    read_nifti(tmp_path / 'none.nii')


def test_fractional_labels_are_refused_and_rounded_ones_are_not(tmp_path):
  path = tmp_path / 'a.nii'
  path.write_bytes(_bytes(_voxels(np.float32) + 0.3))
  with pytest.raises(ScanError, match='whole numbers'):
    read_nifti(path, label=True)
  path.write_bytes(_bytes(_voxels(np.float32) + 1e-5))
  np.testing.assert_array_equal(read_nifti(path, label=True).voxels, _voxels())


@pytest.mark.parametrize('kind', [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize('order', ['<', '>'])
def test_good_files_of_both_versions_and_byte_orders(tmp_path, kind, order):
  header = kind.header_class(endianness=order)
  header.set_data_dtype(np.int16)
  image = kind(_voxels(), np.diag([2.0, 2.0, 3.0, 1.0]), header)
  path = tmp_path / 'a.nii'
  path.write_bytes(image.to_bytes())
  volume = read_nifti(path)
  np.testing.assert_array_equal(volume.voxels, _voxels())
  np.testing.assert_allclose(volume.affine, np.diag([2.0, 2.0, 3.0, 1.0]))


def test_trailing_axes_of_one_are_dropped(tmp_path):
  path = tmp_path / 'a.nii'
  path.write_bytes(_bytes(_voxels()[..., None]))
  assert read_nifti(path).voxels.shape == SHAPE


@hypothesis.given(
  shape=st.tuples(*[st.integers(2, 6)] * 3),
  zooms=st.tuples(*[st.floats(0.3, 9.0)] * 3),
  ending=st.sampled_from(['nii', 'nii.gz']),
)
def test_written_volumes_come_back(tmp_path_factory, shape, zooms, ending):
  path = tmp_path_factory.mktemp('round') / f'a.{ending}'
  voxels = np.random.default_rng(0).integers(-99, 99, shape).astype(np.int16)
  affine = np.diag([*zooms, 1.0])
  affine[:3, 3] = (3, -8, 20)
  volume_io.write_nifti(path, voxels, affine)
  found = read_nifti(path)
  np.testing.assert_array_equal(found.voxels, voxels)
  np.testing.assert_allclose(found.affine, affine, rtol=1e-5)
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_codes_above_255_are_mapped_before_any_cast():
  label = np.array([[0, 420, 850]], np.int32)
  classes = volume_io.map_codes(label, {0: 0, 420: 3, 850: 7}, 'f')
  np.testing.assert_array_equal(classes, [[0, 3, 7]])
  assert classes.dtype == np.uint8


@pytest.mark.parametrize('stray', [421, -5, 10**8])
def test_unknown_codes_are_named_with_their_counts(stray):
  label = np.array([0, 420, stray, stray], np.int32)
  with pytest.raises(ScanError, match=rf'{stray} \(2 voxels\)'):
    volume_io.map_codes(label, {0: 0, 420: 3}, 'f')


def test_image_and_label_must_share_their_grid():
  image = volume_io.Volume(np.zeros(SHAPE), np.eye(4))
  shifted = np.eye(4)
  shifted[0, 3] = 0.01
  volume_io.check_pair(image, image._replace(affine=shifted), 'i', 'l')
  shifted[0, 3] = 1.0
  with pytest.raises(ScanError, match='affines differ'):
    volume_io.check_pair(image, image._replace(affine=shifted), 'i', 'l')
  with pytest.raises(ScanError, match='shape'):
    small = image._replace(voxels=np.zeros((2, 4, 3)))
    volume_io.check_pair(image, small, 'i', 'l')
