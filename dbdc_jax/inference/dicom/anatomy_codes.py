"""Coded anatomy: what a class is called in SNOMED CT.

Names are compared by their words, whatever their order, capitals and
separators: 'right kidney', 'kidney_right', 'Kidney-R' and 'RightKidney' are
one organ. Sides of paired organs are a modifier of the organ's code, which is
how viewers and archives look for them; the heart's chambers have codes of
their own.
"""

import re
from typing import NamedTuple

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code


class Anatomy(NamedTuple):
  """The codes of a segment.

  Attributes:
    category: what kind of thing it is (DICOM CID 7150).
    kind: what it is.
    side: left or right, of a paired organ.
  """

  category: Code
  kind: Code
  side: Code | None = None


UNKNOWN = Anatomy(codes.cid7150.Tissue, codes.SCT.Tissue)
_SIDES = {'left': codes.SCT.Left, 'right': codes.SCT.Right}
# Words that say nothing, and other spellings of those that do.
_SILENT = {'and', 'of', 'the', 'gland', 'glands', 'blood', 'cavity'}
_SPELLINGS = {
  'l': 'left',
  'r': 'right',
  'lt': 'left',
  'rt': 'right',
  'oesophagus': 'esophagus',
  'kidneys': 'kidney',
  'adrenals': 'adrenal',
  'suprarenal': 'adrenal',
  'lungs': 'lung',
  'postcava': 'ivc',
  'veins': 'vein',
  'ventricular': 'ventricle',
  'atrial': 'atrium',
}
# What is called as in pydicom's dictionary, up to capitals.
_NAMED = (
  'spleen, gallbladder, esophagus, liver, stomach, pancreas, duodenum, colon,'
  ' bladder, prostate, uterus, brain, aorta, ascending aorta, inferior vena'
  ' cava, portal vein, splenic vein, heart, left ventricle myocardium, left'
  ' ventricle, right ventricle, left atrium, right atrium, pulmonary artery'
)
# Concepts that the dictionary lacks.
_BOTH_VEINS = Code('110765007', 'SCT', 'Portal vein and splenic vein')
_KINDS = {
  **{
    n: getattr(codes.SCT, n.title().replace(' ', ''))
    for n in _NAMED.split(', ')
  },
  'gall bladder': codes.SCT.Gallbladder,
  'urinary bladder': codes.SCT.Bladder,
  'ivc': codes.SCT.InferiorVenaCava,
  'portal splenic vein': _BOTH_VEINS,
  'portal vein splenic vein': _BOTH_VEINS,
  'myocardium': Code('74281007', 'SCT', 'Myocardium'),
  'lv myocardium': codes.SCT.LeftVentricleMyocardium,
  'lv': codes.SCT.LeftVentricle,
  'rv': codes.SCT.RightVentricle,
}
_PAIRED = {
  'kidney': codes.SCT.Kidney,
  'adrenal': codes.SCT.AdrenalGland,
  'lung': codes.SCT.Lung,
}


def _words(name: str) -> tuple[str, ...]:
  """The words that matter, spelt alike, sorted."""
  # Capitals within a word start a new one: 'RightKidney'.
  parted = re.sub('(?<=[a-z])(?=[A-Z])', ' ', name)
  found = re.findall(r'\w+', parted.lower().replace('_', ' '))
  words = [_SPELLINGS.get(word, word) for word in found]
  return tuple(sorted(word for word in words if word not in _SILENT))


_KIND_OF = {_words(name): kind for name, kind in _KINDS.items()}
_PAIRED_OF = {_words(name): kind for name, kind in _PAIRED.items()}


def find(name: str) -> Anatomy:
  """The codes of a class; `UNKNOWN` (tissue) if the name is not in the table.

  Args:
    name: of a class, in English.
  """
  anatomical = codes.cid7150.AnatomicalStructure
  words = _words(name)
  # 'heart_atrium_left' as well as 'left atrium'.
  for known in (words, tuple(word for word in words if word != 'heart')):
    if known in _KIND_OF:
      return Anatomy(anatomical, _KIND_OF[known])
  sides = [word for word in words if word in _SIDES]
  organ = tuple(word for word in words if word not in _SIDES)
  if organ in _PAIRED_OF and len(sides) < 2:
    side = _SIDES[sides[0]] if sides else None
    return Anatomy(anatomical, _PAIRED_OF[organ], side)
  return UNKNOWN
