import builtins
import errno
import os
import pathlib
import unicodedata

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from data.formats import nifti, scan_files, scan_walk
from data.formats.scan_error import ScanError, table
from data.phantoms import archive

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
ENDINGS = ('nii', 'nii.gz', 'NII.GZ', 'Nii', 'mha', 'MHA', 'mhd', 'nrrd')
ENDINGS += ('nhdr', 'img')
VOXELS = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)


def _nifti(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  if not path.name.lower().endswith('.gz'):
    path.write_bytes(nib.Nifti1Image(VOXELS, AFFINE).to_bytes())
    return
  nifti.write_nifti(path.with_name('made.nii.gz'), VOXELS, AFFINE)
  path.with_name('made.nii.gz').rename(path)


def _series(folder, number=1, name='T2', patient=1):
  archive.write_dicom(
    folder,
    VOXELS.astype(np.uint16) + number,
    AFFINE,
    [1 + 10 * number, 2 + 10 * number, 3 + 10 * number, 4 + 10 * number],
    patient=patient,
    series=number,
    protocol=name,
  )


def _itk(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  small = path.with_suffix(path.suffix.lower())  # ITK writes no other.
  SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS.T), str(small))
  small.rename(path)


def _files(errors):
  return [pathlib.Path(error.file).name for error in errors]


@pytest.mark.parametrize('ending', ENDINGS)
def test_every_format_is_one_scan_in_any_case_of_letters(ending, tmp_path):
  place, name = tmp_path / 'in', f'a.{ending}'
  if '.nii' in name.lower():
    _nifti(place / name)
  else:
    _itk(place / name)
  listing = scan_files.find(place)
  (source,) = listing.scans.values()
  assert source.name == 'a'
  assert not listing.problems and not listing.left_out
  volume = scan_files.read(source)
  np.testing.assert_array_equal(volume.voxels, VOXELS)
  np.testing.assert_allclose(scan_files.affine(source), volume.affine)
  # Whatever is in the folder, the scan is read from.
  assert sorted(source.files()) == sorted(place.iterdir())
  (again,) = scan_files.find(place / name).scans.values()
  assert again == source
  codes = scan_files.read(source, label=True).voxels
  assert codes.dtype == np.int32
  np.testing.assert_array_equal(codes, VOXELS)


@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('a.nii.zip', 'packed .nii'),
    ('a.nii.bz2', 'packed .nii'),
    ('a.dcm.gz', 'packed .dcm'),
    ('a.mgz', 'FreeSurfer'),
    ('a.MGZ', 'FreeSurfer'),
    ('a.gz', 'packed file'),
    ('scans.zip', 'archive'),
    ('scans.tar.gz', 'archive'),
    ('a.raw', 'without a header'),
    ('a.hdr', '.img is missing'),
    ('a.img', '.hdr is missing'),
    ('a.img.gz', 'packed .img'),
    ('a.mnc', 'MINC'),
  ],
)
def test_what_looks_like_a_scan_and_is_not_read_is_a_problem(
  name, said, tmp_path
):
  _nifti(tmp_path / 'good.nii.gz')
  (tmp_path / name).write_bytes(b'PK\3\4' * 100)
  listing = scan_files.find(tmp_path)
  assert list(listing.scans) == ['good'] and not listing.left_out
  (error,) = listing.problems
  assert error.file == str(tmp_path / name)
  assert said in error.reason and error.remedy
  # The same for the file alone.
  assert scan_files.find(tmp_path / name).problems[0].reason == error.reason


@pytest.mark.parametrize(
  'name',
  (
    'a.txt',
    'a.JSON',
    'b.json.gz',
    'Thumbs.db',
    'desktop.ini',
    'README',
    'a.csv',
  ),
)
def test_what_is_no_scan_is_left_out_and_told(name, tmp_path):
  _nifti(tmp_path / 'good.nii.gz')
  (tmp_path / name).write_text('hello')
  (tmp_path / '.DS_Store').write_text('x')
  (tmp_path / '._good.nii.gz').write_text('x')
  listing = scan_files.find(tmp_path)
  assert list(listing.scans) == ['good'] and not listing.problems
  assert _files(listing.left_out) == [name]
  assert listing.left_out[0].reason


def test_dead_links_are_named_with_what_they_stand_for(tmp_path):
  (tmp_path / 'a.nii.gz').symlink_to('/annex/objects/x')
  (tmp_path / 'deep').mkdir()
  (tmp_path / 'deep' / 'b').symlink_to('../../gone')
  (tmp_path / 'notes.txt').symlink_to('/gone')
  listing = scan_files.find(tmp_path)
  assert not listing.scans
  assert _files(listing.problems) == ['a.nii.gz', 'b']
  assert '/annex/objects/x' in listing.problems[0].reason
  assert _files(listing.left_out) == ['notes.txt']
  with pytest.raises(ScanError, match='a link to /annex/objects/x'):
    scan_files.find(tmp_path / 'a.nii.gz')


