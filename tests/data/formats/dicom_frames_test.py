import dicom_series
import highdicom
import numpy as np
import pydicom
import pytest

from data.formats.dicom import read_affine, read_dicom
from data.formats.scan_error import ScanError

_ORDER = [3, 0, 4, 1, 2]


def _error(folder, found):
  dicom_series.write(folder, [found])
  with pytest.raises(ScanError) as caught:
    read_affine(folder)
  return caught.value


@pytest.mark.parametrize('modality', ['CT', 'MR'])
def test_an_enhanced_file_is_its_classic_series(modality, tmp_path):
  """Whatever the order of its frames."""
  dicom_series.write(tmp_path / 'classic', dicom_series.slices())
  found = dicom_series.enhanced(modality=modality, order=_ORDER)
  (file,) = dicom_series.write(tmp_path / 'enhanced', [found])
  classic = read_dicom(tmp_path / 'classic')
  enhanced = read_dicom(tmp_path / 'enhanced')
  np.testing.assert_array_equal(enhanced.voxels, classic.voxels)
  np.testing.assert_array_equal(enhanced.affine, classic.affine)
  np.testing.assert_array_equal(
    read_affine(tmp_path / 'enhanced'), classic.affine
  )
  assert enhanced.files == (file,)


def test_what_a_frame_says_stands_above_what_all_share(tmp_path):
  found = dicom_series.enhanced(order=_ORDER)
  for k, item in enumerate(found.PerFrameFunctionalGroupsSequence):
    item.PixelValueTransformationSequence = [
      dicom_series.of(RescaleSlope=k + 1, RescaleIntercept=-k, RescaleType='HU')
    ]
    item.PixelMeasuresSequence = [dicom_series.of(PixelSpacing=[4, 5])]
  dicom_series.write(tmp_path, [found])
  volume = read_dicom(tmp_path)
  slopes = np.argsort(_ORDER)[:, None, None]
  expected = dicom_series.values() * (slopes + 1.0) - slopes
  np.testing.assert_array_equal(volume.voxels, expected.transpose(2, 1, 0))
  sides = np.linalg.norm(volume.affine[:3, :3], axis=0)
  np.testing.assert_array_equal(sides, [5, 4, 3])


def test_where_a_frame_lies_stands_above_what_other_groups_repeat(tmp_path):
  """They may come first in the file and speak of another frame."""
  found = dicom_series.enhanced(order=_ORDER)
  groups = found.PerFrameFunctionalGroupsSequence
  for item in groups:
    last = groups[-1].PlanePositionSequence[0].ImagePositionPatient
    item.CardiacSynchronizationSequence = [
      dicom_series.of(ImagePositionPatient=last)
    ]
  dicom_series.write(tmp_path / 'classic', dicom_series.slices())
  dicom_series.write(tmp_path / 'enhanced', [found])
  classic = read_dicom(tmp_path / 'classic')
  enhanced = read_dicom(tmp_path / 'enhanced')
  np.testing.assert_array_equal(enhanced.affine, classic.affine)
  np.testing.assert_array_equal(enhanced.voxels, classic.voxels)


@pytest.mark.parametrize('modality', ['CT', 'MR'])
def test_a_legacy_converted_file_is_its_classic_series(modality, tmp_path):
  """As another library converts it."""
  every = dicom_series.slices(
    modality=modality,
    FrameOfReferenceUID=f'{dicom_series.ROOT}3',
    PositionReferenceIndicator='',
    StudyID='1',
    StudyDate='20200101',
    StudyTime='101010',
    AccessionNumber='',
    ReferringPhysicianName='',
    PatientBirthDate='',
    PatientSex='O',
    Manufacturer='A',
    ManufacturerModelName='B',
    DeviceSerialNumber='1',
    SoftwareVersions='1',
    ImageType=['ORIGINAL', 'PRIMARY', 'AXIAL' if modality == 'CT' else 'M'],
    AcquisitionNumber=1,
    SliceThickness=3,
    EchoTime=4.6,
    RescaleSlope='2',
    RescaleIntercept='-3',
  )
  convert = {
    'CT': highdicom.legacy.LegacyConvertedEnhancedCTImage,
    'MR': highdicom.legacy.LegacyConvertedEnhancedMRImage,
  }[modality]
  found = convert(
    [every[k] for k in _ORDER],
    series_instance_uid=f'{dicom_series.ROOT}77',
    series_number=9,
    sop_instance_uid=f'{dicom_series.ROOT}78',
    instance_number=1,
  )
  dicom_series.write(tmp_path / 'classic', every)
  dicom_series.write(tmp_path / 'legacy', [found])
  classic, legacy = (
    read_dicom(tmp_path / name) for name in ('classic', 'legacy')
  )
  np.testing.assert_array_equal(legacy.voxels, classic.voxels)
  np.testing.assert_array_equal(legacy.affine, classic.affine)
  assert legacy.tags['EchoTime'] == 4.6
  assert legacy.tags['SeriesNumber'] == '9'


