"""DICOM SEG objects: the same voxels in the same place, whoever reads them."""

import io
import logging
import warnings

import dicom_sources
from grids import ORIENTATIONS, affine_of
import highdicom as hd
import numpy as np
import pydicom
from pydicom.uid import ImplicitVRLittleEndian, RLELossless
import pytest
from scipy.spatial.transform import Rotation

from data.formats.nifti import Volume
from data.formats.scan_error import ScanError
from data.phantoms import archive
from dbdc_jax.evaluation import pictures
from dbdc_jax.inference.dicom import dicom_seg

NAMES = ('background', 'liver', 'right kidney', 'left kidney', 'something')
SPACING = (0.7, 1.3, 4.0)
# CT, secondary capture, a scanner's own kind, nuclear medicine.
KINDS = ('1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.5.1.4.1.1.7')
KINDS += ('1.3.46.670589.11.0.0.12.1', '1.2.840.10008.5.1.4.1.1.20')
OBLIQUE = Rotation.from_euler('xyz', (20, -35, 50), degrees=True).as_matrix()


@pytest.fixture
def series(tmp_path):
  return dicom_sources.write(tmp_path / 'series', affine_of('LPS', SPACING))


def _classes(volume, seed=1):
  noise = np.random.default_rng(seed)
  classes = noise.integers(0, len(NAMES), volume.voxels.shape, np.uint8)
  classes[:, :, 1] = 0
  return classes


def _encode(classes, volume, names=NAMES, colours=pictures.COLOURS):
  return dicom_seg.encode(
    classes, volume, names, colours=colours, model='phantom run', version='2.1'
  )


def _file(data):
  return pydicom.dcmread(io.BytesIO(data))


def _placed(file, volume):
  """Class indices on the volume's grid, by each frame's place in the world."""
  out = np.zeros(volume.voxels.shape, np.uint8)
  shared = file.SharedFunctionalGroupsSequence[0]
  cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
  along, down = np.array(cosines, float).reshape(2, 3)
  apart = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
  frames = file.pixel_array.reshape(-1, file.Rows, file.Columns)
  inverse = np.linalg.inv(volume.affine)
  for frame, group in zip(
    frames, file.PerFrameFunctionalGroupsSequence, strict=True
  ):
    corner = group.PlanePositionSequence[0].ImagePositionPatient
    rows, columns = np.nonzero(frame)
    lps = np.array(corner, float) + np.outer(columns * apart[1], along)
    lps += np.outer(rows * apart[0], down)
    index = lps * (-1, -1, 1) @ inverse[:3, :3].T + inverse[:3, 3]
    nearest = np.round(index).astype(int)
    assert np.abs(index - nearest).max(initial=0) < 1e-3
    single = group.get('SegmentIdentificationSequence')
    single = single or shared.SegmentIdentificationSequence
    assert not out[tuple(nearest.T)].any()
    out[tuple(nearest.T)] = single[0].ReferencedSegmentNumber
  return out


def _read(data):
  return hd.seg.segread(io.BytesIO(data))


def _by_slice(read, volume):
  """Class indices by the images that highdicom finds referred to."""
  uids = [
    pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
    for path in volume.files
  ]
  found = read.get_pixels_by_source_instance(
    uids, combine_segments=True, assert_missing_frames_are_empty=True
  )
  return found.T


def _in_space(read, classes, volume):
  """Whether highdicom's volume is the part of the classes that it covers."""
  found = read.get_volume(combine_segments=True)
  to_lps = np.diag([-1, -1, 1, 1]) @ volume.affine
  where = np.argwhere(np.ones(found.spatial_shape))
  index = (
    np.c_[where, np.ones(len(where))] @ (np.linalg.inv(to_lps) @ found.affine).T
  )
  nearest = tuple(np.round(index[:, :3]).astype(int).T)
  same = found.array.ravel() == classes[nearest]
  return same.all() and (found.array > 0).sum() == (classes > 0).sum()


def _same(data, classes, volume):
  np.testing.assert_array_equal(_placed(_file(data), volume), classes)
  read = _read(data)
  np.testing.assert_array_equal(_by_slice(read, volume), classes)
  assert _in_space(read, classes, volume)


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_voxels_come_back_in_every_orientation(tmp_path, codes):
  volume = dicom_sources.write(tmp_path, affine_of(codes, SPACING, (9, -8, 7)))
  classes = _classes(volume)
  _same(_encode(classes, volume), classes, volume)


