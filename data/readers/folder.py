"""Own scans: one subfolder per modality, described by a `dataset.json`.

DIR/dataset.json            see `task_file.py`; data.prepare --init writes one
DIR/ct/images/scan_a.nii.gz     any file that `file_kinds.py` names, or a folder
                                with a DICOM series, however deep
DIR/ct/labels/scan_a.nii.gz     of the same name; none: the scan is unlabelled
DIR/t2/imagesTr/case_1_0000.nii.gz      nnU-Net's raw folders work as they are,
DIR/t2/labelsTr/case_1.nii.gz           also as DIR itself
DIR/t2/imagesTs/...                     (read where test scans are asked for)

Whatever else lies there is a problem, or left out with the reason.
"""

from collections.abc import Sequence
import functools
import os
import pathlib
from typing import NamedTuple

from data import task_file
from data.files import names
from data.formats import file_kinds, nnunet, partly_drawn, scan_files
from data.formats.nifti import check_pair
from data.formats.scan_error import ScanError, closed_folder
from data.formats.scan_files import Source
from data.readers import left_open, user_labels
from data.task import Case, Modality, Scan

TASK_FILE = 'dataset.json'
_IMAGES = ('images', 'imagesTr')
_LABELS = ('labels', 'labelsTr')
_TESTS = ('imagesTs',)
_TEST_LABELS = ('labelsTs',)
_HOW_CASES = "write the file's name without its ending; or remove the entry"
_HOW_PATIENTS = (
  "write 'MODALITY/CASE', CASE being the file's name without its ending; or"
  ' remove the entry'
)


class Held(NamedTuple):
  """What a modality's folder holds.

  Attributes:
    images: case -> image, those that can be used.
    labels: case -> label map, of these images.
    tests: case -> image, of nnU-Net's imagesTs.
    problems: see `scan_files.Listing`.
    left_out: see there.
  """

  images: dict[str, Source]
  labels: dict[str, Source]
  tests: dict[str, Source]
  problems: list[ScanError]
  left_out: list[ScanError]


class Findings(NamedTuple):
  """What a data set holds.

  Attributes:
    cases: the scans that can be used, by modality and name.
    problems: see `scan_files.Listing`.
    left_out: see there.
  """

  cases: list[Case]
  problems: list[ScanError]
  left_out: list[ScanError]


def _read(
  image_source: Source, label_source: Source | None, modality: Modality
) -> Scan:
  image = scan_files.read(image_source)
  classes, drawn, notes = None, None, image.notes
  if label_source is not None:
    label = scan_files.read(label_source, label=True)
    files = str(image_source.path), str(label_source.path)
    user_labels.check_drawn(label.voxels, image.voxels, files[1], files[0])
    check_pair(image, label, files[1])
    classes = user_labels.classes(label.voxels, modality.codes, files[1])
    classes, drawn = left_open.leave_open(
      classes, image.affine, modality, image_source.name, files[1]
    )
    notes += label.notes
  return Scan(image.voxels, classes, image.affine, notes, image.tags, drawn)


def folders_in(place: pathlib.Path) -> list[pathlib.Path]:
  """The subfolders of a folder, hidden ones left out, sorted."""
  return sorted(
    p for p in place.iterdir() if not p.name.startswith('.') and p.is_dir()
  )


def _called(place: pathlib.Path, words: Sequence[str]) -> list[pathlib.Path]:
  """Its subfolders of one of the names, in capitals or not."""
  small = [w.lower() for w in words]
  return [p for p in folders_in(place) if p.name.lower() in small]


def holds_images(place: pathlib.Path) -> bool:
  """Whether a folder is a modality's: images/ or imagesTr/ is in it."""
  return bool(_called(place, _IMAGES))


def beside(
  place: pathlib.Path,
  used: Sequence[pathlib.Path],
  problems: list[ScanError],
  left_out: list[ScanError],
) -> None:
  """Lists what lies in a folder and is not read.

  Args:
    place: the folder.
    used: what is read of it.
    problems: gets scans.
    left_out: gets everything else.
  """
  for path in sorted(place.iterdir()):
    if path in used or path.name.startswith('.') or path.name == TASK_FILE:
      continue
    reason = file_kinds.other(path) or 'a file that is not read'
    if path.is_dir():
      reason = 'a folder that is not read'
      if (path / scan_files.RESULTS).is_file():
        reason = 'results of this program'
      elif holds_images(path):
        reason = 'a modality that dataset.json does not name'
    elif file_kinds.scan_ending(path):
      remedy = "put it into the images/ of a modality's folder"
      problems.append(ScanError(path, 'a scan where none is read', remedy))
      continue
    left_out.append(ScanError(path, reason))


