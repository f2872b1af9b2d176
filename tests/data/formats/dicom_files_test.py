import dicom_series
import numpy as np
import pydicom
from pydicom.uid import (
  BasicTextSRStorage,
  GrayscaleSoftcopyPresentationStateStorage,
  MediaStorageDirectoryStorage,
  RTDoseStorage,
  RTStructureSetStorage,
  SecondaryCaptureImageStorage,
  SegmentationStorage,
)
import pytest

from data.formats import dicom_files
from data.formats.dicom import read_dicom
from data.formats.scan_error import ScanError


def _object(kind, **elements):
  """A sound object without pixels."""
  found = dicom_series.header(np.zeros((2, 2), np.int16), kind=kind)
  for keyword in ('PixelData', 'Rows', 'Columns'):
    del found[keyword]
  found.SeriesInstanceUID = f'{dicom_series.ROOT}7'
  dicom_series.name(found, 1)
  for keyword, value in elements.items():
    setattr(found, keyword, value)
  return found


def _saved(folder, name, found):
  pydicom.dcmwrite(folder / name, found, enforce_file_format=True)


def _directory(folder):
  meta = pydicom.dataset.FileMetaDataset()
  meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
  meta.MediaStorageSOPInstanceUID = f'{dicom_series.ROOT}5'
  meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  found = dicom_series.of(FileSetID='X', DirectoryRecordSequence=[])
  found.file_meta = meta
  _saved(folder, 'DICOMDIR', found)


def _with_pixels(kind, name, **elements):
  def put(folder):
    found = dicom_series.header(np.ones((3, 4), np.int16), kind=kind)
    found.SeriesInstanceUID = f'{dicom_series.ROOT}7'
    dicom_series.name(found, 1)
    for keyword, value in elements.items():
      setattr(found, keyword, value)
    _saved(folder, name, found)

  return put


def _localizer(uid):
  def put(folder):
    (found,) = dicom_series.slices(np.ones((1, 9, 9), np.int16))
    found.SeriesInstanceUID = uid
    found.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    found.ImageType = ['ORIGINAL', 'PRIMARY', 'LOCALIZER']
    dicom_series.name(found, 77)
    _saved(folder, 'LOC.dcm', found)

  return put


