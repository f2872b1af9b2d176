import shutil

import numpy as np
import pytest

from data.formats.nifti import ScanError, read_nifti, write_nifti
from data.phantoms import phantom
from data.readers import btcv, chaos, mmwhs
from data.task import ABDOMEN, HEART


@pytest.fixture(scope='module')
def heart(tmp_path_factory):
  out = tmp_path_factory.mktemp('scans') / 'heart'
  phantom.write('heart', out, subjects=4, size='tiny', quiet=True)
  return out / 'mmwhs'


@pytest.fixture(scope='module')
def abdomen(tmp_path_factory):
  out = tmp_path_factory.mktemp('scans') / 'abdomen'
  phantom.write('abdomen', out, subjects=2, size='tiny', quiet=True)
  return out


def _t2(root):
  (case, *_) = chaos.cases(str(root), ABDOMEN.modalities[1:2])
  return case


def test_mmwhs_reads_all_cases_with_all_structures(heart):
  cases = list(mmwhs.cases(str(heart), HEART.modalities))
  assert len(cases) == 8
  assert len({case.patient for case in cases}) == 8
  for case in cases:
    scan = case.read()
    assert set(np.unique(scan.label)) == set(range(8))
    assert scan.image.dtype == np.float32


def test_mmwhs_reads_421_as_left_atrium(heart):
  labels = [
    read_nifti(p, label=True).voxels for p in heart.glob('mr_train/*_label*')
  ]
  assert any((label == 421).any() for label in labels)


def test_mmwhs_takes_other_unknown_codes_for_errors(heart, tmp_path):
  shutil.copytree(heart, tmp_path / 'heart')
  path = tmp_path / 'heart' / 'ct_train' / 'ct_train_1001_label.nii.gz'
  label = read_nifti(path, label=True)
  voxels = label.voxels.astype(np.int16)
  voxels[0, 0, 0] = 421  # Only MR has this quirk.
  write_nifti(path, voxels, label.affine)
  case, *_ = mmwhs.cases(str(tmp_path / 'heart'), HEART.modalities[:1])
  with pytest.raises(ScanError, match=r'421 \(1 voxels\)'):
    case.read()


def test_mmwhs_has_two_mr_orientations(heart):
  affines = [
    case.read().affine for case in mmwhs.cases(str(heart), HEART.modalities[1:])
  ]
  slice_axes = {int(np.abs(a[:3, 2]).argmax()) for a in affines}
  assert len(slice_axes) == 2


def test_mmwhs_adds_test_scans_when_asked(heart, tmp_path):
  shutil.copytree(heart, tmp_path / 'heart')
  (tmp_path / 'heart' / 'ct_test').mkdir()
  shutil.copy(
    heart / 'ct_train' / 'ct_train_1001_image.nii.gz',
    tmp_path / 'heart' / 'ct_test' / 'ct_test_2001_image.nii.gz',
  )
  found = list(mmwhs.cases(str(tmp_path / 'heart'), HEART.modalities[:1], True))
  assert [c.name for c in found if not c.labeled] == ['ct_test_2001']
  assert found[0].read().label is None


@pytest.mark.parametrize('below', ['', 'RawData'])
def test_btcv_keeps_four_organs_of_thirteen(abdomen, below):
  root = abdomen / 'btcv' / below
  cases = list(btcv.cases(str(root), ABDOMEN.modalities[:1]))
  assert [c.name for c in cases] == ['img0001', 'img0002']
  assert set(np.unique(cases[0].read().label)) == {0, 1, 2, 3, 4}


def test_chaos_phases_share_patient_grid_and_ground(abdomen):
  cases = list(chaos.cases(str(abdomen / 'chaos'), ABDOMEN.modalities[1:]))
  assert [c.name for c in cases] == [
    '1_t2', '2_t2', '1_t1in', '2_t1in', '1_t1out', '2_t1out'
  ]  # fmt: skip
  inphase, outphase = cases[2].read(), cases[4].read()
  np.testing.assert_array_equal(inphase.label, outphase.label)
  assert cases[0].patient == cases[2].patient == cases[4].patient
  assert set(np.unique(inphase.label)) == {0, 1, 2, 3, 4}


def test_chaos_label_follows_position_in_both_numberings(abdomen):
  """The liver's bulk lies above the kidneys whichever way files count."""
  for case in chaos.cases(str(abdomen / 'chaos'), ABDOMEN.modalities[1:]):
    scan = case.read()
    height = [
      (scan.affine @ [*np.argwhere(scan.label == c).mean(0), 1])[2]
      for c in (1, 2)
    ]
    assert height[0] > height[1] + 20


def test_chaos_other_root_spelling(abdomen, tmp_path):
  shutil.copytree(
    abdomen / 'chaos' / 'Train_Sets',
    tmp_path / 'CHAOS_Train_Sets' / 'Train_Sets',
  )
  assert _t2(tmp_path).read().label.any()


def test_chaos_grey_ranges():
  grey = np.array([[0, 56, 70, 111, 135, 200, 255]])
  np.testing.assert_array_equal(
    chaos.grey_codes(grey), [[0, 63, 63, 126, 126, 189, 252]]
  )


@pytest.mark.parametrize('reader', [mmwhs, btcv, chaos])
def test_empty_folder_says_what_was_looked_for(reader, tmp_path):
  modality = HEART.modalities[0] if reader is mmwhs else ABDOMEN.modalities[1]
  with pytest.raises(ScanError, match='expected'):
    list(reader.cases(str(tmp_path), [modality]))


def test_real_scans(scans):
  ct, *_ = btcv.cases(str(scans / 'btcv'), ABDOMEN.modalities[:1])
  t2, *_ = chaos.cases(str(scans / 'chaos'), ABDOMEN.modalities[1:2])
  for case in (ct, t2):
    scan = case.read()
    assert set(np.unique(scan.label)) == {0, 1, 2, 3, 4}
    # The liver is the largest organ, on the patient's right.
    centre = [
      (scan.affine @ [*np.argwhere(scan.label == c).mean(0), 1])[0]
      for c in (1, 4)
    ]
    assert np.bincount(scan.label.ravel())[1:].argmax() == 0
    assert centre[0] > centre[1]
