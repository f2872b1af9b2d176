"""Tasks as files: a folder's `dataset.json`, and what a run keeps of its task.

  {
    "name": "abdomen",
    "classes": ["background", "liver", "spleen", "stomach"],
    "slice_size": 256,
    "roi": "none",
    "modalities": {
      "ct": {
        "title": "CT",
        "labels": {"liver": 6, "spleen": 1, "stomach": 7, "background": [2, 3]},
        "intensity": {"window": [-125, 275]}
      },
      "t2": {
        "labels": {"liver": 63, "spleen": 252},
        "intensity": {"upper_percentile": 99.5},
        "mm_per_pixel": 1.5
      }
    },
    "patients": {"ct/scan_a": "Smith", "t2/scan_7": "Smith"}
  }

`labels` gives each class its code in the modality's label maps; several codes
may mean one class (predictions are written with the first), codes under
"background" are not segmented, voxels of those under "ignore" were not looked
at. 0 always is background. A class that a modality does not name is not
labelled there: it is left out of that modality's losses and scores. Label maps
that leave something open have "drawn" and "sparse" (`formats/partly_drawn.py`).
Every other key has a default, see `FIELDS` and `MODALITY_FIELDS`.

nnU-Net's own dataset.json is read as a task of one modality, see `nnunet.py`.
"""

from collections.abc import Iterable, Mapping
import functools
import json
import math
import pathlib
import re
from typing import Any

from data.files import atomic, names
from data.formats import nnunet, partly_drawn
from data.preprocessing import planes
from data.task import TASKS, UNKNOWN, Intensity, Modality, Task

# Keys of a file and of each of its modalities, with their meaning.
FIELDS = {
  'name': 'shown to people (default: the folder)',
  'classes': 'class names, background first (default: in order of appearance)',
  'slice_size': 'pixels of the longer side of a prepared slice (default 256)',
  'roi': "'none' (default), or 'label': crop to the labelled region",
  'modalities': 'name -> its fields, in bank order',
  'patients': "'MODALITY/CASE' -> patient (default: the case's name)",
}
MODALITY_FIELDS = {
  'title': 'shown to people (default: the name)',
  'folder': 'where its scans are (default: the subfolder of that name)',
  'source': 'reader of its scans (default: folder)',
  'labels': 'class -> code, or list of codes, in its label maps',
  'drawn': 'case -> classes that were drawn in it, or a table (default: all)',
  'sparse': 'true: slices without a label were not drawn; or case -> slices',
  'intensity': "{'window': [low, high]} or {'upper_percentile': 99.5}",
  'mm_per_pixel': 'of its prepared slices (default: what fills the slice)',
  'plane': 'acquired (default), axial, coronal or sagittal slices',
  'series': 'of DICOM folders that hold several: its description or number',
}
_SLICE_SIZE = 256
# A run's task, in the same form. Runs of before `plane` could be said have no
# word of it there: theirs were axial.
RUNS_TASK = 'task.json'
_PLANE_BEFORE = 'axial'
# Who reads scans: data/NAME.py.
_SOURCES = ('folder', *sorted({
  m.source for task in TASKS.values() for m in task.modalities
}))  # fmt: skip
# What a modality may be called.
MODALITY_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]*')


class _TaskError(ValueError):
  """What is wrong with a task, without the name of its file."""


def _need(sound: Any, message: str) -> None:
  """Refuses a task that is not sound, saying what is wrong."""
  if not sound:
    raise _TaskError(message)


def find(name: str) -> Task:
  """A built-in task by its name, or the task of a file.

  Args:
    name: 'heart', 'abdomen', or the path of a task file.

  Raises:
    ValueError: there is no such task, or the file is not one; says why.
  """
  if name in TASKS:
    return TASKS[name]
  path, known = pathlib.Path(name), ', '.join(sorted(TASKS))
  if path.suffix != '.json':
    words = f'choose {known}, or give the path of a dataset.json'
    raise ValueError(f'task {name!r}: {words}')
  try:
    stat = path.stat()
  except OSError as error:
    raise ValueError(
      f'{name}: {error.strerror}; `python -m data.prepare --init'
      f' {path.parent}` writes a first one'
    ) from error
  return _read(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=64)
def _read(path: pathlib.Path, mtime_ns: int, size: int) -> Task:
  del mtime_ns, size  # Part of the cache's key: a changed file is read again.
  plane = _PLANE_BEFORE if path.name == RUNS_TASK else planes.ACQUIRED
  try:
    found = partly_drawn.with_tables(content(path), path.parent)
    return from_dict(found, path.absolute().parent.name, plane)
  except (
    _TaskError,
    partly_drawn.NoTableError,
    nnunet.NotUsableError,
  ) as error:
    raise ValueError(f'{path}: {error}') from error