class _Look:
  """One look at a modality's folder."""

  def __init__(self, place: pathlib.Path, series: str):
    self._place, self._series = place, series
    self.problems: list[ScanError] = []
    self.left_out: list[ScanError] = []

  def problem(self, path, reason: str, remedy: str) -> None:
    self.problems.append(ScanError(path, reason, remedy))

  def one(self, words: Sequence[str]) -> pathlib.Path | None:
    """The subfolder of one of the names."""
    found = _called(self._place, words)
    if len(found) > 1:
      self.problem(
        self._place,
        f'holds {" and ".join(p.name for p in found)}: only {found[0].name} is'
        ' read',
        'put all of it into one of them',
      )
    return found[0] if found else None

  def listed(self, place: pathlib.Path | None, series: str = ''):
    """Name -> scan of a folder; a subfolder must be one scan."""
    if place is None:
      return {}
    found = scan_files.find(place, series=series)
    self.problems += found.problems
    self.left_out += found.left_out
    top: dict[str, list[Source]] = {}
    for source in found.scans.values():
      way = source.members[0] if source.members else source.path
      inside = way.relative_to(os.path.abspath(place)).parts
      top.setdefault(inside[0] if len(inside) > 1 else '', []).append(source)
    out = {source.name: source for source in top.pop('', [])}
    for name, sources in top.items():
      if len(sources) == 1:
        out[sources[0].name] = sources[0]
        continue
      found_there = names.listed([source.name for source in sources])
      self.problem(
        place / name,
        f'holds {len(sources)} scans: {found_there}',
        'leave one there (label maps belong into labels/), move them up, or'
        ' move it away'
        + ('; or name one in "series"' if sources[0].series else ''),
      )
    return dict(sorted(out.items()))

  def cases(self, images: dict[str, Source], labels, where):
    """The images by case: nnU-Net's end in their channel's number."""
    if where is None or where.name.lower() == 'images':
      return images
    images, problems = nnunet.channels(images, labels)
    self.problems += problems
    return images

  def rest(self, labels: pathlib.Path | None) -> None:
    """What else lies there; label maps, in a folder of another name?"""
    known = (*_IMAGES, *_LABELS, *_TESTS, *_TEST_LABELS)
    rest = [
      p for p in folders_in(self._place) if p not in _called(self._place, known)
    ]
    holding = [p for p in rest if labels is None and self._holds(p)]
    if holding:
      listed = ', '.join(p.name for p in folders_in(self._place))
      self.problem(
        self._place,
        f'no folder labels/ or labelsTr/ in {self._place} (found: {listed})',
        'name the folder with the label maps labels/, or move it away',
      )
    used = [p for p in folders_in(self._place) if p not in rest]
    beside(self._place, [*used, *holding], self.problems, self.left_out)

  def _holds(self, place: pathlib.Path) -> bool:
    try:
      return bool(scan_files.find(place).scans)
    except ScanError:
      return False


