"""Where a header says that voxels lie; nibabel and ITK are the references."""

import struct

from grids import ORIENTATIONS, affine_of
import hypothesis
from hypothesis import strategies as st
import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data.formats.nifti import Volume, check_pair, read_affine, read_nifti
from data.formats.scan_error import ScanError

SHAPE = (5, 4, 3)
VOXELS = np.arange(60, dtype=np.int16).reshape(SHAPE)
AFFINE = affine_of('LPS', (1.5, 2.0, 3.0), (40, 30, -20))


def _file(tmp_path, *patches, sform=AFFINE, qform=AFFINE, codes=(1, 1)):
  """A file with two forms and bytes of the header changed."""
  image = nib.Nifti1Image(VOXELS, AFFINE)
  image.set_qform(qform, codes[1], strip_shears=True)
  image.set_sform(sform, codes[0])
  data = bytearray(image.to_bytes())
  for offset, code, *values in patches:
    struct.pack_into('<' + code, data, offset, *values)
  path = tmp_path / 'a.nii'
  path.write_bytes(bytes(data))
  return path


def _moved(affine, *millimetres):
  out = affine.copy()
  out[:3, 3] += millimetres
  return out


def _turned(affine, *rotation):
  out = affine.copy()
  out[:3, :3] = Rotation.from_rotvec(rotation).as_matrix() @ affine[:3, :3]
  return out


def test_the_sform_counts_and_the_distance_of_the_qform_is_told(tmp_path):
  aligned = _moved(AFFINE, 5, -3, 8)
  found = read_nifti(_file(tmp_path, sform=aligned, codes=(2, 1)))
  np.testing.assert_array_equal(found.affine, aligned)
  distance = np.sqrt(5**2 + 3**2 + 8**2)
  note = f'sform and qform differ by up to {distance:.3g} mm: the sform is used'
  assert found.notes == (note,)
  # Less than half a voxel is the forms' rounding.
  near = _moved(AFFINE, 0.4, 0.4, 0.4)
  assert read_nifti(_file(tmp_path, sform=near)).notes == ()


def test_a_form_whose_code_is_0_does_not_count(tmp_path):
  other = affine_of('RAS', (1.5, 2.0, 3.0))
  for codes, right in (((1, 0), AFFINE), ((0, 1), other)):
    found = read_nifti(_file(tmp_path, qform=other, codes=codes))
    np.testing.assert_allclose(found.affine, right, atol=1e-6)
    assert found.notes == ()


def test_without_forms_left_and_right_are_told_to_be_assumed(tmp_path):
  path = _file(tmp_path, codes=(0, 0))
  found = read_nifti(path)
  np.testing.assert_array_equal(found.affine, nib.load(path).affine)
  (note,) = found.notes
  assert 'left and right are assumed' in note


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_forms_that_orient_otherwise_are_refused(codes, tmp_path):
  other = affine_of(codes, (1.5, 2.0, 3.0), (40, 30, -20))
  path = _file(tmp_path, qform=other)
  if tuple(codes) == nib.aff2axcodes(AFFINE):
    read_nifti(path)
    return
  for read in (read_nifti, read_affine):
    with pytest.raises(ScanError, match=f'LPS and {"".join(codes)}') as error:
      read(path)
    for way in ('image.set_qform(image.affine)', 'image.set_sform('):
      assert way in error.value.remedy


def test_a_small_turn_is_no_other_orientation_even_at_45_degrees(tmp_path):
  ends = [_turned(AFFINE, 0, 0, np.radians(angle)) for angle in (44.5, 45.5)]
  assert len({nib.aff2axcodes(end) for end in ends}) == 2
  ends[1] = _moved(ends[1], 9, 0, 0)
  (note,) = read_nifti(_file(tmp_path, sform=ends[0], qform=ends[1])).notes
  assert 'differ by up to' in note


@pytest.mark.parametrize('degrees', [-20, 0.5, 10, 30])
@pytest.mark.parametrize('code', [0, 1])
def test_a_tilted_gantry_is_read_and_told(degrees, code, tmp_path):
  tilted = AFFINE.copy()
  tilted[1, 2] = np.tan(np.radians(degrees)) * tilted[2, 2]
  found = read_nifti(
    _file(tmp_path, sform=tilted, qform=tilted, codes=(1, code))
  )
  np.testing.assert_allclose(found.affine, tilted, atol=1e-6)
  assert [n for n in found.notes if f'sheared by {abs(degrees)} deg' in n]
  assert len(found.notes) == 1


@hypothesis.given(
  turn=st.tuples(*[st.floats(-1, 1)] * 3).filter(
    lambda t: any(np.abs(t) > 0.1)
  ),
  excess=st.floats(-5e-6, 4.9e-6),
)
def test_quaternions_are_read_as_what_they_were_before_rounding(
  tmp_path_factory, turn, excess
):
  """Half turns: b, c and d alone have length 1, and there is no a to give."""
  place = tmp_path_factory.getbasetemp()
  axis = np.array(turn) / np.linalg.norm(turn)
  stored = axis * (1 + max(excess, 0))
  path = _file(place, (256, '3f', *stored), codes=(0, 1))
  found = read_nifti(path)
  right = Rotation.from_rotvec(np.pi * axis).as_matrix() @ np.diag([1.5, 2, 3])
  np.testing.assert_allclose(found.affine[:3, :3], right, atol=1e-4)
  # What is written with this header is read by nibabel itself.
  np.testing.assert_allclose(found.header.get_qform(), found.affine, atol=1e-6)


def test_a_quaternion_that_is_no_rotation_leaves_a_sound_sform(tmp_path):
  patch = (256, '3f', 0, 0, 1.02)
  found = read_nifti(_file(tmp_path, patch))
  np.testing.assert_array_equal(found.affine, AFFINE)
  assert found.notes == ('the qform is damaged: the sform is used',)
  with pytest.raises(ScanError, match=r'no rotation.*repair the qform'):
    read_nifti(_file(tmp_path, patch, codes=(0, 1)))


@pytest.mark.parametrize('codes', [(1, 0), (0, 1), (0, 0)])
@pytest.mark.parametrize(
  'patch',
  [(76, 'f', q) for q in (0, 1, -1, 0.5, np.nan)] + [(80, 'f', -1.5)],
)
def test_qfac_and_signs_of_voxel_sides_mean_what_nibabel_takes_them_for(
  patch, codes, tmp_path, caplog
):
  path = _file(tmp_path, patch, codes=codes)
  reference = nib.load(path).affine
  caplog.clear()
  np.testing.assert_array_equal(read_nifti(path).affine, reference)
  np.testing.assert_array_equal(read_affine(path), reference)
  assert not caplog.records


def test_other_voxel_sides_than_the_sforms_are_told(tmp_path):
  path = _file(tmp_path, (80, '3f', 1, 1, 1), codes=(1, 0))
  assert read_nifti(path).notes == (
    'pixdim says 1 x 1 x 1 mm: the sform is used',
  )


def test_the_unit_of_lengths_is_told_where_it_is_not_mm(tmp_path):
  assert read_nifti(_file(tmp_path, (123, 'B', 2 + 8))).notes == ()
  (note,) = read_nifti(_file(tmp_path, (123, 'B', 3))).notes
  assert note == 'its header says micrometres: taken as mm'


def test_image_and_label_of_one_sform_are_a_pair_whatever_their_qforms(
  tmp_path,
):
  image = read_nifti(_file(tmp_path, qform=_moved(AFFINE, 50, 0, 0)))
  label = read_nifti(_file(tmp_path))
  assert isinstance(image, Volume) and image.notes and not label.notes
  check_pair(image, label, 'l')
