import re
import warnings

import dicom_series
from grids import ORIENTATIONS, affine_of
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pydicom
import pytest
import scipy.spatial
import SimpleITK

from data.formats import scan_files
from data.formats.dicom import read_affine, read_dicom
from data.formats.nifti import ScanError
from data.phantoms import archive


def _write(folder, voxels, affine, numbers=None):
  archive.write_dicom(
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


def test_another_reader_puts_every_voxel_in_the_same_place(tmp_path):
  """Values and places, of an oblique series."""
  turn = scipy.spatial.transform.Rotation.from_rotvec([0.4, -0.3, 0.5])
  turn = turn.as_matrix()
  affine = affine_of(('P', 'S', 'L'), (0.7, 0.9, 4), (-80, 60, 5), turn)
  voxels = np.arange(5 * 4 * 6).reshape(5, 4, 6)
  files = _write(tmp_path / 'a', voxels, affine)
  found = read_dicom(tmp_path / 'a')
  other = SimpleITK.ReadImage([str(file) for file in found.files])
  np.testing.assert_array_equal(
    SimpleITK.GetArrayFromImage(other).T, found.voxels
  )
  for index in ((0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 5), (4, 3, 5)):
    x, y, z = other.TransformIndexToPhysicalPoint(index)
    np.testing.assert_allclose(
      (found.affine @ [*index, 1])[:3], [-x, -y, z], atol=1e-3
    )
  assert set(found.files) == set(files)


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


def _read(folder, every, series=''):
  dicom_series.write(folder, every)
  volume = read_dicom(folder, series)
  np.testing.assert_array_equal(read_affine(folder, series), volume.affine)
  return volume


def _reason(folder, every):
  dicom_series.write(folder, every)
  with pytest.raises(ScanError) as caught:
    read_dicom(folder)
  with pytest.raises(ScanError, match=re.escape(caught.value.reason)):
    read_affine(folder)
  return caught.value.reason


def test_a_series_says_what_it_is(tmp_path):
  every = dicom_series.slices(
    modality='MR',
    SeriesDescription='T2 SPIR',
    EchoTime='70.5',
    ImageType=['ORIGINAL', 'PRIMARY', 'M'],
    ScanningSequence='SE',
    ContrastBolusAgent='',
  )
  tags = _read(tmp_path, every).tags
  assert tags['Modality'] == 'MR'
  assert tags['SeriesDescription'] == 'T2 SPIR'
  assert tags['SeriesNumber'] == '4'
  assert tags['SeriesInstanceUID'] == f'{dicom_series.ROOT}1'
  assert tags['EchoTime'] == 70.5
  assert tags['ImageType'] == r'ORIGINAL\PRIMARY\M'
  assert tags['ScanningSequence'] == 'SE'
  assert 'ContrastBolusAgent' not in tags and 'FlipAngle' not in tags


def test_an_enhanced_file_says_what_it_is(tmp_path):
  found = dicom_series.enhanced(
    modality='MR',
    MREchoSequence=dicom_series.of(EffectiveEchoTime=4.6),
    MRTimingAndRelatedParametersSequence=dicom_series.of(
      RepetitionTime=500, FlipAngle=70
    ),
    MRModifierSequence=dicom_series.of(InversionTimes=[150.0]),
  )
  tags = _read(tmp_path, [found]).tags
  names = ('EchoTime', 'RepetitionTime', 'FlipAngle', 'InversionTime')
  assert [tags[name] for name in names] == [4.6, 500, 70, 150]


def test_copies_of_a_file_are_left_out(tmp_path):
  plain = _read(tmp_path, dicom_series.slices())
  data = (tmp_path / 'IM0002.dcm').read_bytes()
  (tmp_path / 'IM0002 (1).dcm').write_bytes(data)
  again = read_dicom(tmp_path)
  np.testing.assert_array_equal(again.voxels, plain.voxels)
  assert again.notes == ('1 file left out, copied twice: IM0002.dcm',)
  assert len(again.files) == 5


def _unsigned(every, **elements):
  """As scanners store HU: 1024 more, without a sign."""
  for found in every:
    pixels = np.frombuffer(found.PixelData, '<i2').astype(int) + 1024
    found.PixelData = pixels.astype('<u2').tobytes()
    found.PixelRepresentation, found.RescaleIntercept = 0, '-1024'
    for keyword, value in elements.items():
      setattr(found, keyword, value)
  return every


def test_stored_values_are_rescaled(tmp_path):
  volume = _read(tmp_path, _unsigned(dicom_series.slices()))
  expected = dicom_series.values().transpose(2, 1, 0)
  np.testing.assert_array_equal(volume.voxels, expected)


@pytest.mark.parametrize('few', [1, 4])
@pytest.mark.parametrize(
  'keyword, value', [('RescaleIntercept', '-1024'), ('RescaleType', 'HU')]
)
def test_rescaling_that_some_slices_lack_is_refused(
  keyword, value, few, tmp_path
):
  every = _unsigned(dicom_series.slices(), RescaleType='HU')
  for found in every[2:3] if few == 1 else [*every[:2], *every[3:]]:
    del found[pydicom.datadict.tag_for_keyword(keyword)]
  expected = f'{keyword} is missing in IM0002.dcm, the others have {value}'
  if few == 4:
    expected = f'{keyword} is only there in IM0002.dcm ({value})'
  assert _reason(tmp_path, every) == expected


def test_other_units_in_some_slices_are_refused(tmp_path):
  every = _unsigned(dicom_series.slices(), RescaleType='HU')
  every[2].RescaleType = 'US'
  reason = _reason(tmp_path, every)
  assert reason == 'IM0002.dcm differs in RescaleType: US, the others have HU'


@pytest.mark.parametrize('value', ['0', 'nan', 'inf', '1e999'])
def test_a_slope_that_is_none_is_refused(value, tmp_path):
  every = dicom_series.slices()
  for found in every:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      found.RescaleSlope = pydicom.valuerep.DSfloat(value)
  assert 'RescaleSlope' in _reason(tmp_path, every)


def test_rescaling_of_every_slice_its_own(tmp_path):
  every = dicom_series.slices()
  for k, found in enumerate(every):
    found.RescaleSlope = str(k + 1)
  volume = _read(tmp_path, every)
  expected = dicom_series.values() * np.arange(1.0, 6)[:, None, None]
  np.testing.assert_array_equal(volume.voxels, expected.transpose(2, 1, 0))
  assert volume.notes == (
    '5 rescalings in one CT series: each slice has its own',
  )


def test_a_real_world_mapping_is_not_applied(tmp_path):
  every = dicom_series.slices(modality='PT')
  for found in every:
    found.RealWorldValueMappingSequence = [
      dicom_series.of(RealWorldValueSlope=3.0, RealWorldValueIntercept=7.0)
    ]
  expected = dicom_series.values().transpose(2, 1, 0)
  np.testing.assert_array_equal(_read(tmp_path, every).voxels, expected)


def test_a_label_map_stays_readable(tmp_path):
  volume = np.arange(5 * 6 * 7).reshape(5, 6, 7) % 4
  dicom_series.write(tmp_path, dicom_series.slices(volume.astype(np.int16)))
  source = scan_files.Source('a', tmp_path)
  codes = scan_files.read(source, label=True).voxels
  assert codes.dtype == np.int32
  np.testing.assert_array_equal(codes, volume.transpose(2, 1, 0))


def test_a_label_map_of_fractions_is_refused(tmp_path):
  every = dicom_series.slices(RescaleSlope=0.5, RescaleIntercept=0)
  dicom_series.write(tmp_path, every)
  source = scan_files.Source('a', tmp_path)
  with pytest.raises(ScanError, match='label voxels are not whole numbers'):
    scan_files.read(source, label=True)


def test_private_and_strange_elements_do_not_matter(tmp_path, capfd):
  every = dicom_series.slices()
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for found in every:
      found.add_new(0x00091010, 'OB', b'\0\1\2\3')
      found.add_new(0x00190010, 'LO', 'SOMEBODY')
      found.add_new(0x0019100C, 'UN', b'\xff\xfe')
      found.StudyInstanceUID = '1.02.nobody'
      found.PatientBirthDate = 'last year'
      found.AcquisitionTime = 'noon'
      found.add_new(0x00280106, 'US', 0)
    dicom_series.write(tmp_path, every)
  expected = dicom_series.values().transpose(2, 1, 0)
  np.testing.assert_array_equal(read_dicom(tmp_path).voxels, expected)
  assert capfd.readouterr() == ('', '')
