import re

import dicom_series
import numpy as np
import pydicom
import pytest

from data.formats.dicom import read_affine, read_dicom
from data.formats.scan_error import ScanError


def _error(folder, every):
  dicom_series.write(folder, every)
  with pytest.raises(ScanError) as caught:
    read_dicom(folder)
  with pytest.raises(ScanError, match=re.escape(caught.value.reason)):
    read_affine(folder)
  return caught.value


def _moved(every, slices, **elements):
  for k in slices:
    for keyword, value in elements.items():
      setattr(every[k], keyword, value)
  return every


# What printing decimals does to a sound header.
NOISE = {
  'PixelSpacing': ['2.0009', '1.4993'],
  'ImageOrientationPatient': ['1', '0.0005', '0', '-0.0005', '1', '0'],
  'ImagePositionPatient': ['-5.02', '-5.97', '-53.99'],
}


@pytest.mark.parametrize('keyword', NOISE)
def test_printed_decimals_split_no_series(keyword, tmp_path):
  dicom_series.write(tmp_path / 'plain', dicom_series.slices())
  every = _moved(dicom_series.slices(), [2], **{keyword: NOISE[keyword]})
  dicom_series.write(tmp_path / 'noisy', every)
  plain, noisy = (read_dicom(tmp_path / name) for name in ('plain', 'noisy'))
  np.testing.assert_array_equal(noisy.voxels, plain.voxels)
  np.testing.assert_allclose(noisy.affine, plain.affine, atol=0.01)


DIFFERENT = {
  'PixelSpacing': (['2.1', '1.5'], r'\[2.1, 1.5\], the others have \[2.0, 1.5'),
  'ImageOrientationPatient': (
    ['1', '0.01', '0', '-0.01', '1', '0'], 'the others have'
  ),
  'Rows': (3, '3 x 7, the others have 6 x 7'),
}  # fmt: skip


@pytest.mark.parametrize('keyword', DIFFERENT)
def test_a_slice_unlike_the_others_is_named(keyword, tmp_path):
  value, reason = DIFFERENT[keyword]
  every = _moved(dicom_series.slices(), [2], **{keyword: value})
  if keyword == 'Rows':
    every[2].PixelData = every[2].PixelData[: 2 * 3 * 7]
  error = _error(tmp_path, every)
  assert error.reason.startswith('IM0002.dcm differs in ')
  assert re.search(reason, error.reason)
  assert error.remedy.startswith('move it away')


def test_several_slices_unlike_the_others_are_named(tmp_path):
  every = dicom_series.slices(dicom_series.values(9))
  error = _error(tmp_path, _moved(every, [2, 5], PixelSpacing=[3, 3]))
  assert error.reason.startswith('IM0002.dcm, IM0005.dcm differ in PixelSp')
  assert error.remedy.startswith('move them away')


