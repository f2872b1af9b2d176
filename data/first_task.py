"""A first `dataset.json`, guessed from the scans that a folder holds."""

from collections.abc import Callable
import pathlib
from typing import Any, NamedTuple

import numpy as np

from data import task_file
from data.files import names
from data.files.errors import Refusal
from data.formats import nnunet, scan_files
from data.formats.scan_error import ScanError, headed, need, table
from data.preprocessing import hounsfield, planes, preprocess
from data.readers import folder, user_labels
from data.readers.folder import Held

_SLICE_SIZES = (64, 96, 128, 192, 256)
_BY_CUSTOM = 'by custom voxels that were not annotated, so it is to be ignored'


class First(NamedTuple):
  """A first guess, and what people should know of it.

  Attributes:
    content: of the dataset.json.
    notes: phrases.
    errors: scans and label maps that cannot be used.
    left_out: what is no scan.
  """

  content: dict[str, Any]
  notes: list[str]
  errors: list[ScanError]
  left_out: list[ScanError]


class _Seen:
  """What the scans of one modality have shown.

  Attributes:
    codes: label code -> how many voxels have it, by file.
    ct: whether scans are CT in HU -> why, by scan.
    sides: longer sides of their slices, pixels.
    empty: label maps without a labelled voxel.
  """

  def __init__(self):
    self.codes: dict[int, dict[str, int]] = {}
    self.ct: dict[bool, dict[str, str]] = {True: {}, False: {}}
    self.sides: list[int] = []
    self.empty = 0

  def read(self, held: Held, name: str) -> None:
    """Looks at one scan; raises ScanError if it cannot be used."""
    image = scan_files.read(held.images[name])
    ct, why = hounsfield.evidence(image.voxels, image.tags)
    if name in held.labels:
      source = held.labels[name]
      label = scan_files.read(source, label=True)
      files = str(source.path), str(held.images[name].path)
      codes = user_labels.check_drawn(label.voxels, image.voxels, *files)
      for code, count in codes.items():
        self.codes.setdefault(code, {})[source.path.name] = count
      self.empty += set(codes) == {0}
    self.ct[ct][name] = why
    slices = preprocess.reorient(
      np.empty(image.voxels.shape, bool), image.affine, planes.ACQUIRED
    )
    self.sides.append(max(slices.shape[1:]))


def modality_folders(root: pathlib.Path) -> list[pathlib.Path]:
  """The subfolders of `root` that hold scans, sorted.

  Raises:
    ScanError: there are none.
  """
  there = root.is_dir()
  places = folder.folders_in(root) if there else []
  found = [place for place in places if folder.holds_images(place)]
  need(
    found or not there or not folder.holds_images(root),
    root,
    'is a modality folder itself: it holds the images',
    'move all of it into a subfolder with the name of its modality, e.g.'
    f' {root}/ct/; or give the folder above it',
  )
  listed = names.listed([p.name for p in places])
  listed = f' (found: {listed})' if listed else ''
  need(
    found,
    root,
    f'no modality folders found{listed}{"" if there else ": it is no folder"}',
    f'put scans into {root}/NAME/images/ and label maps into'
    f' {root}/NAME/labels/, NAME being e.g. ct or t2',
  )
  return found


def _names(places: list[pathlib.Path]) -> dict[str, pathlib.Path]:
  """Modality -> folder; a name may have letters and digits alone."""
  out: dict[str, pathlib.Path] = {}
  for number, place in enumerate(places, 1):
    name = nnunet.clean(place.name) or f'modality_{number}'
    if task_file.MODALITY_NAME.fullmatch(place.name):
      name = place.name
    out[name if name not in out else f'{name}_{number}'] = place
  return out


def _label_names(place: pathlib.Path) -> dict[int, str]:
  """Names of label codes in nnU-Net's own dataset.json, old form or new."""
  path = place / folder.TASK_FILE
  try:
    found = task_file.content(path) if path.is_file() else {}
    named = isinstance(found, dict) and 'labels' in found
    codes = nnunet.codes(found) if named else {}
  except nnunet.NotUsableError as error:
    raise ScanError(path, error.reason, error.remedy) from error
  except ValueError as error:
    raise ScanError(path, str(error), nnunet.MEND) from error
  return {code: name for name, listed in codes.items() for code in listed}


def listing(root: pathlib.Path, series: str = '') -> dict[str, Held]:
  """Modality folder -> what it holds; nothing of the scans is read.

  Args:
    root: holds a subfolder per modality.
    series: which one of DICOM folders that hold several.

  Raises:
    ScanError: there is no modality folder.
  """
  return {p.name: folder.modality(p, series) for p in modality_folders(root)}


