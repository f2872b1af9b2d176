import numpy as np
import pytest

from data.phantoms import phantom
from data.phantoms.anatomy import DIFFICULTY
from data.preprocessing import hounsfield

HOW = {'seed': 0, 'size': 'tiny', 'difficulty': DIFFICULTY}


@pytest.fixture(scope='module', params=range(6))
def ct(request):
  if request.param < 3:
    return phantom.abdomen_ct(request.param, **HOW)[0]
  return phantom.heart_subject('ct', request.param - 3, **HOW)[0]


@pytest.fixture(scope='module', params=range(9))
def mr(request):
  number, phase = divmod(request.param, 2)
  if number < 3:
    return phantom.abdomen_mr(number, 't1', **HOW)[0][phase]
  return phantom.heart_subject('mr', request.param - 6, **HOW)[0]


def test_ct_is_told_from_its_values(ct):
  assert hounsfield.evidence(ct, {})[0]
  assert hounsfield.evidence(np.clip(ct, -125, 275), {})[0]
  assert not hounsfield.doubt(ct)
  assert not hounsfield.doubt(np.clip(ct, -125, 275))


def test_mr_is_no_ct_whatever_its_zero_is(mr):
  z = (mr - mr.mean()) / mr.std()
  for values in (mr, mr - 150, z, 100 * z, np.round(100 * z)):
    is_ct, why = hounsfield.evidence(values, {})
    assert not is_ct and why
  assert hounsfield.doubt(mr)
  assert hounsfield.doubt(z)


def test_ct_on_another_scale_is_doubted_in_words(ct):
  unit = (ct - ct.min()) / (ct.max() - ct.min())
  assert 'offset of about 1024' in hounsfield.doubt(ct + 1024)
  assert '8-bit' in hounsfield.doubt(np.round(255 * unit))
  assert 'rescaled' in hounsfield.doubt(unit)
  assert 'rescaled' in hounsfield.doubt(2 * unit - 1)
  assert hounsfield.doubt(ct - 1024)


def test_padding_is_no_reason_to_doubt(ct):
  scan = ct.copy()
  scan[:3] = -3024
  assert hounsfield.evidence(scan, {})[0] and not hounsfield.doubt(scan)


def test_the_tag_of_ct_decides(mr):
  said = hounsfield.evidence(mr, {'Modality': 'CT'})
  assert said == (True, 'its DICOM tags say CT')


def test_the_tag_of_mr_decides(ct):
  assert not hounsfield.evidence(ct, {'Modality': 'MR'})[0]