def test_mixed_orientations_are_told(tmp_path):
  """Three planes in one series, as scouts have them."""
  every = dicom_series.slices(dicom_series.values(6))
  _moved(every, [2, 3], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
  _moved(every, [4, 5], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
  error = _error(tmp_path, every)
  assert 'slices differ in ImageOrientationPatient: [1.0, 0.0' in error.reason
  assert 'IM0000.dcm' in error.reason and 'IM0004.dcm' in error.reason
  assert error.remedy.startswith('a folder for each')


def test_no_direction_at_all_is_impossible(tmp_path):
  every = _moved(dicom_series.slices(), [2], ImageOrientationPatient=[0] * 6)
  assert 'ImageOrientationPatient' in _error(tmp_path, every).reason


def _twice(first, second, modality='MR'):
  """Every place twice, which the given elements tell apart."""
  every = []
  for number, elements in enumerate((first, second)):
    part = dicom_series.slices(modality=modality, **elements)
    for k, found in enumerate(part):
      dicom_series.name(found, 10 * number + k + 1)
    every += part
  return every


# The elements of either half, what they are called.
HALVES = {
  'echoes': (
    {'EchoTime': '4.6', 'EchoNumbers': 1},
    {'EchoTime': '2.3', 'EchoNumbers': 2},
    '2 echoes (EchoTime 4.6 and 2.3 ms)',
  ),
  'numbered echoes': (
    {'EchoNumbers': 1}, {'EchoNumbers': 2}, '2 echoes (EchoNumbers 1 and 2)'
  ),
  'b-values': (
    {'DiffusionBValue': 0.0}, {'DiffusionBValue': 800.0},
    '2 b-values (DiffusionBValue 0 and 800 s/mm2)',
  ),
  'inversion times': (
    {'InversionTime': 100}, {'InversionTime': 2500}, '2 inversion times'
  ),
  'voltages': ({'KVP': 80}, {'KVP': 140}, '2 tube voltages (KVP 80 and 140 kV'),
  'kernels': (
    {'ConvolutionKernel': 'B30f'}, {'ConvolutionKernel': 'B60f'},
    '2 kernels (ConvolutionKernel B30f and B60f)',
  ),
  'magnitude and phase': (
    {'ImageType': ['ORIGINAL', 'PRIMARY', 'M']},
    {'ImageType': ['ORIGINAL', 'PRIMARY', 'P']},
    '2 kinds of image',
  ),
  'dynamics': (
    {'TemporalPositionIdentifier': 1}, {'TemporalPositionIdentifier': 2},
    '2 dynamics at each position',
  ),
  'acquisitions': (
    {'AcquisitionNumber': 1}, {'AcquisitionNumber': 2},
    '2 dynamics at each position',
  ),
  'times': (
    {'AcquisitionTime': '101500.1'}, {'AcquisitionTime': '101512.6'},
    '2 dynamics at each position',
  ),
  'heart phases': (
    {'TriggerTime': 0}, {'TriggerTime': 400}, '2 heart phases at each position'
  ),
  'nothing': ({}, {}, '2 images at each position'),
}  # fmt: skip


@pytest.mark.parametrize('name', HALVES)
def test_what_tells_images_of_one_place_apart_is_told(name, tmp_path):
  first, second, words = HALVES[name]
  error = _error(tmp_path, _twice(first, second))
  assert words in error.reason
  assert error.remedy == 'export each of them as its own series, a folder each'


@pytest.mark.parametrize('tag', [(0x0019, 0x100C), (0x0043, 0x1039)])
def test_private_b_values_are_told(tag, tmp_path):
  every = _twice({}, {})
  for k, found in enumerate(every):
    value = [0, 1000000800][k // 5]
    if tag[0] == 0x43:
      found.add_new(tag, 'IS', [value, 8, 0, 0])
    else:
      found.add_new(tag, 'IS', value % 1000)
  assert '2 b-values (0 and 800 s/mm2)' in _error(tmp_path, every).reason


def test_thirty_dynamics(tmp_path):
  every = []
  for time in range(30):
    part = dicom_series.slices(dicom_series.values(2), 'MR')
    for k, found in enumerate(part):
      found.ContentTime = f'1015{time:02d}'
      dicom_series.name(found, 2 * time + k)
    every += part
  assert '30 dynamics at each position' in _error(tmp_path, every).reason


def test_one_repeated_slice_is_named(tmp_path):
  """Though its time differs, like that of every slice."""
  every = dicom_series.slices()
  for k, found in enumerate(every):
    found.AcquisitionTime = f'10150{k}'
  every[3].ImagePositionPatient = every[1].ImagePositionPatient
  error = _error(tmp_path, every)
  assert 'repeated slice at -57.00 mm: IM0001.dcm and IM0003' in error.reason
  assert error.remedy == 'remove the duplicate that is wrong'


@pytest.mark.parametrize('missing', [[2], [2, 3], [1, 4]])
def test_missing_slices_are_told(missing, tmp_path):
  every = dicom_series.slices(dicom_series.values(8))
  left = [found for k, found in enumerate(every) if k not in missing]
  error = _error(tmp_path, left)
  place = -60 + 3 * (missing[0] - 1)
  assert error.reason == (
    f'missing slice after {place:.2f} mm (steps of 3.00 mm)'
  )


def test_uneven_steps_are_told(tmp_path):
  every = dicom_series.slices()
  for found, z in zip(every, (0, 3, 5, 9, 10.5), strict=True):
    found.ImagePositionPatient = [0, 0, z]
  error = _error(tmp_path, every)
  assert error.reason == 'slices lie unevenly, 1.50 to 4.00 mm apart'
  assert 'resample' in error.remedy


def test_a_tilted_gantry_is_told(tmp_path):
  every = dicom_series.slices()
  for k, found in enumerate(every):
    found.ImagePositionPatient = [0, 3 * k * np.tan(np.radians(15)), 3 * k]
  error = _error(tmp_path, every)
  assert 'a gantry tilted by 15.0 degrees' in error.reason
  assert 'resample' in error.remedy


def test_one_slice_that_lies_aside_is_named(tmp_path):
  every = dicom_series.slices()
  every[3].ImagePositionPatient[0] += 20
  error = _error(tmp_path, every)
  assert 'shifted sideways by up to 20.00 mm (IM0003.dcm)' in error.reason


def test_a_single_slice_is_no_volume(tmp_path):
  error = _error(tmp_path, dicom_series.slices()[:1])
  assert error.reason == 'a single slice is no volume'


def test_steps_rounded_in_the_headers_do_not_add_up(tmp_path):
  """401 slices, 0.625 mm apart, printed as 0.62 and 0.63."""
  every = dicom_series.slices(np.arange(401 * 4).reshape(401, 2, 2) % 3000)
  for k, found in enumerate(every):
    found.ImagePositionPatient = ['0', '0', f'{0.625 * k - 1e-6:.2f}']
  dicom_series.write(tmp_path, every)
  affine = read_affine(tmp_path)
  assert (affine @ [0, 0, 400, 1])[2] == pytest.approx(250, abs=0.02)


def test_directions_of_two_digits_keep_the_pixels_size(tmp_path):
  turned = ['0.71', '0.71', '0', '-0.71', '0.71', '0']
  every = dicom_series.slices(ImageOrientationPatient=turned)
  dicom_series.write(tmp_path, every)
  sides = np.linalg.norm(read_affine(tmp_path)[:3, :3], axis=0)
  np.testing.assert_allclose(sides, [1.5, 2.0, 3.0])


def test_series_of_several_images_are_named_by_their_frames(tmp_path):
  found = dicom_series.enhanced(modality='MR')
  per_frame = found.PerFrameFunctionalGroupsSequence
  per_frame[2].PixelMeasuresSequence = pydicom.Sequence(
    [dicom_series.of(PixelSpacing=[9, 9])]
  )
  error = _error(tmp_path, [found])
  assert error.reason.startswith('frame 3 of IM0000.dcm differs in PixelSp')