_COLOURS = {
  'SamplesPerPixel': 3,
  'PlanarConfiguration': 0,
  'PhotometricInterpretation': 'RGB',
  'BitsAllocated': 8,
  'BitsStored': 8,
  'HighBit': 7,
  'PixelData': bytes(36),
}
# What puts it there, its name, why it is left out.
STRANGERS = {
  'thumbnails': (
    lambda f: (f / 'Thumbs.db').write_bytes(b'\xd0\xcf\x11\xe0' + bytes(600)),
    'Thumbs.db',
    'no DICOM file',
  ),
  'settings': (
    lambda f: (f / 'desktop.ini').write_text('[.ShellClassInfo]\r\n'),
    'desktop.ini',
    'no DICOM file',
  ),
  'text without an ending': (
    lambda f: (f / 'README').write_text('Dear all,'),
    'README',
    'no DICOM file',
  ),
  'an empty file of another name': (
    lambda f: (f / 'LOCKFILE').write_bytes(b''),
    'LOCKFILE',
    'no DICOM file',
  ),
  'pdf': (
    lambda f: (f / 'report.pdf').write_bytes(b'%PDF-1.4\n' + bytes(200)),
    'report.pdf',
    'no DICOM file',
  ),
  'dead link': (
    lambda f: (f / 'viewer').symlink_to('nowhere'),
    'viewer',
    'cannot be read',
  ),
  'directory': (_directory, 'DICOMDIR', 'a DICOMDIR'),
  'report': (
    lambda f: _saved(f, 'IM0099.dcm', _object(BasicTextSRStorage)),
    'IM0099.dcm',
    r'without pixels \(Basic Text SR\)',
  ),
  'presentation state': (
    lambda f: _saved(
      f, 'PS', _object(GrayscaleSoftcopyPresentationStateStorage)
    ),
    'PS',
    'without pixels',
  ),
  'contours': (
    lambda f: _saved(f, 'RS.dcm', _object(RTStructureSetStorage)),
    'RS.dcm',
    'without pixels',
  ),
  "a vendor's own kind": (
    lambda f: _saved(f, 'IM0098.dcm', _object('1.3.12.2.1107.5.9.1')),
    'IM0098.dcm',
    'without pixels',
  ),
  'segmentation': (
    _with_pixels(SegmentationStorage, 'seg.dcm'), 'seg.dcm', 'a segmentation'
  ),
  'dose': (
    _with_pixels(RTDoseStorage, 'RD.dcm'), 'RD.dcm', 'a radiotherapy dose'
  ),
  'screen shot': (
    _with_pixels(SecondaryCaptureImageStorage, 'SC.dcm', **_COLOURS),
    'SC.dcm',
    'a colour picture',
  ),
  'protocol': (
    _with_pixels(SecondaryCaptureImageStorage, 'SC.dcm'),
    'SC.dcm',
    'a picture without a place',
  ),
  'raw voxels': (
    lambda f: (f / 'ct.img').write_bytes(bytes(9000)), 'ct.img', 'no DICOM file'
  ),
  'localizer of the series': (
    _localizer(f'{dicom_series.ROOT}1'), 'LOC.dcm', 'a localizer'
  ),
  'localizer beside it': (
    _localizer(f'{dicom_series.ROOT}8'), 'LOC.dcm', 'a localizer'
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', STRANGERS)
def test_what_is_no_slice_is_left_out_and_told(name, tmp_path):
  put, file, reason = STRANGERS[name]
  files = dicom_series.write(tmp_path, dicom_series.slices())
  put(tmp_path)
  (series,), (left,) = dicom_files.series_in(tmp_path)
  assert series.files == tuple(files)
  assert left.file == str(tmp_path / file)
  with pytest.raises(ScanError, match=reason):
    raise left
  expected = dicom_series.values().transpose(2, 1, 0)
  np.testing.assert_array_equal(read_dicom(tmp_path).voxels, expected)


def test_hidden_files_and_folders_are_not_looked_at(tmp_path):
  files = dicom_series.write(tmp_path, dicom_series.slices())
  dicom_series.write(tmp_path / 'inside', dicom_series.slices())
  (tmp_path / '.DS_Store').write_bytes(b'\0\0\0\1Bud1')
  (series,), left_out = dicom_files.series_in(tmp_path)
  assert series.files == tuple(files)
  assert not left_out


def test_only_the_files_asked_for_are_looked_at(tmp_path):
  files = dicom_series.write(tmp_path, dicom_series.slices())
  (series,), _ = dicom_files.series_in(tmp_path, files[2:])
  assert series.files == tuple(files[2:])


def _second(uid='2', **elements):
  """Another series of the patient."""
  out = dicom_series.slices(modality='MR')
  for number, found in enumerate(out, start=1):
    found.SeriesInstanceUID = dicom_series.ROOT + uid
    for keyword, value in elements.items():
      setattr(found, keyword, value)
    dicom_series.name(found, number)
  return out


def test_series_say_what_they_are(tmp_path):
  dicom_series.write(tmp_path, dicom_series.slices())
  dicom_series.write(
    tmp_path, _second(SeriesDescription='T2 SPIR', SeriesNumber=5)[:2], 'B'
  )
  bare = _second('3', SeriesDescription='', SeriesNumber=None, Modality='')
  dicom_series.write(tmp_path, bare[:1], 'C')
  frames = dicom_series.enhanced()
  frames.SeriesInstanceUID = f'{dicom_series.ROOT}4'
  dicom_series.write(tmp_path, [frames], 'D')
  found, left_out = dicom_files.series_in(tmp_path)
  assert list(map(str, found)) == [
    'T2 SPIR (series 5, MR, 2 images)',
    'no description (1 image)',
    'A (series 4, CT, 5 images)',
    'A (series 4, CT, 5 images)',
  ]
  assert not left_out


@pytest.mark.parametrize('wanted', ['t2 spir', '5', f'{dicom_series.ROOT}2'])
def test_a_series_is_taken_by_description_number_or_uid(tmp_path, wanted):
  dicom_series.write(tmp_path, dicom_series.slices())
  second = dicom_series.values()[::-1].copy()
  other = _second(SeriesDescription='T2  SPIR', SeriesNumber=5)
  for found, pixels in zip(other, second, strict=True):
    found.PixelData = pixels.tobytes()
  dicom_series.write(tmp_path, other, 'B')
  voxels = read_dicom(tmp_path, wanted).voxels
  np.testing.assert_array_equal(voxels, second.transpose(2, 1, 0))


@pytest.mark.parametrize('wanted', ['5', f'{dicom_series.ROOT}2'])
def test_a_name_that_is_two_things_is_the_surer_one(tmp_path, wanted):
  """A series' description may be another's number or UID."""
  dicom_series.write(tmp_path, dicom_series.slices(SeriesDescription=wanted))
  dicom_series.write(tmp_path, _second(SeriesNumber=5), 'B')
  assert read_dicom(tmp_path, wanted).tags['Modality'] == 'MR'


def test_several_series_are_listed(tmp_path):
  dicom_series.write(tmp_path, dicom_series.slices())
  dicom_series.write(tmp_path, _second(SeriesNumber=5), 'X')
  listed = r'A \(series 4, CT, 5 images\); A \(series 5, MR, 5 images\)'
  for wanted, reason, remedy in (
    ('', '2 series in one folder: ', '--series DESCRIPTION, or a folder per'),
    ('A', '2 series in one folder: ', '--series NUMBER'),
    ('T1', 'no series "T1" in it, but ', '--series DESCRIPTION'),
  ):
    with pytest.raises(ScanError, match=reason + listed) as caught:
      read_dicom(tmp_path, wanted)
    assert remedy in caught.value.remedy


def test_slices_that_are_series_of_their_own_are_told(tmp_path):
  """As some scanners write them."""
  every = dicom_series.slices()
  for k, found in enumerate(every):
    found.SeriesInstanceUID = f'{dicom_series.ROOT}1.{k}'
  dicom_series.write(tmp_path, every)
  with pytest.raises(ScanError, match='5 series of one image each'):
    read_dicom(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path):
  with pytest.raises(ScanError, match=r'cannot be read \(No such file'):
    read_dicom(tmp_path / 'a')


def test_a_lone_localizer_is_a_series(tmp_path):
  every = dicom_series.slices(ImageType=['ORIGINAL', 'PRIMARY', 'LOCALIZER'])
  dicom_series.write(tmp_path, every)
  (series,), left_out = dicom_files.series_in(tmp_path)
  assert len(series.files) == len(every)
  assert not left_out


# Damage to the third file, and what is said of it.
DAMAGE = {
  'pixels cut': (lambda data: data[:-10], 'truncated: 74 of the 84 bytes'),
  'header cut': (lambda data: data[:500], 'truncated: it ends before'),
  'meta cut': (lambda data: data[:150], 'truncated'),
  'empty': (lambda _: b'', 'it is empty'),
  'zeros': (lambda data: bytes(len(data)), 'not a readable DICOM file'),
  'an error page': (lambda _: b'<html>404</html>', 'not a readable DICOM file'),
}


@pytest.mark.parametrize('name', DAMAGE)
@pytest.mark.parametrize('ending', ['', '.dcm'])
def test_a_damaged_slice_is_never_left_out(name, ending, tmp_path):
  damage, reason = DAMAGE[name]
  files = dicom_series.write(tmp_path, dicom_series.slices())
  files = [file.rename(file.with_suffix(ending)) for file in files]
  data = damage(files[2].read_bytes())
  files[2].unlink()
  files[2].write_bytes(data)
  (series,), left_out = dicom_files.series_in(tmp_path)
  assert series.files == tuple(files)
  assert not left_out
  with pytest.raises(ScanError, match=reason) as caught:
    read_dicom(tmp_path)
  assert caught.value.file == str(files[2])
  assert 'copy the file again' in caught.value.remedy


def test_a_folder_of_nothing_but_damage_holds_a_series(tmp_path):
  (tmp_path / 'a.dcm').write_bytes(b'')
  (series,), _ = dicom_files.series_in(tmp_path)
  assert series.files == (tmp_path / 'a.dcm',)
  with pytest.raises(ScanError, match='empty'):
    read_dicom(tmp_path)


def test_a_dead_link_among_slices_is_an_error(tmp_path):
  files = dicom_series.write(tmp_path, dicom_series.slices())
  files[2].unlink()
  files[2].symlink_to('nowhere')
  with pytest.raises(ScanError, match='cannot be read') as caught:
    read_dicom(tmp_path)
  assert 'check name' in caught.value.remedy


@pytest.mark.parametrize(
  'syntax',
  [
    pydicom.uid.ImplicitVRLittleEndian,
    pydicom.uid.ExplicitVRLittleEndian,
    pydicom.uid.ExplicitVRBigEndian,
  ],
)
def test_files_without_a_preamble_are_read(syntax, tmp_path):
  tmp_path.joinpath('a').mkdir()
  implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
  for k, found in enumerate(dicom_series.slices()):
    del found.file_meta
    if not little:
      pixels = np.frombuffer(found.PixelData, '<i2')
      found.PixelData = pixels.astype('>i2').tobytes()
    pydicom.dcmwrite(
      tmp_path / 'a' / f'{k}', found, implicit_vr=implicit, little_endian=little
    )
  voxels = read_dicom(tmp_path / 'a').voxels
  expected = dicom_series.values().transpose(2, 1, 0)
  np.testing.assert_array_equal(voxels, expected)


@pytest.mark.parametrize(
  'charset',
  [
    ['ISO_IR 100', 'GB18030'],
    ['ISO_IR 192', 'ISO 2022 IR 87'],
    'ISO IR 100',
    'ISO_IR 999',
    '',
    'GB18030',
  ],
)
def test_character_sets_do_not_matter(charset, tmp_path, capfd):
  every = dicom_series.slices(SpecificCharacterSet=charset)
  with dicom_files.unsaid():
    dicom_series.write(tmp_path, every)
  assert len(dicom_files.series_in(tmp_path)[0]) == 1
  expected = dicom_series.values().transpose(2, 1, 0)
  np.testing.assert_array_equal(read_dicom(tmp_path).voxels, expected)
  assert capfd.readouterr() == ('', '')