def content(path: pathlib.Path) -> Any:
  """What a JSON file of a user holds, in any of Unicode's encodings.

  Editors of Windows write UTF-16, or put a mark in front.

  Raises:
    ValueError: it is not readable, or says something twice; names the file.
  """
  try:
    return json.loads(path.read_bytes(), object_pairs_hook=_once)
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(f'{path}: not readable JSON ({error})') from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object of a JSON file, each of whose keys is there once."""
  out = dict(pairs)
  if len(out) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f'{twice!r} is there twice')
  return out


def patients(path: pathlib.Path) -> dict[tuple[str, str], str]:
  """The file's patients: (modality, case) -> patient, in Unicode's NFC.

  Raises:
    ValueError: the file is not readable; names it.
  """
  found = content(path)
  people = found.get('patients', {}) if isinstance(found, dict) else {}
  out = {}
  for key, person in people.items():
    modality, _, case = names.normal(key).partition('/')
    out[modality, case] = names.normal(str(person))
  return out


def modality_folders(path: pathlib.Path) -> dict[str, str]:
  """The file's modalities: name -> folder; none if it is not sound."""
  try:
    task = find(str(path))
  except ValueError:
    return {}
  return {m.name: m.series for m in task.modalities if m.source == 'folder'}


def _check_keys(found: Any, known: Iterable[str], where: str) -> None:
  _need(isinstance(found, dict), f'{where} must hold keys and values')
  listed = ', '.join(known)
  for key in found:
    _need(key in known, f'{where}: unknown key {key!r}; known are {listed}')


def _codes(labels: Any, name: str) -> dict[str, list[int]]:
  """Class -> codes of one modality, checked."""
  named = isinstance(labels, dict) and labels
  _need(named, f'{name}: labels must give each class its code')
  out = {}
  seen = {0: 'background'}
  for label, codes in labels.items():
    codes = codes if isinstance(codes, list) else [codes]
    whole = codes and all(type(code) is int for code in codes)
    _need(whole, f'{name}: labels of {label!r} must be whole numbers')
    if label.strip().lower() == nnunet.IGNORE:
      label = nnunet.IGNORE
    for code in codes:
      other = seen.setdefault(code, label)
      _need(other == label, f'{name}: code {code} means {other} and {label}')
    out[label] = codes
  classes = out.keys() - {'background', nnunet.IGNORE}
  _need(classes, f'{name}: labels name no class but background')
  return out


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and math.isfinite(value)


def _intensity(found: Any, name: str) -> Intensity:
  _check_keys(found, Intensity._fields, f'{name}: intensity')
  window = found.get('window')
  if window is not None:
    pair = isinstance(window, list) and len(window) == 2
    rising = pair and all(map(_is_number, window)) and window[0] < window[1]
    _need(rising, f'{name}: window must be [low, high], not {window!r}')
    window = (float(window[0]), float(window[1]))
  percentile = found.get('upper_percentile', Intensity().upper_percentile)
  _need(
    _is_number(percentile) and 50 < percentile <= 100,
    f'{name}: upper_percentile={percentile!r}: above 50, up to 100',
  )
  return Intensity(window, float(percentile))


def _modality(
  name: str, found: Any, classes: list[str], default_plane: str
) -> Modality:
  plain = MODALITY_NAME.fullmatch(name)
  _need(plain, f'modality {name!r}: use letters, digits, "_" and "-"')
  _check_keys(found, MODALITY_FIELDS, f'modality {name}')
  codes = {0: 0}
  for label, values in _codes(found.get('labels'), name).items():
    known = label in (*classes, nnunet.IGNORE)
    _need(known, f'{name}: class {label!r} is not among the classes')
    index = UNKNOWN if label == nnunet.IGNORE else classes.index(label)
    codes |= dict.fromkeys(values, index)
  try:
    its = {classes[i] for i in codes.values() if i != UNKNOWN}
    having = [label if label in its else '' for label in classes]
    drawn = partly_drawn.drawn(found.get('drawn', {}), having)
    sparse = partly_drawn.sparse(found.get('sparse', False))
  except ValueError as error:
    raise _TaskError(f'{name}: {error}') from error
  mm = found.get('mm_per_pixel')
  positive = mm is None or (_is_number(mm) and 0 < mm <= 100)
  _need(positive, f'{name}: mm_per_pixel={mm!r} must be positive')
  texts = {'title': name, 'source': 'folder', 'folder': name, 'series': ''}
  for key, default in texts.items():
    texts[key] = value = found.get(key, default)
    _need(isinstance(value, str), f'{name}: {key}={value!r} must be a text')
  plane, source = found.get('plane', default_plane), texts['source']
  for key, value, choices in (
    ('plane', plane, planes.PLANES),
    ('source', source, _SOURCES),
  ):
    words = f'{name}: {key}={value!r}: choose {", ".join(choices)}'
    _need(value in choices, words)
  return Modality(
    name=name,
    title=texts['title'],
    source=source,
    series=texts['folder'],
    codes=codes,
    intensity=_intensity(found.get('intensity', {}), name),
    mm_per_pixel=None if mm is None else float(mm),
    plane=plane,
    dicom_series=texts['series'],
    drawn=drawn,
    sparse=sparse,
  )