@pytest.mark.parametrize('codes', ['LPS', 'RAS', 'PIR'])
def test_voxels_come_back_from_oblique_series_stored_backwards(tmp_path, codes):
  affine = affine_of(codes, SPACING, (9, -8, 7), OBLIQUE)
  volume = dicom_sources.write(tmp_path, affine, numbers=[4, 3, 2, 1])
  classes = _classes(volume)
  _same(_encode(classes, volume), classes, volume)


def _implicit(file, index):
  del index
  file.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


@pytest.mark.parametrize(
  'edit', [lambda file, index: file.compress(RLELossless), _implicit]
)
def test_a_series_of_another_syntax_is_as_good(series, edit):
  dicom_sources.change(series, edit)
  classes = _classes(series)
  _same(_encode(classes, series), classes, series)


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_a_multi_frame_file_is_as_good(tmp_path, order):
  affine = affine_of('RIP', SPACING, (9, -8, 7), OBLIQUE)
  volume = dicom_sources.write_enhanced(
    tmp_path / 'all.dcm', affine, (6, 5, 4), order
  )
  classes = _classes(volume)
  data = _encode(classes, volume)
  np.testing.assert_array_equal(_placed(_file(data), volume), classes)
  uid = pydicom.dcmread(volume.files[0]).SOPInstanceUID
  frames = _read(data).get_pixels_by_source_frame(
    uid,
    [1 + order.index(index) for index in range(4)],
    combine_segments=True,
    assert_missing_frames_are_empty=True,
  )
  np.testing.assert_array_equal(frames.T, classes)


@pytest.mark.parametrize('kind', KINDS)
def test_references_name_the_kind_of_the_images(series, kind):
  def edit(file, index):
    del index
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = kind

  dicom_sources.change(series, edit)
  classes = _classes(series)
  data = _encode(classes, series)
  _same(data, classes, series)
  kinds = {
    element.value
    for element in _file(data).iterall()
    if element.keyword == 'ReferencedSOPClassUID'
  }
  assert kinds == {kind}


def test_enhanced_files_of_one_frame_each_are_as_good(tmp_path):
  affine = affine_of('RIP', SPACING, (9, -8, 7), OBLIQUE)
  files = []
  for index in range(4):
    path = tmp_path / f'{9 - index}.dcm'
    dicom_sources.write_enhanced(path, affine, (6, 5, 1), [index], index)
    files.append(path)
  volume = Volume(np.zeros((6, 5, 4), np.float32), affine, files=tuple(files))
  classes = _classes(volume)
  _same(_encode(classes, volume), classes, volume)


def test_several_files_of_several_frames_are_refused(tmp_path):
  files = [tmp_path / 'a.dcm', tmp_path / 'b.dcm']
  for path in files:
    dicom_sources.write_enhanced(path, np.eye(4), (6, 5, 2), [0, 1])
  volume = Volume(np.zeros((6, 5, 4)), np.eye(4), files=tuple(files))
  with pytest.raises(ScanError, match='2 files with several frames each'):
    _encode(_classes(volume), volume)


def test_frames_that_are_not_in_the_volume_stay_empty(tmp_path):
  affine = affine_of('LPS', SPACING)
  volume = dicom_sources.write_enhanced(
    tmp_path / 'all.dcm', affine, (6, 5, 4), (-2, -1, 0, 1, 2, 3)
  )
  classes = _classes(volume)
  file = _file(_encode(classes, volume))
  np.testing.assert_array_equal(_placed(file, volume), classes)


@pytest.mark.parametrize('seed', range(5))
def test_it_is_as_good_whatever_the_number_of_pixels(tmp_path, seed):
  # Planes of single bits follow one another without a gap.
  shape = np.random.default_rng(seed).integers(2, 12, 3)
  volume = dicom_sources.write(tmp_path, affine_of('LPS', SPACING), shape)
  classes = _classes(volume)
  _same(_encode(classes, volume), classes, volume)


