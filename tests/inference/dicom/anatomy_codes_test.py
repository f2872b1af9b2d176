"""Coded anatomy: the right concept, or an honest 'tissue'."""

from pydicom.sr.codedict import codes
import pytest

from data.task import TASKS
from dbdc_jax.inference.dicom import anatomy_codes

SCT = codes.SCT
# The 13 organs of BTCV in its own order.
BTCV = {
  'spleen': (SCT.Spleen, None),
  'right kidney': (SCT.Kidney, SCT.Right),
  'left kidney': (SCT.Kidney, SCT.Left),
  'gallbladder': (SCT.Gallbladder, None),
  'esophagus': (SCT.Esophagus, None),
  'liver': (SCT.Liver, None),
  'stomach': (SCT.Stomach, None),
  'aorta': (SCT.Aorta, None),
  'inferior vena cava': (SCT.InferiorVenaCava, None),
  'portal vein and splenic vein': ('110765007', None),
  'pancreas': (SCT.Pancreas, None),
  'right adrenal gland': (SCT.AdrenalGland, SCT.Right),
  'left adrenal gland': (SCT.AdrenalGland, SCT.Left),
}
SPELLINGS = {
  'kidney_right': 'right kidney',
  'Kidney-R': 'right kidney',
  'RightKidney': 'right kidney',
  'LEFT KIDNEY': 'left kidney',
  'kidney (left)': 'left kidney',
  'adrenal_gland_right': 'right adrenal gland',
  'Left Adrenal': 'left adrenal gland',
  'oesophagus': 'esophagus',
  'gall_bladder': 'gallbladder',
  'IVC': 'inferior vena cava',
  'postcava': 'inferior vena cava',
  'portal_vein_and_splenic_vein': 'portal vein and splenic vein',
  'Portal & splenic veins': 'portal vein and splenic vein',
}
HEART = {
  'left ventricle': SCT.LeftVentricle,
  'LV blood cavity': SCT.LeftVentricle,
  'heart_ventricle_right': SCT.RightVentricle,
  'left atrium': SCT.LeftAtrium,
  'heart atrium right': SCT.RightAtrium,
  'left ventricular myocardium': SCT.LeftVentricleMyocardium,
  'ascending aorta': SCT.AscendingAorta,
  'pulmonary artery': SCT.PulmonaryArtery,
  'heart': SCT.Heart,
}


@pytest.mark.parametrize('name', BTCV)
def test_the_organs_of_btcv(name):
  kind, side = BTCV[name]
  found = anatomy_codes.find(name)
  assert found.kind.scheme_designator == 'SCT'
  assert found.kind.value == getattr(kind, 'value', kind)
  assert found.side == side
  assert found.category == codes.cid7150.AnatomicalStructure


@pytest.mark.parametrize('name', SPELLINGS)
def test_spellings_mean_the_same(name):
  found = anatomy_codes.find(name)
  assert found == anatomy_codes.find(SPELLINGS[name])
  assert found != anatomy_codes.UNKNOWN


@pytest.mark.parametrize('name', HEART)
def test_the_heart_has_codes_of_its_own(name):
  assert anatomy_codes.find(name).kind == HEART[name]
  assert anatomy_codes.find(name).side is None


@pytest.mark.parametrize('task', TASKS.values(), ids=TASKS)
def test_each_class_of_the_built_in_tasks_has_its_own_code(task):
  found = [anatomy_codes.find(name) for name in task.classes[1:]]
  assert anatomy_codes.UNKNOWN not in found
  assert len(set(found)) == len(found)


@pytest.mark.parametrize(
  'name',
  [
    'liver tumor',
    'left liver',
    'left right kidney',
    'kidney cyst',
    'Leber',
    'class 3',
    'left',
    'blood',
    '',
  ],
)
def test_other_names_are_tissue(name):
  # A wrong code is worse than none.
  assert anatomy_codes.find(name) == anatomy_codes.UNKNOWN


def test_meanings_are_a_code_elements_length():
  for kind in (*anatomy_codes._KINDS.values(), *anatomy_codes._PAIRED.values()):
    assert len(kind.value) <= 16
    assert 0 < len(kind.meaning) <= 64
