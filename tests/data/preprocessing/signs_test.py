import json

import nibabel as nib
import numpy as np
import pytest

from data.phantoms import phantom
from data.preprocessing import signs
from data.task import ABDOMEN

CT, T2 = ABDOMEN.select('ct,t2')


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('T2_SPIR', ['t2']),
    ('ax T2w TSE fs', ['t2']),
    ('T2* map', ['t2']),
    ('t1_vibe_dixon_in', ['t1']),
    ('T1 in-phase', ['t1']),
    ('PD T2 double echo', ['t2', 'pd']),
    ('AX T2 FLAIR', ['t2', 'flair']),
    ('ep2d_diff_b1000', ['diffusion']),
    ('t2', ['t2']),
    ('CT abdomen portal venous 1.5', []),
    ('port1 cat21', []),
    ('', []),
  ],
)
def test_sequences_are_read_out_of_descriptions(text, wanted):
  assert signs.words(text) == wanted


def test_of_the_tags_only_known_words_are_kept():
  tags = {
    'Modality': 'MR',
    'SeriesDescription': 'Jane Doe T2_SPIR',
    'ProtocolName': 'abdomen DWI',
    'PatientName': 'Doe^Jane',
    'EchoTime': 80.0,
  }
  wanted = {'scanner': 'MR', 'words': ['t2', 'diffusion']}
  assert signs.said(tags) == wanted
  assert signs.said({'Modality': 'OT', 'SeriesDescription': 'Doe'}) == {}
  assert signs.said({}) == {}


@pytest.fixture(scope='module')
def ct():
  image, _, affine = phantom.abdomen_ct(
    0, seed=0, size='tiny', difficulty=phantom.DIFFICULTY
  )
  return image.astype(np.float32), affine


def test_signs_are_of_the_patient_not_of_the_array(ct):
  """However the same scan lies on disk; and they can be written as JSON."""
  image, affine = ct
  wanted = signs.take(image, affine, {}, CT)
  assert json.loads(json.dumps(wanted)) == wanted
  assert wanted['hounsfield'] is True
  turn = np.array([[2, -1], [0, 1], [1, -1]])
  turned = nib.orientations.apply_orientation(image, turn)
  moved = affine @ nib.orientations.inv_ornt_aff(turn, image.shape)
  assert signs.take(turned, moved, {}, CT) == wanted


def test_tags_change_nothing_of_what_is_seen(ct):
  """Whether values are HU is told from them alone."""
  plain = signs.take(*ct, {}, T2)
  found = signs.take(*ct, {'Modality': 'MR', 'ProtocolName': 't2'}, T2)
  assert found == plain | {'scanner': 'MR', 'words': ['t2']}
  assert found['hounsfield'] is True


def test_each_modality_gets_its_own_treatment(ct, monkeypatch):
  """And those that are treated alike share what is taken once."""
  taken, take = [], signs.take
  monkeypatch.setattr(
    signs, 'take', lambda *scan: taken.append(scan[-1].name) or take(*scan)
  )
  found = signs.of_each(*ct, {}, ABDOMEN.modalities)
  assert taken == ['ct', 't2']
  assert found['t1in'] is found['t2']
  for modality in (CT, T2):
    assert found[modality.name] == take(*ct, {}, modality)