def test_it_belongs_to_the_scans_patient_study_and_space(series):
  dicom_sources.change(series, _known_patient)
  file = _file(_encode(_classes(series), series))
  headers = [pydicom.dcmread(path) for path in series.files]
  for name in (
    'StudyInstanceUID',
    'FrameOfReferenceUID',
    'StudyID',
    'StudyDate',
    'StudyTime',
    'StudyDescription',
    'AccessionNumber',
    'ReferringPhysicianName',
    'PatientName',
    'PatientID',
    'PatientBirthDate',
    'PatientSex',
    'PatientAge',
    'PatientWeight',
    'PatientIdentityRemoved',
    'DeidentificationMethodCodeSequence',
    'OtherPatientIDsSequence',
  ):
    assert file[name] == headers[0][name], name
  assert file.Modality == 'SEG'
  assert file.SegmentationType == 'BINARY'
  assert file.SeriesInstanceUID != headers[0].SeriesInstanceUID
  assert file.SOPInstanceUID not in {h.SOPInstanceUID for h in headers}
  (referred,) = file.ReferencedSeriesSequence
  assert referred.SeriesInstanceUID == headers[0].SeriesInstanceUID
  assert [
    item.ReferencedSOPInstanceUID
    for item in referred.ReferencedInstanceSequence
  ] == [h.SOPInstanceUID for h in headers]


def _known_patient(file, index):
  del index
  file.SpecificCharacterSet = 'ISO_IR 100'
  file.PatientName, file.PatientSex = 'Müller^Jörg', 'O'
  file.PatientBirthDate, file.PatientAge = '19501231', '070Y'
  file.PatientWeight, file.StudyID = '80.5', 'S1'
  file.StudyDate, file.StudyTime = '20200229', '123001.5'
  file.StudyDescription, file.AccessionNumber = 'Abdomen für alle', 'A1'
  file.ReferringPhysicianName = 'Who^Doctor'
  file.PatientIdentityRemoved = 'YES'
  code = hd.sr.CodedConcept('113100', 'DCM', 'Basic Profile')
  file.DeidentificationMethodCodeSequence = [code]
  other = pydicom.Dataset()
  other.PatientID, other.TypeOfPatientID = 'B2', 'TEXT'
  file.OtherPatientIDsSequence = [other]


def test_every_element_keeps_the_rules(series):
  dicom_sources.change(series, _known_patient)
  data = _encode(_classes(series), series)
  with pydicom.config.strict_reading():
    assert len(list(_file(data).iterall())) > 100


def test_two_calls_differ_in_uids_and_times_alone(series):
  def told(data):
    out = []
    for element in _file(data).iterall():
      own = str(element.value).startswith('1.2.826.0.1.3680043.10.511.3.')
      if not own and element.VR not in ('DA', 'DT', 'TM', 'SQ'):
        out.append((element.tag, element.value))
    return out

  classes = _classes(series)
  one, other = (_encode(classes, series) for _ in range(2))
  assert told(one) == told(other)
  assert _file(one).SeriesInstanceUID != _file(other).SeriesInstanceUID