@pytest.mark.parametrize(
  ('path', 'name'),
  [
    ('case/ct.nii.gz', 'case'),
    ('case/imaging.NII', 'case'),
    ('volume-0.nii/volume-0.nii', 'volume-0'),
    ('a/b/c/d/e.mha', 'a'),
    ('Müller 7/x.nii', 'Müller 7'),
  ],
)
def test_a_folder_that_leads_to_one_scan_is_that_scan(path, name, tmp_path):
  _itk(tmp_path / path) if '.mha' in path else _nifti(tmp_path / path)
  (tmp_path / pathlib.Path(path).parts[0] / 'readme.txt').write_text('x')
  listing = scan_files.find(tmp_path)
  assert list(listing.scans) == [name]
  assert listing.scans[name].path == tmp_path / path


def test_a_folder_that_leads_to_several_names_them_by_the_way(tmp_path):
  for path in ('old/x.nii', 'old/deep/y.nii', 'old/deep/z.nii', 'new.nii'):
    _nifti(tmp_path / path)
  listing = scan_files.find(tmp_path)
  assert list(listing.scans) == ['new', 'old_deep_y', 'old_deep_z', 'old_x']
  assert not listing.problems


def test_dicom_is_found_loose_and_deep_beside_other_scans(tmp_path):
  place = tmp_path / 'in'
  _series(place / 'patient' / 'study' / 'series')
  _series(place, patient=2)
  _nifti(place / 'other.nii.gz')
  (place / 'dead.nii.gz').symlink_to('/gone')
  (place / 'readme').write_text('x')
  listing = scan_files.find(place)
  assert list(listing.scans) == ['in', 'other', 'patient']
  assert listing.scans['patient'].path == place / 'patient/study/series'
  assert len(listing.scans['in'].files()) == 4
  assert _files(listing.problems) == ['dead.nii.gz']
  for source in listing.scans.values():
    # The phantom's DICOM holds its values plus the number of the series.
    found = scan_files.read(source).voxels
    np.testing.assert_array_equal(np.diff(found, axis=-1), 1)
    assert scan_files.affine(source).shape == (4, 4)
  # One slice means its series.
  file = sorted((place / 'patient/study/series').iterdir())[1]
  (source,) = scan_files.find(file).scans.values()
  assert source.files() == listing.scans['patient'].files()


def test_one_of_several_series_has_to_be_named(tmp_path):
  for number, name in enumerate(('Loc', 'T2 SPIR', 'T1 in'), 1):
    _series(tmp_path / 'case', number, name)
  listing = scan_files.find(tmp_path)
  assert not listing.scans
  (error,) = listing.problems
  assert error.file == str(tmp_path / 'case') and '3 series' in error.reason
  assert 'T2 SPIR' in error.reason and '4 images' in error.reason
  assert '--series' in error.remedy
  uid = None
  for wanted in ('T2 SPIR', 't2 spir', 'spir', '2'):
    (source,) = scan_files.find(tmp_path, series=wanted).scans.values()
    uid = uid or source.series
    assert source.series == uid and source.name == 'case'
    assert scan_files.read(source).voxels[0, 0, 0] == 2
  (source,) = scan_files.find(tmp_path, series=uid).scans.values()
  assert source.series == uid
  for wanted, said in (('flair', "no series 'flair'"), ('T', '2 series')):
    listing = scan_files.find(tmp_path, series=wanted)
    assert not listing.scans and said in listing.problems[0].reason
    assert 'T2 SPIR' in listing.problems[0].reason


def test_files_of_many_frames_are_a_scan_each(tmp_path):
  for number in (1, 2):
    _series(tmp_path, number)
  for number, name in ((1, 'a.dcm'), (2, 'b')):
    files = sorted(tmp_path.glob(f'IMG-{number:04d}*'))
    file = pydicom.dcmread(files[0])
    file.NumberOfFrames = 4
    file.PixelData *= 4
    for path in files:
      path.unlink()
    file.save_as(tmp_path / name)
  listing = scan_files.find(tmp_path)
  assert list(listing.scans) == ['a', 'b'] and not listing.problems


@pytest.mark.parametrize(
  'pair',
  [
    ('a.nii', 'a.nii.gz'),
    ('a.nii.gz', 'a.NII.GZ'),
    ('Bär.nii', unicodedata.normalize('NFD', 'Bär') + '.nii'),
    ('a.mha', 'a.nii'),
    ('a/x.nii', 'a.nii'),
  ],
)
def test_equal_names_are_refused_with_both_files(pair, tmp_path):
  for path in (*pair, 'other.nii'):
    _itk(tmp_path / path) if '.mha' in path else _nifti(tmp_path / path)
  listing = scan_files.find(tmp_path)
  assert list(listing.scans) == ['other']
  (error,) = listing.problems
  said = error.file + ' ' + error.reason
  assert all(str(tmp_path / path) in said for path in pair)


