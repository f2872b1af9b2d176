"""Who is trained on, validated on, tested on: by patient, over all modalities.

A split maps each modality to the case names that are `labeled`, `unlabeled`
(both training), `validation` and `test`. A patient is on one side only, in
every modality; so is any image content.
"""

from collections.abc import Collection, Sequence
import json
import math
import pathlib
import zlib

import numpy as np

from data.cache.prepared import PreparedCase
from data.files import atomic
from data.task import Case

Split = dict[str, dict[str, list[str]]]

PARTS = ('labeled', 'unlabeled', 'validation', 'test')
_WITH_LABELS = ('labeled', 'validation', 'test')
_FOLDS = 5
# Percent of the patients that train, validate and test; a fold each is tested.
SHARES = (70, 10, 20)


def _need(sound: object, words: str) -> None:
  if not sound:
    raise ValueError(words)


def _groups(cases: Sequence[Case | PreparedCase]) -> list[list[str]]:
  """Modalities that share patients, as sorted groups."""
  groups: list[set[str]] = []
  by_patient: dict[str, set[str]] = {}
  for case in cases:
    by_patient.setdefault(case.patient, set()).add(case.modality)
  for modalities in by_patient.values():
    touching = [g for g in groups if g & modalities]
    groups = [g for g in groups if not g & modalities]
    groups.append(modalities.union(*touching))
  return sorted(sorted(group) for group in groups)


def _sides(patients, seed, fold, shares, labeled_fraction, name):
  """Patient -> part, for the labelled patients of one group."""
  count = len(patients)
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  folds = np.array_split(rng.permutation(count), _FOLDS)
  order = np.concatenate(folds[fold:] + folds[:fold])
  test = len(folds[fold])
  if shares[2] != SHARES[2]:
    test = max(1, round(shares[2] / 100 * count))
  validation = max(1, round(shares[1] / 100 * count))
  train = count - test - validation
  _need(
    train > 0,
    f'{name}: {count} labelled patients are too few to split into training,'
    ' validation and test: at least 3 are needed',
  )
  labeled = min(train, max(1, round(labeled_fraction * train)))
  parts = ('test', 'validation', 'labeled', 'unlabeled')
  sides = np.repeat(parts, (test, validation, labeled, train - labeled))
  return {patients[i]: str(side) for i, side in zip(order, sides, strict=True)}


def make(
  cases: Sequence[Case | PreparedCase],
  *,
  seed: int,
  fold: int,
  labeled_fraction: float,
  shares: Sequence[float] = SHARES,
  partly_labeled: Collection[str] = (),
) -> Split:
  """Splits by patient; part of the training patients is labelled.

  Patients without any label only ever join the unlabelled training scans.

  Args:
    cases: of all modalities.
    seed: of the permutation of patients.
    fold: rotates it: folds 0 to 4 have disjoint test patients.
    labeled_fraction: share of the training patients whose labels are used,
      rounded, at least one.
    shares: percent of the patients that train, validate and test.
    partly_labeled: modalities whose scans themselves say who is labelled: the
      fraction is not used for them, nor for those that share their patients.

  Raises:
    ValueError: too few patients, a fraction outside (0, 1], no such fold, or
      shares that are not three of 100.
  """
  sound = len(shares) == 3 and min(shares) > 0
  sound &= math.isclose(sum(shares), 100)
  given = ','.join(f'{share:g}' for share in shares)
  _need(sound, f'data.shares={given}: give three above 0 that make 100')
  sound = 0 <= fold < _FOLDS
  _need(sound, f'data.fold={fold}: choose 0 to {_FOLDS - 1}')
  words = f'labeled_fraction={labeled_fraction}: give a share above 0, up to 1'
  _need(0 < labeled_fraction <= 1, words)
  split: Split = {}
  for case in cases:
    split.setdefault(case.modality, {part: [] for part in PARTS})
  for group in _groups(cases):
    members = [case for case in cases if case.modality in group]
    patients = sorted({case.patient for case in members if case.labeled})
    fraction = 1.0 if set(group) & set(partly_labeled) else labeled_fraction
    sides = _sides(patients, seed, fold, shares, fraction, '+'.join(group))
    for case in members:
      part = sides.get(case.patient, 'unlabeled')
      if part == 'labeled' and not case.labeled:
        part = 'unlabeled'
      if part in ('validation', 'test') and not case.labeled:
        continue
      split[case.modality][part].append(case.name)
  for modality, parts in split.items():
    for part in _WITH_LABELS:
      _need(
        parts[part],
        f'{modality} has no {part} scans in this split; try another'
        ' --config.data.split_seed, or give --config.data.split=FILE',
      )
  return split


def check(split: Split, cases: Sequence[PreparedCase]) -> None:
  """Checks that no patient and no content is on two sides.

  Raises:
    ValueError: naming both cases.
  """
  by_name = {case.name: case for case in cases}
  seen: dict[str, tuple[str, str]] = {}
  for modality, parts in split.items():
    for part, names in parts.items():
      side = 'training' if part in ('labeled', 'unlabeled') else part
      for name in names:
        case = by_name[name]
        same = case.modality == modality
        _need(same, f'split: {name} is not a scan of {modality}')
        keys = (f'patient {case.patient}', f'voxel content {case.content[:12]}')
        for key in keys:
          there, other = seen.setdefault(key, (side, name))
          places = f'{other} in {there}, {name} in {side}'
          _need(there == side, f'split: {key} is on two sides: {places}')


def save(split: Split, path: str) -> None:
  """Writes the split as JSON; the file is whole or not there."""
  atomic.write_json(pathlib.Path(path), split)


def load(
  path: str, cases: Sequence[PreparedCase], unlabeled: Collection[str] = ()
) -> Split:
  """Reads a split and checks it against the cases.

  Args:
    path: the file.
    cases: of all modalities.
    unlabeled: modalities that need no labelled training scan.

  Raises:
    ValueError: the file is unreadable or does not fit, with what and why.
  """
  try:
    split = json.loads(pathlib.Path(path).read_text(encoding='utf-8-sig'))
  except (OSError, ValueError) as error:
    raise ValueError(f'{path}: not a readable split file ({error})') from error
  modalities = {case.modality for case in cases}
  names = {case.name for case in cases}
  bare = {case.name for case in cases if not case.labeled}
  need = lambda sound, words: _need(sound, f'{path}: {words}')
  sound = isinstance(split, dict) and modalities <= split.keys()
  need(sound, f'must list the modalities {", ".join(sorted(modalities))}')
  split = {m: parts for m, parts in split.items() if m in modalities}
  for modality, parts in split.items():
    sound = isinstance(parts, dict) and set(parts) == set(PARTS)
    need(sound, f'{modality} must list {", ".join(PARTS)}')
    listed = [name for part in PARTS for name in parts[part]]
    for part in _WITH_LABELS:
      name = min(bare & set(parts[part]), default='')
      need(not name, f'{name} has no label, but is in {part}')
    unknown = sorted(set(listed) - names)
    need(not unknown, f'no such scans: {", ".join(unknown[:5])}')
    once = len(listed) == len(set(listed))
    need(once, f'{modality} lists a scan twice')
    for part in _WITH_LABELS:
      spared = part == 'labeled' and modality in unlabeled
      need(parts[part] or spared, f'{modality} has no {part} scans')
  return split