def test_segments_are_named_coded_and_coloured(series):
  names = [*NAMES, 'Körper\\teil', 'x' * 70, *map(str, range(5))]
  file = _file(_encode(_classes(series), series, names))
  found = file.SegmentSequence
  assert [s.SegmentNumber for s in found] == list(range(1, len(names)))
  assert [s.SegmentLabel for s in found[:6]] == [
    *NAMES[1:],
    'Körper/teil',
    'x' * 64,
  ]
  assert found[5].SegmentDescription == 'x' * 70
  kinds = [s.SegmentedPropertyTypeCodeSequence[0] for s in found]
  assert [k.CodeValue for k in kinds[:4]] == [
    '10200004',
    '64033007',
    '64033007',
    '85756007',
  ]
  sides = [k.get('SegmentedPropertyTypeModifierCodeSequence') for k in kinds]
  assert [s[0].CodeMeaning if s else None for s in sides[:4]] == [
    None,
    'Right',
    'Left',
    None,
  ]
  for index, segment in enumerate(found):
    assert segment.SegmentAlgorithmType == 'AUTOMATIC'
    assert segment.SegmentAlgorithmName == 'phantom run'
    (by,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (by.AlgorithmName, by.AlgorithmVersion) == ('phantom run', '2.1')
    lab = [int(v) for v in segment.RecommendedDisplayCIELabValue]
    shown = hd.color.CIELabColor.from_dicom_value(lab).to_rgb(clip=True)
    colour = pictures.COLOURS[index % len(pictures.COLOURS)]
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    np.testing.assert_allclose(shown, wanted, atol=1)


def test_a_class_that_was_not_found_keeps_its_number(series):
  classes = np.zeros(series.voxels.shape, np.uint8)
  classes[2:4, 1, 2] = 3
  data = _encode(classes, series)
  file = _file(data)
  assert file.NumberOfFrames == 1
  assert [s.SegmentLabel for s in file.SegmentSequence] == list(NAMES[1:])
  _same(data, classes, series)


def test_a_task_of_one_class(series):
  classes = _classes(series) // (len(NAMES) - 1)
  data = _encode(classes, series, NAMES[:2])
  assert classes.max() == 1
  _same(data, classes, series)


def test_nothing_found_is_an_object_of_empty_slices(series):
  classes = np.zeros(series.voxels.shape, np.uint8)
  data = _encode(classes, series)
  file = _file(data)
  assert len(file.SegmentSequence) == len(NAMES) - 1
  assert file.NumberOfFrames == series.voxels.shape[2]
  _same(data, classes, series)


# What real headers hold: element -> bytes in the file, and what becomes of it.
SLOPPY = {
  'empty birth date': ('PatientBirthDate', b'', ''),
  'blank birth date': ('PatientBirthDate', b'        ', ''),
  'no date': ('PatientBirthDate', b'ANON', ''),
  'no month': ('PatientBirthDate', b'19501301', ''),
  'an old date': ('PatientBirthDate', b'1950.12.31', '19501231'),
  'a range': ('StudyDate', b'20200101-20200131', ''),
  'an old time': ('StudyTime', b'12:59:59', '125959'),
  'no time': ('StudyTime', b'250000', ''),
  'a word for sex': ('PatientSex', b'male', ''),
  'a small letter': ('PatientSex', b'm', 'M'),
  'a number for age': ('PatientAge', b'70', None),
  'a word for weight': ('PatientWeight', b'heavy', None),
  'a long study id': ('StudyID', b'9' * 40, ''),
  'an id with letters': ('StudyInstanceUID', b'1.2.anon.3', '1.2.anon.3'),
  'an id with zeros': ('FrameOfReferenceUID', b'1.2.003', '1.2.003'),
  'a long patient id': ('PatientID', b'9' * 80, '9' * 80),
  'an empty patient id': ('PatientID', b'', ''),
  'a word for a name': ('PatientName', b'Anonymized', 'Anonymized'),
  'no name': ('PatientName', b'', ''),
  'a long name': ('PatientName', b'n' * 90, 'n' * 90),
  'Latin 1 not told': ('PatientName', b'M\xfcller^J', 'Müller^J'),
  'a kind of body': ('BodyPartExamined', b'abdomen, lower', None),
  'no thickness': ('SliceThickness', b'', None),
  'thickness 0': ('SliceThickness', b'0', None),
  'a word for thickness': ('SliceThickness', b'thin', None),
  'a word for modality': ('Modality', b'mri scan of a patient', 'SEG'),
}


@pytest.mark.parametrize('case', SLOPPY)
def test_sloppy_headers_do_no_harm(series, case, caplog):
  name, text, kept = SLOPPY[case]
  dicom_sources.replace(series, name, text)
  classes = _classes(series)
  data = _encode(classes, series)  # Warnings are errors here.
  assert not caplog.records
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    file = _file(data)
    found = file.get(name)
    assert found is kept is None or str(found) == kept
    measures = file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures[0].SliceThickness == SPACING[2]
    _same(data, classes, series)


CHARACTERS = {
  'Latin 1': (b'ISO_IR 100', 'Müller^Jörg', 'latin1'),
  'UTF-8': (b'ISO_IR 192', '山田^太郎', 'utf8'),
  'Cyrillic': (b'ISO_IR 144', 'Люкceмбypг', 'iso8859-5'),
  'GB18030': (b'GB18030', '王^小东', 'gb18030'),
  'misspelt': (b'ISO-IR 100', 'Müller^Jörg', 'latin1'),
  'of no standard': (b'latin1', 'Müller^Jörg', 'latin1'),
}


@pytest.mark.parametrize('case', CHARACTERS)
def test_names_keep_their_letters(series, case, caplog):
  declared, name, encoding = CHARACTERS[case]
  dicom_sources.replace(series, 'PatientName', name.encode(encoding))
  dicom_sources.replace(series, 'SpecificCharacterSet', declared)
  file = _file(_encode(_classes(series), series))
  assert file.PatientName == name
  assert file.SpecificCharacterSet == 'ISO_IR 192'
  assert not caplog.records


def _jitter(file, index):
  file.ImageOrientationPatient = ['1', f'0.00000{index}', '0', '0', '1', '0']


def _lossy(file, index):
  del index
  file.LossyImageCompression, file.LossyImageCompressionRatio = '01', '10.5'


def _private(file, index):
  del index
  block = file.private_block(0x0011, 'MAKER', create=True)
  block.add_new(1, 'LO', 'secret of a maker')
  file.ProcedureCodeSequence = [pydicom.Dataset()]
  file.OtherPatientIDsSequence = []


def test_slices_that_are_not_quite_evenly_spaced(tmp_path):
  # Positions rounded by the scanner: the steps add up to another length.
  affine = affine_of('LPS', (1, 1, 2))
  volume = dicom_sources.write(tmp_path, affine, (6, 5, 40))
  dicom_sources.shift(volume, 0.15 * np.arange(40))
  classes = _classes(volume)
  np.testing.assert_array_equal(
    _by_slice(_read(_encode(classes, volume)), volume), classes
  )


def test_a_lossy_scan_makes_a_segmentation_of_a_lossy_scan(series):
  assert _file(_encode(_classes(series), series)).LossyImageCompression == '00'
  dicom_sources.change(series, _lossy)
  file = _file(_encode(_classes(series), series))
  assert file.LossyImageCompression == '01'
  assert file.LossyImageCompressionRatio == 10.5


@pytest.mark.parametrize('edit', [_jitter, _lossy, _private])
def test_differences_that_do_not_matter(series, edit):
  dicom_sources.change(series, edit)
  classes = _classes(series)
  data = _encode(classes, series)
  assert b'secret' not in data
  np.testing.assert_array_equal(_by_slice(_read(data), series), classes)


def _without(name):
  return lambda file, index: file.pop(name)


def _unequal(name):
  return lambda file, index: setattr(file, name, f'1.{index}')


REFUSED = {
  'no frame of reference': (
    _without('FrameOfReferenceUID'),
    'FrameOfReferenceUID is missing or unreadable; export the series with',
  ),
  'no study': (_without('StudyInstanceUID'), 'StudyInstanceUID is missing'),
  'no class': (_without('SOPClassUID'), 'SOPClassUID is missing'),
  'no instance': (_without('SOPInstanceUID'), 'SOPInstanceUID is missing'),
  'two spaces': (
    _unequal('FrameOfReferenceUID'),
    'slices differ in FrameOfReferenceUID',
  ),
  'two patients': (_unequal('PatientID'), 'slices differ in PatientID'),
  'two studies': (
    _unequal('StudyInstanceUID'),
    'slices differ in StudyInstanceUID',
  ),
  'one id': (
    lambda file, index: setattr(file, 'SOPInstanceUID', '1.2'),
    'SOPInstanceUID of another slice',
  ),
  'another size': (
    lambda file, index: setattr(file, 'Rows', 4),
    '6 x 4 pixels by now',
  ),
  'one place': (
    lambda file, index: setattr(file, 'ImagePositionPatient', [0, 0, 0]),
    'several frames at one position',
  ),
  'another place': (
    lambda file, index: setattr(file, 'ImagePositionPatient', [9, 0, index]),
    'it lies elsewhere by now',
  ),
  'another order': (
    lambda file, index: setattr(file, 'ImagePositionPatient', [0, 0, -index]),
    'elsewhere by now',
  ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_referred_to_is_refused(series, case):
  edit, reason = REFUSED[case]
  dicom_sources.change(series, edit)
  with pytest.raises(ScanError, match=reason) as error:
    _encode(_classes(series), series)
  assert str(series.files[0].parent) in error.value.file


@pytest.mark.parametrize('case', REFUSED)
def test_it_is_refused_before_anything_is_computed(series, case):
  edit, reason = REFUSED[case]
  dicom_seg.check(series)
  dicom_sources.change(series, edit)
  with pytest.raises(ScanError, match=reason):
    dicom_seg.check(series)


def test_a_volume_that_is_not_dicom_is_refused():
  volume = Volume(np.zeros((6, 5, 4), np.float32), np.eye(4))
  with pytest.raises(ScanError, match='DICOM series, or give --format nifti'):
    _encode(_classes(volume), volume)


def test_files_that_are_gone_are_named(series):
  series.files[2].unlink()
  with pytest.raises(ScanError, match='unreadable by now') as error:
    _encode(_classes(series), series)
  assert error.value.file == str(series.files[2])


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('ImagePositionPatient', b'0\\\xe4\\1'),
    ('ImagePositionPatient', b'0\\0'),
    ('ImageOrientationPatient', b'1\\0\\0\\0\\nan\\0'),
    ('PixelSpacing', b'wide'),
  ],
)
def test_unreadable_numbers_are_refused(series, name, text):
  dicom_sources.replace(series, name, text)
  with pytest.raises(ScanError, match=f'{name} is missing or unreadable'):
    _encode(_classes(series), series)


def test_a_damaged_header_makes_an_object_or_an_error_in_words(series):
  classes, path = _classes(series), series.files[0]
  sound = path.read_bytes()
  noise = np.random.default_rng(0)
  made = 0
  for _ in range(20):
    damaged = bytearray(sound)
    damaged[noise.integers(132, len(sound) - 80)] = noise.integers(256)
    path.write_bytes(damaged)
    try:
      made += len(_encode(classes, series)) > 0
    except ScanError as error:
      assert str(path.parent) in error.file
  assert 0 < made < 20


def test_an_object_that_cannot_be_that_large_is_refused(series, monkeypatch):
  monkeypatch.setattr(dicom_seg, '_MOST_BYTES', 20)
  with pytest.raises(ScanError, match='do not fit into a DICOM object'):
    _encode(_classes(series), series)


def test_frames_at_one_place_are_refused(tmp_path):
  volume = dicom_sources.write_enhanced(
    tmp_path / 'echoes.dcm',
    affine_of('LPS', SPACING),
    (6, 5, 4),
    (0, 1, 2, 3, 0, 1, 2, 3),
  )
  with pytest.raises(ScanError, match='several frames at one position'):
    _encode(_classes(volume), volume)


def test_the_libraries_stay_quiet():
  for name in ('highdicom.base', 'pydicom'):
    assert not logging.getLogger(name).isEnabledFor(logging.WARNING)


def test_real_series(scans):
  folders = sorted((scans / 'chaos').glob('Train_Sets/MR/*/*/DICOM_anon'))
  assert folders
  for folder in folders[::5]:
    volume = dicom_sources.read(folder)
    classes = np.zeros(volume.voxels.shape, np.uint8)
    classes[60:90, 80:120, 3:7] = _classes(volume)[60:90, 80:120, 3:7]
    data = _encode(classes, volume)
    np.testing.assert_array_equal(_by_slice(_read(data), volume), classes)


def test_the_phantoms_series_is_read_as_it_was_written(tmp_path):
  # The reference of the tests above: a voxel that is known by its place.
  affine = affine_of('LPS', SPACING, (9, -8, 7))
  voxels = np.zeros((6, 5, 4), np.uint16)
  voxels[4, 1, 2] = 1000
  archive.write_dicom(
    tmp_path, voxels, affine, [1, 2, 3, 4], patient=1, series=1, protocol='x'
  )
  volume = dicom_sources.read(tmp_path)
  classes = (volume.voxels > 0).astype(np.uint8)
  file = _file(_encode(classes, volume))
  (frame,) = np.atleast_3d(file.pixel_array.T).T
  assert np.argwhere(frame).tolist() == [[1, 4]]
  group = file.PerFrameFunctionalGroupsSequence[0]
  corner = group.PlanePositionSequence[0].ImagePositionPatient
  np.testing.assert_allclose(
    np.array(corner, float) * (-1, -1, 1), affine[:3, 3] + 2 * affine[:3, 2]
  )