def test_our_own_results_and_named_folders_are_no_scans(tmp_path):
  for path in ('a.nii', 'done/a.nii', 'out/b.nii', 'link/c.nii'):
    _nifti(tmp_path / path)
  (tmp_path / 'done' / scan_files.RESULTS).write_text('{}')
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'alias').symlink_to(tmp_path / 'out')
  without = (tmp_path / 'out', tmp_path / 'link' / '..' / 'link')
  listing = scan_files.find(tmp_path, without=without)
  assert list(listing.scans) == ['a'] and not listing.problems
  assert {pathlib.Path(e.file).name: e.reason for e in listing.left_out} == {
    'alias': 'where results are written',
    'done': 'results of this program',
    'empty': 'is empty',
    'link': 'where results are written',
    'out': 'where results are written',
  }


def test_links_that_lead_in_a_circle_end(tmp_path):
  _nifti(tmp_path / 'a' / 'x.nii')
  (tmp_path / 'a' / 'up').symlink_to(tmp_path)
  (tmp_path / 'a' / 'here').symlink_to('.')
  listing = scan_files.find(tmp_path)
  assert list(listing.scans) == ['a'] and not listing.problems
  assert {e.reason for e in listing.left_out} == {
    'a link to a folder that it lies in'
  }


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_is_read(
  tmp_path, monkeypatch
):
  for path in ('a.nii', 'shut/b.nii', 'c/d.nii'):
    _nifti(tmp_path / path)
  really = pathlib.Path.iterdir

  def iterdir(self):  # What a user without the right gets; root has it.
    if self.name == 'shut':
      raise PermissionError(errno.EACCES, 'Permission denied', str(self))
    return really(self)

  monkeypatch.setattr(pathlib.Path, 'iterdir', iterdir)
  listing = scan_files.find(tmp_path)
  assert list(listing.scans) == ['a', 'c']
  (error,) = listing.problems
  assert error.file.endswith('shut') and 'Permission denied' in error.reason
  with pytest.raises(ScanError, match='cannot be looked into: Permission'):
    scan_files.find(tmp_path / 'shut')


@pytest.mark.parametrize(
  'text',
  [
    'version https://git-lfs.example/spec/v1\noid sha256:ab\nsize 9\n',
    '/annex/objects/MD5E-s9--ab.nii.gz\n',
  ],
)
@pytest.mark.parametrize('read', [scan_files.read, scan_files.affine])
def test_what_stands_for_a_scan_says_how_to_fetch_it(text, read, tmp_path):
  (tmp_path / 'a.nii.gz').write_text(text)
  (source,) = scan_files.find(tmp_path).scans.values()
  with pytest.raises(ScanError, match='fetch it: git lfs pull'):
    read(source)


def test_nobody_waits_at_a_pipe(tmp_path):
  os.mkfifo(tmp_path / 'a.nii')
  listing = scan_files.find(tmp_path)
  assert not listing.scans and _files(listing.left_out) == ['a.nii']


def test_names_that_are_no_utf8_or_hostile_are_safe_in_listing_and_table(
  tmp_path,
):
  names = [b'B\xe4r.nii', b'B\xfcr.nii', b'a\x1b[31m.nii', b'50%.nii']
  for name in names:
    path = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b'/' + name))
    _nifti(path)
  (pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b'/\x1bx\xff.mgz'))).touch()
  listing = scan_files.find(tmp_path)
  assert list(listing.scans) == ['50%25', 'B%E4r', 'B%FCr', 'a%1B[31m']
  for source in listing.scans.values():
    np.testing.assert_array_equal(scan_files.read(source).voxels, VOXELS)
  text = table(listing.problems)
  assert '\x1b' not in text and '%1Bx%FF.mgz' in text
  text.encode()


def test_listing_reads_no_scan(tmp_path, monkeypatch):
  for number in range(50):
    _nifti(tmp_path / f'{number}.nii')
  opened = []
  really = builtins.open

  def counting(file, *args, **kwargs):
    opened.append(file)
    return really(file, *args, **kwargs)

  monkeypatch.setattr(builtins, 'open', counting)
  monkeypatch.setattr(
    pathlib.Path, 'open', lambda self, *a, **k: counting(self, *a, **k)
  )
  assert len(scan_files.find(tmp_path).scans) == 50
  assert not opened


def test_no_place_and_too_many_folders_are_refused(tmp_path, monkeypatch):
  with pytest.raises(ScanError, match='is not there'):
    scan_files.find(tmp_path / 'none')
  for name in 'abc':
    (tmp_path / name).mkdir()
  monkeypatch.setattr(scan_walk, '_MOST_FOLDERS', 2)
  with pytest.raises(ScanError, match='more than 2 folders'):
    scan_files.find(tmp_path)
