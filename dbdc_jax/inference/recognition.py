"""Which of a run's modalities a scan is; or that it is none, or may be two.

A run keeps the signs (`data/preprocessing/signs.py`) of its training and
validation scans in `fit.json`. No network has learnt from them, so that each
patient's own scans, left out in turn, say how far an unknown scan of the
modality may look from the known ones (`likeness.py`). A scan is taken for the
modality for which its look is most usual. It is declined where it would be an
unusual one, where two modalities fit it nearly as well, and where its scale or
its DICOM tags contradict: these may rule a modality out, but never make a scan
fit one.
"""

from collections.abc import Iterable
import pathlib
import re
from typing import Any, NamedTuple

from data.cache.prepared import PreparedCase
from data.formats.nifti import Volume
from data.preprocessing import appearance, signs
from data.task import Modality
from dbdc_jax.inference.likeness import Likeness
from dbdc_jax.inference.segmentation import Segmenter
from dbdc_jax.workdir import run_folder
from dbdc_jax.workdir.run_folder import RunFolder

_REMEDY = (
  ': --modality auto needs it; run the training command again with'
  ' --config.eval_only=true, or name the modality'
)
# A scan is declined that is further off than all but this share of the
# modality's own, or whose confidence is lower.
_LEAST_CHANCE = 0.01
_LEAST_CONFIDENCE = 0.8
# What else it may be: a scan of no modality of the run is taken to be so usual,
# and what other modalities' few scans say counts so many times.
_FOREIGN, _OTHERS = 0.003, 3
# What a contradiction leaves of a chance: less than the least one.
_CONTRADICTED = 0.01


class Fit(NamedTuple):
  """What a scan was taken for.

  Attributes:
    modality: its name; None if no modality fits, or not one alone.
    confidence: in [0, 1], that the best one is right, none being an
      alternative.
    chances: modality -> share of its scans that look as unusual as this one,
      or more so.
    doubts: modality -> what contradicts it, in words; those without are left
      out.
  """

  modality: str | None
  confidence: float
  chances: dict[str, float]
  doubts: dict[str, str]

  def __str__(self) -> str:
    """A sentence for people."""
    if self.modality:
      return f'{self.modality}, confidence {self.confidence:.2f}'
    order = sorted(self.chances, key=self.chances.__getitem__, reverse=True)
    best = order[0]
    fitting = [n for n in order if self.chances[n] >= _LEAST_CHANCE]
    if fitting and best in self.doubts:
      why = f'it looks like {best}, but {self.doubts[best]}'
    elif len(fitting) > 1:
      why = f'it may be {fitting[0]} or {fitting[1]}'
    elif fitting:
      why = f'{best} fits, but not surely'
    else:
      percent = 100 * self.chances[best]
      share = f'{percent:.1f} %' if percent >= 0.05 else 'less than 0.1 %'
      why = f'the nearest is {best}, {share} of whose scans look as unusual'
    return f'no modality, confidence {self.confidence:.2f}: {why}'


class Known(NamedTuple):
  """What a run knows of one modality's scans.

  Attributes:
    likeness: what they look like.
    hounsfield: whether there are any whose values are HU.
    scanners: of DICOM's Modality, those that may be.
    words: sequences by which they are named.
  """

  likeness: Likeness
  hounsfield: bool
  scanners: frozenset[str]
  words: frozenset[str]

  def doubt(self, found: dict[str, Any]) -> str:
    """What contradicts that a scan is one of these; '' if nothing does.

    Args:
      found: its signs.
    """
    scanner, words = found.get('scanner'), found.get('words', [])
    if scanner and self.scanners and scanner not in self.scanners:
      return f'its DICOM tags say {scanner}'
    if words and self.words and not self.words & set(words):
      return f'its DICOM tags say {", ".join(words)}'
    if found['hounsfield'] and not self.hounsfield:
      return 'its values are Hounsfield units'
    return ''


def know(modality: Modality, scans: list[dict[str, Any]]) -> Known:
  """Sums up what scans of a modality look like.

  Where none has tags, the modality's name and scale say what they would be.

  Args:
    modality: theirs.
    scans: the signs of each, and its 'patient', a number.
  """
  hounsfield = [scan['hounsfield'] for scan in scans]
  name = f'{modality.name} {modality.title} {modality.series}'
  scanners = {scan['scanner'] for scan in scans if 'scanner' in scan}
  if not scanners:
    tokens = set(re.split(r'[^a-z]+', name.lower()))
    if all(hounsfield) or 'ct' in tokens:
      scanners = {'CT'}
    elif tokens & {'mr', 'mri'} or signs.words(name):
      scanners = {'MR'}
  words = {word for scan in scans for word in scan.get('words', ())}
  return Known(
    Likeness([s['look'] for s in scans], [s['patient'] for s in scans]),
    any(hounsfield),
    frozenset(scanners),
    frozenset(words or signs.words(name)),
  )


def decide(known: dict[str, Known], found: dict[str, dict[str, Any]]) -> Fit:
  """What a scan is taken for.

  Args:
    known: of each modality.
    found: modality -> the scan's signs, treated as one of it.
  """
  chances, doubts, weights = {}, {}, {}
  for name, scans in known.items():
    chances[name] = scans.likeness.chance(found[name]['look'])
    weights[name] = chances[name]
    doubt = scans.doubt(found[name])
    if doubt:
      doubts[name] = doubt
      weights[name] *= _CONTRADICTED
  best = max(weights, key=weights.__getitem__)
  top = weights[best]
  confidence = top / (top + _OTHERS * (sum(weights.values()) - top) + _FOREIGN)
  fits = top >= _LEAST_CHANCE and confidence >= _LEAST_CONFIDENCE
  return Fit(best if fits else None, confidence, chances, doubts)


def recognize(segmenter: Segmenter, volume: Volume) -> Fit:
  """Says which modality of the segmenter's (first) run a scan is.

  Args:
    segmenter: its first run is asked.
    volume: the scan.

  Raises:
    ValueError: the run has not kept what its own scans look like.
  """
  run = segmenter.runs[0]
  known = {m.name: load(run.folder, m) for m in run.modalities}
  found = signs.of_each(
    volume.voxels, volume.affine, volume.tags, run.modalities
  )
  return decide(known, found)


def load(folder: pathlib.Path, modality: Modality) -> Known:
  """What a run knows of a modality's scans.

  Args:
    folder: the run's workdir, which may hold a folder per modality.
    modality: one of the run's.

  Raises:
    ValueError: it is not there, not readable, or of an earlier version.
  """
  if not (folder / run_folder.LOOKS).exists():
    folder /= modality.name
  looks = RunFolder(folder, _REMEDY).read(run_folder.LOOKS, modality.name)
  scans = looks[modality.name].get('scans', [])
  lengths = {len(scan.get('look', ())) for scan in scans}
  if lengths != {len(appearance.FEATURES)}:
    path = folder / run_folder.LOOKS
    raise ValueError(f'{path}: of an earlier version{_REMEDY}')
  return know(modality, scans)


def calibrate(cases: Iterable[PreparedCase]) -> dict[str, Any]:
  """What `fit.json` holds of a modality.

  Args:
    cases: its training and validation scans.
  """
  numbers: dict[str, int] = {}
  scans = [
    {**case.signs, 'patient': numbers.setdefault(case.patient, len(numbers))}
    for case in cases
  ]
  return {'scans': scans}
