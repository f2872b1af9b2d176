import numpy as np
import pydicom
import pytest

from data import phantom as command
from data.formats.nifti import read_nifti
from data.phantoms import phantom
from data.preprocessing import preprocess
from data.readers import chaos, mmwhs
from data.task import ABDOMEN, HEART


def _write(task, out, **kwargs):
  settings = {'subjects': 2, 'size': 'tiny', 'quiet': True} | kwargs
  return phantom.write(task, str(out), **settings)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp('phantom')
  _write('heart', out / 'heart')
  _write('abdomen', out / 'abdomen')
  return out


def _files(root):
  return sorted(p.relative_to(root) for p in root.rglob('*') if p.is_file())


@pytest.mark.parametrize('task', ['heart', 'abdomen'])
def test_same_seed_same_bytes_other_seed_other_people(task, folder, tmp_path):
  _write(task, tmp_path / 'again')
  _write(task, tmp_path / 'other', seed=1)
  names = _files(folder / task)
  assert names == _files(tmp_path / 'again')
  for name in names:
    data = (folder / task / name).read_bytes()
    assert (tmp_path / 'again' / name).read_bytes() == data
  images = [n for n in names if 'img' in str(n) or 'image' in str(n)]
  for name in images:
    data = (folder / task / name).read_bytes()
    assert (tmp_path / 'other' / name).read_bytes() != data


def test_a_subject_does_not_depend_on_how_many_there_are(folder, tmp_path):
  _write('heart', tmp_path / 'one', subjects=1)
  name = 'mmwhs/ct_train/ct_train_1001_image.nii.gz'
  assert (tmp_path / 'one' / name).read_bytes() == (
    folder / 'heart' / name
  ).read_bytes()


def test_layouts_are_the_official_ones(folder):
  names = {str(n) for n in _files(folder / 'heart' / 'mmwhs')}
  assert {
    f'{kind}_train/{kind}_train_100{i}_{what}.nii.gz'
    for kind in ('ct', 'mr')
    for i in (1, 2)
    for what in ('image', 'label')
  } == names
  root = folder / 'abdomen'
  assert (root / 'btcv/RawData/Training/label/label0002.nii.gz').exists()
  for series in ('T2SPIR/DICOM_anon', 'T1DUAL/DICOM_anon/InPhase'):
    assert list((root / 'chaos/Train_Sets/MR/1' / series).glob('*.dcm'))


def test_quirks_of_the_archives_are_there(folder):
  root = folder / 'heart' / 'mmwhs'
  label = read_nifti(root / 'mr_train/mr_train_1001_label.nii.gz', label=True)
  assert (label.voxels == 421).any()
  stray = read_nifti(root / 'mr_train/mr_train_1002_label.nii.gz', label=True)
  assert stray.voxels[0, 0, 0] > 0
  case = list(mmwhs.cases(str(root), HEART.modalities[1:]))[1]
  ready = preprocess.prepare_scan(
    case.read(), HEART.modalities[1], roi='label', slice_size=32
  )
  # The box is the heart's, not the stray corner's.
  assert ready.geometry['box'] != [
    [0, n] for n in ready.geometry['reoriented_shape']
  ]
  numbers = {
    phase: sorted(
      int(pydicom.dcmread(p, stop_before_pixels=True).InstanceNumber) % 2
      for p in (
        folder / 'abdomen/chaos/Train_Sets/MR/1/T1DUAL/DICOM_anon' / phase
      ).iterdir()
    )
    for phase in ('InPhase', 'OutPhase')
  }
  assert set(numbers['InPhase']) != set(numbers['OutPhase'])


def test_ct_is_in_hounsfield_units_and_mr_in_twelve_bit(folder):
  ct = read_nifti(folder / 'heart/mmwhs/ct_train/ct_train_1001_image.nii.gz')
  assert ct.voxels.min() < -700 and 250 < ct.voxels.max() < 3000
  for case in chaos.cases(
    str(folder / 'abdomen/chaos'), ABDOMEN.modalities[1:]
  ):
    image = case.read().image
    assert image.min() >= 0 and image.max() <= 4095


def test_out_phase_is_dark_where_fat_meets_water(folder):
  cases = list(
    chaos.cases(str(folder / 'abdomen/chaos'), ABDOMEN.modalities[2:])
  )
  inphase, outphase = cases[0].read().image, cases[2].read().image
  # Fat and water alone keep much of their signal, their mixture loses it.
  ratio = (
    outphase[inphase > np.percentile(inphase, 60)]
    / inphase[inphase > np.percentile(inphase, 60)]
  )
  assert (ratio < 0.4).mean() > 0.02
  assert np.median(ratio) > 0.6


def test_finished_phantom_is_left_alone_and_others_are_refused(
  folder, tmp_path
):
  path = folder / 'heart' / 'mmwhs' / 'ct_train' / 'ct_train_1001_image.nii.gz'
  before = path.stat().st_mtime_ns
  _write('heart', folder / 'heart')
  assert path.stat().st_mtime_ns == before
  with pytest.raises(FileExistsError, match='other settings'):
    _write('heart', folder / 'heart', seed=5)
  (tmp_path / 'mine').write_text('x')
  with pytest.raises(FileExistsError):
    _write('heart', tmp_path)
  with pytest.raises(ValueError, match='choose'):
    _write('brain', tmp_path / 'brain')


@pytest.mark.parametrize(
  'out',
  ['scans', 'scans/', 'scans/../scans', 'link', 'scans/a.nii.gz', 'a/b', 'x/y'],
)
@pytest.mark.parametrize('marker', [None, '{"mine": 1}', '[1', '3'])
def test_what_is_no_phantom_stays(tmp_path, monkeypatch, out, marker, capsys):
  """And is found before anything is painted."""
  monkeypatch.setattr(
    phantom, '_write_heart', lambda *_: pytest.fail('painted')
  )
  (tmp_path / 'scans').mkdir()
  (tmp_path / 'scans' / 'a.nii.gz').write_bytes(b'the only copy')
  (tmp_path / 'link').symlink_to(tmp_path / 'scans')
  (tmp_path / 'a').hardlink_to(tmp_path / 'scans' / 'a.nii.gz')
  (tmp_path / 'x').symlink_to(tmp_path / 'a')
  if marker is not None:
    (tmp_path / 'scans' / 'phantom.json').write_text(marker)
  before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob('*')}
  assert command.main(['--task', 'heart', '--out', f'{tmp_path}/{out}']) == 1
  assert 'choose another' in capsys.readouterr().err
  after = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob('*')}
  assert after == before


def test_a_phantom_is_written_through_a_link(tmp_path):
  """To an empty folder, or to where none is yet."""
  (tmp_path / 'empty').mkdir()
  for name in ('empty', 'later'):
    (tmp_path / f'link_{name}').symlink_to(tmp_path / name)
    roots = _write('heart', tmp_path / f'link_{name}', subjects=1)
    assert roots == {'mmwhs': str(tmp_path / f'link_{name}' / 'mmwhs')}
    assert (tmp_path / name / 'phantom.json').exists()
    assert (tmp_path / f'link_{name}').is_symlink()


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
  def stop(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr(phantom.archive, 'write_mmwhs', stop)
  with pytest.raises(KeyboardInterrupt):
    _write('heart', tmp_path / 'heart')
  assert not (tmp_path / 'heart').exists()