def _labels(name, seen, known, alone):
  """Class -> codes of a modality, and files by code that is to be ignored."""
  labels: dict[str, Any] = {}
  never = {}
  for code in sorted(set(seen.codes) - {0}):
    if code in known:
      labels.setdefault(known[code], []).append(code)
    elif user_labels.never_a_class(code):
      never[code] = seen.codes[code]
      labels.setdefault(nnunet.IGNORE, []).append(code)
    else:
      labels[f'class {code}' if alone else f'{name} class {code}'] = code
  for label, codes in labels.items():
    if isinstance(codes, list) and len(codes) == 1:
      labels[label] = codes[0]
  return labels, never


def _why(name: str, seen: _Seen) -> tuple[bool, str]:
  """Whether a modality is CT, and why it is thought so."""
  ct = len(seen.ct[True]) > len(seen.ct[False])
  (case, why), *_ = seen.ct[ct].items()
  text = f'{name}: taken for {"CT" if ct else "no CT"} ({case}: {why})'
  if others := seen.ct[not ct]:
    text += f'; but {len(others)} of {len(seen.sides)} scans look otherwise'
    text += f' ({names.listed(list(others))}: {next(iter(others.values()))})'
  return ct, text


def _never(name, never) -> list[str]:
  """Codes that are no classes by custom, with the files that have them."""
  out = []
  for code, files in never.items():
    counts = names.listed([f'{name}: {n} voxels' for name, n in files.items()])
    where = f'{name}: code {code} in {len(files)} label maps ({counts})'
    out.append(f'{where}: {_BY_CUSTOM}')
  return out


def guess(
  root: pathlib.Path,
  held: dict[str, Held],
  advance: Callable[[], None],
  series: str = '',
) -> First:
  """The content of a first `dataset.json`, from what a folder holds.

  Label codes are those that occur; their names come from nnU-Net's own
  dataset.json in the modality's folder where there is one.

  Args:
    root: holds a subfolder per modality.
    held: as `listing` gives it.
    advance: called after each scan.
    series: as for `listing`.

  Raises:
    BadFirst: nothing can be guessed, with all reasons.
    ScanError: nnU-Net's dataset.json of a modality cannot be used.
  """
  places = _names([root / name for name in held])
  known = {name: _label_names(place) for name, place in places.items()}
  errors: list[ScanError] = []
  left_out: list[ScanError] = []
  notes = []
  folder.beside(root, list(places.values()), errors, left_out)
  modalities, sides, empty = {}, [], 0
  for name, place in places.items():
    here, seen = held[place.name], _Seen()
    errors += here.problems
    left_out += here.left_out
    for case in here.images:
      try:
        seen.read(here, case)
      except ScanError as error:
        errors.append(error)
      advance()
    if not seen.sides:
      continue
    labels, never = _labels(name, seen, known[name], len(places) == 1)
    ct, why = _why(name, seen)
    notes += [why, *_never(name, never)]
    modalities[name] = {'labels': labels, 'intensity': nnunet.intensity(ct)}
    if series and any(source.series for source in here.images.values()):
      modalities[name]['series'] = series
    if name != place.name:
      modalities[name] |= {'title': place.name, 'folder': place.name}
    sides += seen.sides
    empty += seen.empty
  # A modality without labels of its own is labelled with the others' codes.
  every = {k: v for m in modalities.values() for k, v in m['labels'].items()}
  if not every.keys() - {nnunet.IGNORE}:
    raise BadFirst(errors + _no_class(root, held, empty, errors), left_out)
  for name, fields in modalities.items():
    if not fields['labels']:
      notes.append(f'{name}: no label maps; it has the classes of the others')
      fields['labels'] = every
  median = float(np.median(sides))
  size = min(_SLICE_SIZES, key=lambda side: abs(side - median))
  content = {'name': root.absolute().name, 'slice_size': size, 'roi': 'none'}
  content['modalities'] = modalities
  try:
    task_file.from_dict(content, root.name)  # It must be sound.
  except ValueError as error:
    errors.append(ScanError(root, str(error), 'write dataset.json by hand'))
    raise BadFirst(errors, left_out) from error
  return First(content, notes, errors, left_out)


class BadFirst(Refusal):
  """Nothing can be guessed.

  Attributes:
    errors: why, a `ScanError` each.
    left_out: what is no scan.
  """

  def __init__(self, errors: list[ScanError], left_out: list[ScanError]):
    self.errors, self.left_out = errors, left_out
    super().__init__('\n'.join(map(str, errors)))

  def told(self) -> str:
    """Both as tables."""
    others = headed(self.left_out, f'{len(self.left_out)} left out')
    return '\n'.join(filter(None, (others, table(self.errors))))


def _no_class(root, held, empty, errors) -> list[ScanError]:
  """Why no class was found, where no other error says so."""
  maps = sum(len(here.labels) for here in held.values())
  reason, remedy = 'no label maps found', 'put those of a few scans of each'
  remedy += f' modality into {root}/NAME/labels/, named like the scans'
  if maps and empty == maps:
    reason = 'no label map has a labelled voxel'
    remedy = 'label a few scans of each modality first'
  elif errors:
    return []
  return [ScanError(root, reason, remedy)]
