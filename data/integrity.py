"""Looking at scans without preparing them: what is there, and what is wrong."""

from collections.abc import Callable, Sequence
import json
import pathlib
from typing import Any

import numpy as np

from data import folder, planes, preprocess, scan_files, task_file
from data.task import Case, Scan, Task
from data.volume_io import ScanError, Volume

# CT has values this low (air is -1000 HU, fat -100), MR has none below 0.
_AIR = -100.0
_ABDOMEN = [-125.0, 275.0]
_SLICE_SIZES = (64, 96, 128, 192, 256)


def _facts(case: Case, scan: Scan) -> dict[str, Any]:
  sizes = np.linalg.norm(scan.affine[:3, :3], axis=0)
  out = {
    'case': case.name,
    'patient': case.patient,
    'modality': case.modality,
    'file': case.files[0],
    'shape': [int(n) for n in scan.image.shape],
    'spacing_mm': [round(float(mm), 4) for mm in sizes],
    'intensity': [float(scan.image.min()), float(scan.image.max())],
    'classes': None,
  }
  if scan.label is not None:
    out['classes'] = [int(c) for c in np.unique(scan.label) if c]
  return out


def check(
  cases: Sequence[Case], advance: Callable[[], None]
) -> tuple[list[dict[str, Any]], list[ScanError]]:
  """Reads every scan as a preparation would, and keeps nothing.

  Args:
    cases: what is read.
    advance: called after each.

  Returns:
    A dict of facts for each sound scan, and an error for each bad one.
  """
  facts, errors = [], []
  for case in cases:
    try:
      facts.append(_facts(case, case.read()))
    except ScanError as error:
      errors.append(error)
    advance()
  return facts, errors


def text(facts: Sequence[dict[str, Any]], task: Task) -> str:
  """The sound scans as a table."""
  rows = task.labelable(task.modalities)
  drawn = {
    m.name: int(row[1:].sum())
    for m, row in zip(task.modalities, rows, strict=True)
  }
  lines = [f'{"scan":24s}{"shape":>18s}{"mm":>22s}{"values":>20s}  labelled']
  for row in facts:
    shape = ' x '.join(map(str, row['shape']))
    spacing = ' x '.join(f'{mm:.2f}' for mm in row['spacing_mm'])
    low, high = row['intensity']
    found = 'no'
    if row['classes'] is not None:
      missing = drawn[row['modality']] - len(row['classes'])
      found = f'{len(row["classes"])} classes'
      found += f' ({missing} not in it)' if missing else ''
    lines.append(
      f'{row["case"]:24s}{shape:>18s}{spacing:>22s}'
      f'{f"{low:.0f} to {high:.0f}":>20s}  {found}'
    )
  return '\n'.join(lines)


def _nnunet_labels(place: pathlib.Path) -> dict[int, str]:
  """Names of label codes in nnU-Net's own dataset.json, old form or new."""
  try:
    found = json.loads((place / folder.TASK_FILE).read_text())['labels']
    pairs = [
      (int(value), str(name)) if not isinstance(value, str)
      else (int(name), value)
      for name, value in found.items()
    ]  # fmt: skip
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return {}
  return dict(pairs)


def _modality(
  place: pathlib.Path, advance: Callable[[], None]
) -> tuple[dict[str, Any], list[Volume]]:
  """First fields of one modality, and its images' affines and shapes."""
  images, labels = folder.images_of(place), folder.labels_of(place)
  names = _nnunet_labels(place)
  codes: set[int] = set()
  volumes, lowest = [], np.inf
  for name, image in images.items():
    volume = scan_files.read(image)
    lowest = min(lowest, float(volume.voxels.min()))
    volumes.append(volume._replace(voxels=np.empty(volume.voxels.shape, bool)))
    if name in labels:
      found = scan_files.read(labels[name], label=True).voxels
      codes |= {int(code) for code in np.unique(found)}
    advance()
  ct = lowest <= _AIR
  return {
    'labels': {
      names.get(code, f'class {code}'): code for code in sorted(codes - {0})
    },
    'intensity': {'window': _ABDOMEN} if ct else {'upper_percentile': 99.5},
  }, volumes


def modality_folders(root: pathlib.Path) -> list[pathlib.Path]:
  """The subfolders of `root` that hold scans, sorted.

  Raises:
    ScanError: there are none.
  """
  places = (
    sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
  )
  found = [
    p for p in places if (p / 'images').is_dir() or (p / 'imagesTr').is_dir()
  ]
  if not found:
    raise ScanError(
      root,
      'no modality folders found',
      f'put scans into {root}/NAME/images/ and label maps into'
      f' {root}/NAME/labels/, NAME being e.g. ct or t2',
    )
  return found


def count_scans(root: pathlib.Path) -> int:
  """How many scans `first_task` will read."""
  return sum(len(folder.images_of(p)) for p in modality_folders(root))


def first_task(
  root: pathlib.Path, advance: Callable[[], None]
) -> dict[str, Any]:
  """The content of a first `dataset.json`, from what a folder holds.

  Label codes are those that occur; their names come from nnU-Net's own
  dataset.json where there is one. Values down to air's mean CT.

  Args:
    root: holds a subfolder per modality.
    advance: called after each scan.

  Raises:
    ScanError: a scan that cannot be read, or no label map at all.
  """
  modalities, sides = {}, []
  for place in modality_folders(root):
    modalities[place.name], volumes = _modality(place, advance)
    for volume in volumes:
      slices = preprocess.reorient(
        volume.voxels, volume.affine, planes.ACQUIRED
      )
      sides.append(max(slices.shape[1:]))
  if not any(fields['labels'] for fields in modalities.values()):
    raise ScanError(
      root,
      'no label map has a labelled voxel',
      'label a few scans of each modality first',
    )
  # A modality without labels of its own is labelled with the others' codes.
  every = {k: v for m in modalities.values() for k, v in m['labels'].items()}
  for fields in modalities.values():
    fields['labels'] = fields['labels'] or every
  median = float(np.median(sides))
  size = min(_SLICE_SIZES, key=lambda side: abs(side - median))
  found = {
    'name': root.absolute().name,
    'slice_size': size,
    'roi': 'none',
    'modalities': modalities,
  }
  task_file.from_dict(found, root.name)  # It must be sound.
  return found