def modality(place: pathlib.Path, series: str = '') -> Held:
  """What a modality's folder holds.

  Args:
    place: the folder.
    series: which one of DICOM folders that hold several.
  """
  look = _Look(place, series)
  try:
    if not place.is_dir():
      raise ScanError(place, 'is not there', 'put images/ and labels/ into it')
    images, labels = look.one(_IMAGES), look.one(_LABELS)
    drawn = look.listed(labels)
    failed = {_name_of(e) for e in look.problems}
    listed = look.listed(images, series)
    found = look.cases(listed, drawn, images)
    tests = look.one(_TESTS)
    later = look.listed(tests, series)
    if not listed or found.keys() != listed.keys():  # They are named alike.
      later = look.cases(later, (), tests)
    look.rest(labels)
  except (ScanError, OSError) as error:
    if isinstance(error, OSError):
      error = closed_folder(place, error)
    return Held({}, {}, {}, [*look.problems, error], look.left_out)
  bad = {_name_of(e).removesuffix('_0000') for e in look.problems}
  alone = [
    drawn.pop(name) for name in sorted(drawn.keys() - found.keys() - bad)
  ]
  if alone:
    look.problem(
      alone[0].path,
      f'{len(alone)} label maps without a scan of the same name:'
      f' {names.listed([source.name for source in alone])}',
      'name scans and label maps alike, or move the label maps away',
    )
  for name in sorted(later.keys() & found.keys()):
    training = images.name if images else ''
    twice, remedy = later.pop(name).path, 'move one of them away'
    look.problem(twice, f'is in {training}/ too', remedy)
  if not found and not look.problems:
    there = [] if images else [p.name for p in folders_in(place)]
    look.problem(
      place,
      'no scans found' + (f' (found: {names.listed(there)})' if there else ''),
      f'expected {place}/images/ with .nii or .nii.gz files, or a folder with'
      ' a DICOM series for each case',
    )
  # Their label map is there, and broken: they are not unlabelled.
  found = {n: s for n, s in found.items() if n in drawn or n not in failed}
  return Held(found, drawn, later, look.problems, look.left_out)


def _name_of(error: ScanError) -> str:
  """The case that a problem of a listing is about."""
  return names.case_name(file_kinds.stem(pathlib.Path(error.file).name))


def look(
  root: str, modalities: Sequence[Modality], include_unlabeled: bool = False
) -> Findings:
  """What lies under `root`.

  Args:
    root: the folder that holds dataset.json and a folder per modality.
    modalities: those of this source.
    include_unlabeled: also nnU-Net's test scans (imagesTs).
  """
  top = pathlib.Path(root)
  file = top / TASK_FILE
  people = task_file.patients(file) if file.exists() else {}
  named = task_file.modality_folders(file) if file.exists() else {}
  out = Findings([], [], [])
  known: set[tuple[str, str]] = set()
  for kind in modalities:
    held = modality(top / kind.series, kind.dicom_series)
    out.problems.extend(held.problems)
    out.left_out.extend(held.left_out)
    images = held.images | (held.tests if include_unlabeled else {})
    if held.tests and not include_unlabeled:
      reason = f'{len(held.tests)} test scans (imagesTs)'
      remedy = '--config.data.extra_unlabeled=true trains on them, too'
      out.left_out.append(ScanError(top / kind.series, reason, remedy))
    broken = map(_name_of, held.problems)
    for name in (*broken, *held.images, *held.tests):
      known |= _keys(kind.name, name)
    for case in left_open.unmatched(
      kind, [*held.images, *held.tests, *map(_name_of, held.problems)]
    ):
      reason = f'{kind.name}: {case} of "drawn" or "sparse" fits no scan'
      out.problems.append(ScanError(file, reason, _HOW_CASES))
    for name, image in sorted(images.items()):
      given = [people[k] for k in _keys(kind.name, name) if k in people]
      out.cases.append(
        _case(kind, image, held.labels.get(name), (given or [name])[0])
      )
  folders = {top / f for f in named.values()}
  folders |= {top / kind.series for kind in modalities}
  if top.is_dir() and top not in folders:
    used = [
      p for p in folders_in(top) if any(f.is_relative_to(p) for f in folders)
    ]
    if file.exists():
      used += partly_drawn.tables(task_file.content(file), top)
    beside(top, used, out.problems, out.left_out)
  chosen = {kind.name for kind in modalities}
  for (called, name), person in people.items():
    asked = called in chosen or called not in named
    if asked and (called, name) not in known:
      entry = '/'.join(filter(None, (called, name)))
      reason = f'patients: {entry} ({person}) fits no scan'
      out.problems.append(ScanError(file, reason, _HOW_PATIENTS))
  return out


def _keys(kind: str, name: str) -> set[tuple[str, str]]:
  """How `patients` may call a case: by its name, or as it is shown."""
  return {(kind, called) for called in left_open.called(name)}


def _case(kind: Modality, image: Source, label: Source | None, person) -> Case:
  return Case(
    name=f'{kind.name}_{image.name}',
    patient=person,
    modality=kind.name,
    files=tuple(map(str, image.files() + (label.files() if label else ()))),
    labeled=label is not None,
    read=functools.partial(_read, image, label, kind),
    affine=functools.partial(scan_files.affine, image),
  )
