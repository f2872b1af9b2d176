import numpy as np
import pytest

from data.phantoms import phantom
from data.phantoms.anatomy import DIFFICULTY
from data.preprocessing import hounsfield

HOW = {'seed': 0, 'size': 'tiny', 'difficulty': DIFFICULTY}
CTS = [phantom.abdomen_ct(i, **HOW)[0] for i in range(3)]
CTS += [phantom.heart_subject('ct', i, **HOW)[0] for i in range(3)]
MRS = [m for i in range(3) for m in phantom.abdomen_mr(i, 't1', **HOW)[0]]
MRS += [phantom.heart_subject('mr', i, **HOW)[0] for i in range(3)]


@pytest.mark.parametrize('scan', CTS)
def test_ct_is_told_from_its_values(scan):
  assert hounsfield.evidence(scan, {})[0]
  assert hounsfield.evidence(np.clip(scan, -125, 275), {})[0]
  assert not hounsfield.doubt(scan)
  assert not hounsfield.doubt(np.clip(scan, -125, 275))


@pytest.mark.parametrize('scan', MRS)
def test_mr_is_no_ct_whatever_its_zero_is(scan):
  z = (scan - scan.mean()) / scan.std()
  for values in (scan, scan - 150, z, 100 * z, np.round(100 * z)):
    is_ct, why = hounsfield.evidence(values, {})
    assert not is_ct and why
  assert hounsfield.doubt(scan)
  assert hounsfield.doubt(z)


@pytest.mark.parametrize('scan', CTS)
def test_ct_on_another_scale_is_doubted_in_words(scan):
  unit = (scan - scan.min()) / (scan.max() - scan.min())
  assert 'offset of about 1024' in hounsfield.doubt(scan + 1024)
  assert '8-bit' in hounsfield.doubt(np.round(255 * unit))
  assert 'rescaled' in hounsfield.doubt(unit)
  assert 'rescaled' in hounsfield.doubt(2 * unit - 1)
  assert hounsfield.doubt(scan - 1024)


def test_padding_is_no_reason_to_doubt():
  scan = CTS[0].copy()
  scan[:3] = -3024
  assert hounsfield.evidence(scan, {})[0] and not hounsfield.doubt(scan)


def test_a_dicom_tag_decides():
  said = hounsfield.evidence(MRS[0], {'Modality': 'CT'})
  assert said == (True, 'its DICOM tags say CT')
  assert not hounsfield.evidence(CTS[0], {'Modality': 'MR'})[0]
