"""The scans of a task, from whatever archives and folders they lie in."""

from collections.abc import Sequence
import contextlib
import importlib

from data.formats.scan_error import ScanError
from data.preprocessing import planes
from data.readers import folder
from data.task import Case, Modality


def look(
  modalities: Sequence[Modality],
  roots: dict[str, str],
  include_unlabeled: bool = False,
) -> folder.Findings:
  """All cases of the modalities, by modality and then as the reader sorts.

  Args:
    modalities: in bank order.
    roots: archive -> folder.
    include_unlabeled: also the archives' own test scans.

  Returns:
    The cases; of own folders also what cannot be used, and what is no scan.

  Raises:
    ScanError: an archive is not where it should be, or a scan is there twice.
  """
  out = folder.Findings([], [], [])
  for source in dict.fromkeys(m.source for m in modalities):
    mine = [m for m in modalities if m.source == source]
    if source == 'folder':
      held = folder.look(roots[source], mine, include_unlabeled)
      out.cases.extend(held.cases)
      out.problems.extend(held.problems)
      out.left_out.extend(held.left_out)
    else:
      reader = importlib.import_module(f'data.readers.{source}')
      out.cases.extend(reader.cases(roots[source], mine, include_unlabeled))
  seen: dict[tuple[str, str], Case] = {}
  for case in out.cases:
    other = seen.setdefault((case.modality, case.name), case)
    if other is not case:
      reason = f'the same scan as {other.files[0]}'
      raise ScanError(case.files[0], reason, 'remove one of them')
  order = {m.name: k for k, m in enumerate(modalities)}
  out.cases.sort(key=lambda case: order[case.modality])
  return out


def decide_planes(
  modalities: Sequence[Modality], cases: Sequence[Case]
) -> list[Modality]:
  """Decides how each modality's scans are cut, by the headers of all of them.

  Args:
    modalities: some of whose planes may be 'acquired'.
    cases: their scans; bad ones have no say.
  """
  decided = []
  for modality in modalities:
    affines = []
    asked = modality.plane == planes.ACQUIRED
    for case in cases:
      if asked and case.affine and case.modality == modality.name:
        with contextlib.suppress(ScanError):
          affines.append(case.affine())
    plane = planes.decide(modality.plane, affines)
    decided.append(modality._replace(plane=plane))
  return decided