def from_dict(
  found: Any, folder: str, default_plane: str = planes.ACQUIRED
) -> Task:
  """A task from a file's content.

  Args:
    found: what the JSON holds.
    folder: default of the task's name.
    default_plane: of modalities that do not say.

  Raises:
    ValueError: saying which key is wrong.
  """
  if nnunet.is_one(found):
    found = nnunet.task(found)
  _check_keys(found, FIELDS, 'a task')
  modalities = found.get('modalities')
  named = isinstance(modalities, dict) and modalities
  _need(named, 'modalities must name at least one modality')
  classes = found.get('classes')
  if classes is None:
    labels = [
      label
      for fields in modalities.values()
      if isinstance(fields, dict) and isinstance(fields.get('labels'), dict)
      for label in fields['labels']
    ]
    labels = [n for n in labels if n.strip().lower() != nnunet.IGNORE]
    classes = list(dict.fromkeys(['background', *labels]))
  first = isinstance(classes, list) and classes[:1] == ['background']
  _need(first, 'classes must be a list that starts with background')
  texts = all(isinstance(c, str) and c.strip() for c in classes)
  _need(texts, 'classes must be names')
  apart = len(set(classes)) == len(classes) and 2 <= len(classes) <= UNKNOWN
  _need(apart, 'classes must be 1 to 254 different names behind background')
  none = [c for c in classes if c.strip().lower() == nnunet.IGNORE]
  _need(not none, f'classes: {nnunet.IGNORE!r} is none, but a code of "labels"')
  size = found.get('slice_size', _SLICE_SIZE)
  fits = type(size) is int and size >= 16 and size % 8 == 0
  _need(fits, f'slice_size={size!r}: a multiple of 8, at least 16')
  roi = found.get('roi', 'none')
  _need(roi in ('none', 'label'), f'roi={roi!r}: choose none or label')
  people = found.get('patients', {})
  pairs = isinstance(people, dict)
  _need(pairs, "patients must hold 'MODALITY/CASE' and a patient each")
  for key, person in people.items():
    text = type(person) in (str, int)
    _need(text, f'patients: {key!r}: {person!r} is no name')
  name = found.get('name', folder)
  _need(isinstance(name, str), f'name={name!r} must be a text')
  task = Task(
    name=name,
    classes=tuple(classes),
    modalities=tuple(
      _modality(name, fields, classes, default_plane)
      for name, fields in modalities.items()
    ),
    slice_size=size,
    roi=roi,
  )
  unused = set(range(1, len(classes))) - {
    c for m in task.modalities for c in m.codes.values()
  }
  listed = ', '.join(classes[c] for c in sorted(unused))
  _need(not unused, f'no modality has a label code for {listed}')
  return task


def _said(**fields: Any) -> dict[str, Any]:
  return {name: value for name, value in fields.items() if value is not None}


def to_dict(task: Task) -> dict[str, Any]:
  """The content of a task's file; `from_dict` gives the same task."""
  modalities: dict[str, dict[str, Any]] = {}
  for m in task.modalities:
    labels: dict[str, list[int]] = {}
    for code, index in m.codes.items():
      label = nnunet.IGNORE if index == UNKNOWN else task.classes[index]
      labels.setdefault(label, []).append(code)
    drawn = {
      case: [task.classes[index] for index in chosen]
      for case, chosen in m.drawn.items()
    }
    sparse: partly_drawn.Sparse = bool(m.sparse)
    if isinstance(m.sparse, dict):
      sparse = {case: list(slices) for case, slices in m.sparse.items()}
    window, percentile = m.intensity
    fields = {
      'title': m.title,
      'source': m.source,
      'folder': m.series,
      'labels': labels,
      'intensity': _said(
        upper_percentile=percentile, window=window and list(window)
      ),
      'plane': m.plane,
      'mm_per_pixel': m.mm_per_pixel,
      'series': m.dicom_series or None,
      'drawn': drawn or None,
      'sparse': sparse or None,
    }
    modalities[m.name] = _said(**fields)
  return {
    'name': task.name,
    'classes': list(task.classes),
    'slice_size': task.slice_size,
    'roi': task.roi,
    'modalities': modalities,
  }


def write(found: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes a task's file; it is whole or not there."""
  atomic.write_json(path, found)