def test_parts_of_an_enhanced_series_go_together(tmp_path):
  """Files that hold some of the frames each."""
  volume = dicom_series.values()
  parts = []
  for number, order in enumerate(([4, 1], [0, 2, 3])):
    parts.append(dicom_series.enhanced(volume, order=order))
    dicom_series.name(parts[-1], number)
  dicom_series.write(tmp_path, parts)
  voxels = read_dicom(tmp_path).voxels
  np.testing.assert_array_equal(voxels, volume.transpose(2, 1, 0))


def _per_frame(macro, keyword, values):
  def change(found):
    members = found.PerFrameFunctionalGroupsSequence
    for k, item in enumerate(members):
      sequence = item.get(macro) or [pydicom.Dataset()]
      setattr(sequence[0], keyword, values[k % len(values)])
      setattr(item, macro, sequence)

  return change


# Two images at each of five places: what differs, what is said of it.
SEVERAL = {
  'echoes': (
    _per_frame('MREchoSequence', 'EffectiveEchoTime', [4.6, 2.3]),
    '2 echoes (EffectiveEchoTime 4.6 and 2.3 ms)',
  ),
  'b-values': (
    _per_frame('MRDiffusionSequence', 'DiffusionBValue', [0.0, 500.0]),
    '2 b-values (DiffusionBValue 0 and 500 s/mm2)',
  ),
  'times': (
    _per_frame('FrameContentSequence', 'TemporalPositionIndex', [1, 2]),
    '2 dynamics at each position',
  ),
  'phases': (
    _per_frame(
      'CardiacSynchronizationSequence', 'NominalCardiacTriggerDelayTime',
      [0.0, 40.0],
    ),
    '2 heart phases at each position',
  ),
  'kinds': (
    _per_frame(
      'MRImageFrameTypeSequence', 'FrameType',
      [['ORIGINAL', 'PRIMARY', 'M'], ['ORIGINAL', 'PRIMARY', 'P']],
    ),
    '2 kinds of image (FrameType ',
  ),
  'stacks': (
    _per_frame('FrameContentSequence', 'StackID', ['1', '2']),
    '2 stacks in one series (StackID 1 and 2)',
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', SEVERAL)
def test_what_an_enhanced_file_holds_several_of_is_told(name, tmp_path):
  change, words = SEVERAL[name]
  order = [k for k in range(5) for _ in range(2)]
  found = dicom_series.enhanced(modality='MR', order=order)
  change(found)
  error = _error(tmp_path, found)
  assert words in error.reason
  assert error.remedy == 'export each of them as its own series, a folder each'


def test_a_missing_frame_is_told(tmp_path):
  found = dicom_series.enhanced(order=[4, 0, 1, 3])
  assert 'missing slice after -57.00 mm' in _error(tmp_path, found).reason


def _drop(place, macro):
  def change(found):
    for item in found[place].value:
      del item[pydicom.datadict.tag_for_keyword(macro)]

  return change


_SHARED = 'SharedFunctionalGroupsSequence'
_OWN = 'PerFrameFunctionalGroupsSequence'
UNPLACED = {
  'spacing': (_drop(_SHARED, 'PixelMeasuresSequence'), 'PixelSpacing'),
  'orientation': (
    _drop(_SHARED, 'PlaneOrientationSequence'), 'ImageOrientationPatient'
  ),
  'positions': (_drop(_OWN, 'PlanePositionSequence'), 'ImagePositionPatient'),
  'groups': (lambda found: found.pop(_OWN), 'ImagePositionPatient'),
}  # fmt: skip


@pytest.mark.parametrize('name', UNPLACED)
def test_frames_without_a_place_are_refused(name, tmp_path):
  change, keyword = UNPLACED[name]
  found = dicom_series.enhanced()
  change(found)
  error = _error(tmp_path, found)
  assert error.reason == f'{keyword} is missing for its 5 frames'
  assert 'full headers' in error.remedy


def test_one_place_for_all_frames_is_none(tmp_path):
  """As old multi-frame files have it."""
  found = dicom_series.enhanced()
  del found[pydicom.datadict.tag_for_keyword(_OWN)]
  found.ImagePositionPatient = [0, 0, 0]
  assert 'ImagePositionPatient is missing' in _error(tmp_path, found).reason


def test_frames_must_all_be_described(tmp_path):
  found = dicom_series.enhanced()
  found.PerFrameFunctionalGroupsSequence.pop()
  assert '5 frames are announced, 4 are' in _error(tmp_path, found).reason


@pytest.mark.parametrize('count', [-3, 10**9])
def test_an_impossible_number_of_frames_is_refused(count, tmp_path):
  found = dicom_series.enhanced()
  found.NumberOfFrames = count
  assert _error(tmp_path, found).reason


def test_sequences_of_undefined_length_are_read(tmp_path):
  found = dicom_series.enhanced(order=_ORDER)
  for name in (_SHARED, _OWN):
    found[name].is_undefined_length = True
    for item in found[name].value:
      item.is_undefined_length_sequence_item = True
  dicom_series.write(tmp_path, [found])
  expected = dicom_series.values().transpose(2, 1, 0)
  np.testing.assert_array_equal(read_dicom(tmp_path).voxels, expected)
