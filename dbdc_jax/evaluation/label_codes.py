"""Which codes of label maps are which class: the forms users have them in."""

from collections.abc import Iterable
import pathlib
import re
from typing import Any, NamedTuple

from data import task_file
from data.task import Task

_FORM = (
  "write CODE=NAME,CODE=NAME, e.g. '1=liver,2=kidney', or a JSON file"
  " (nnU-Net's or a folder's dataset.json, a run's task.json)"
)
# Names that are no class, in any case of letters.
BACKGROUND, IGNORE = 'background', 'ignore'
# A file, and one of its modalities.
_FILE = re.compile(r'(.+\.json)(?::([A-Za-z0-9][\w-]*))?', re.I | re.S)


class Classes(NamedTuple):
  """What label codes mean.

  Attributes:
    names: code -> class name, in the order given, without the background.
    ignored: codes of voxels that nobody annotated.
    partial: of a dataset.json that says what was drawn in each label map, a
      task of one modality.
  """

  names: dict[int, str]
  ignored: tuple[int, ...] = ()
  partial: Task | None = None


def parse(text: str) -> Classes | None:
  """Classes from the command line.

  Args:
    text: `1=liver,2=kidney`, `1,2` (named by their numbers), or a JSON file
      with "labels", as `{"liver": 1}` or `{"1": "liver"}`, or with
      "modalities" that have such labels: `FILE:MODALITY` chooses one where
      they differ. Codes that share a name are one class. Code 0 and codes
      named `background` are none; codes named `ignore` are left out. '' leaves
      the choice to the label maps.

  Returns:
    What the codes mean, or None.

  Raises:
    ValueError: no such form, an ambiguous one or an unreadable file.
  """
  if not text:
    return None
  partial = None
  if file := _FILE.fullmatch(text):
    pairs, partial = _from_json(pathlib.Path(file[1]), file[2])
  else:
    pairs = [_pair(part.strip()) for part in text.split(',')]
  codes = _unique(pairs)
  special = {code: name.casefold() for code, name in codes.items()}
  names = {
    code: name
    for code, name in codes.items()
    if code and special[code] not in (BACKGROUND, IGNORE)
  }
  if not names:
    raise ValueError(f'classes: none but the background in {text!r}: {_FORM}')
  ignored = tuple(sorted(c for c, name in special.items() if name == IGNORE))
  return Classes(names, ignored, partial)


def _unique(pairs: Iterable[tuple[int, str]]) -> dict[int, str]:
  """Code -> name.

  Raises:
    ValueError: a code has no name, or two.
  """
  codes: dict[int, str] = {}
  for code, name in pairs:
    if not name:
      raise ValueError(f'classes: code {code} has no name: {_FORM}')
    if codes.setdefault(code, name) != name:
      raise ValueError(
        f'classes: code {code} is {codes[code]!r} and {name!r}: a voxel has one'
        ' class; evaluate overlapping classes one by one'
      )
  return codes


def _is_code(value: Any) -> bool:
  if isinstance(value, str):
    digits = value.strip().removeprefix('-')
    return digits.isascii() and digits.isdigit()
  return isinstance(value, int) and not isinstance(value, bool)


def _code(value: Any) -> int:
  """A code from JSON or the command line."""
  if not _is_code(value):
    raise ValueError(f'classes: {value!r} is no label code: {_FORM}')
  return int(value)


def _pair(part: str) -> tuple[int, str]:
  code, equals, name = part.partition('=')
  return _code(code), name.strip() if equals else str(_code(code))


def _from_json(
  path: pathlib.Path, modality: str | None
) -> tuple[list[tuple[int, str]], Task | None]:
  """(code, name) of a data set's description, and `Classes.partial`.

  Of the chosen modality, or of all if they agree.
  """
  try:
    found = task_file.content(path)
  except ValueError as error:
    raise ValueError(f'classes: {error}') from error
  found = found if isinstance(found, dict) else {}
  several = found.get('modalities')
  if not isinstance(several, dict) or not several:
    if modality is None:
      return _pairs(path, found), None
    raise ValueError(
      f'classes: {path} has no modalities: leave :{modality} away'
    )
  if modality is not None and modality not in several:
    raise ValueError(
      f'classes: {path} has no modality {modality!r}: choose one of'
      f' {", ".join(several)}'
    )
  chosen = several if modality is None else {modality: several[modality]}
  every = {name: _pairs(path, fields, name) for name, fields in chosen.items()}
  maps = [
    {c: n for c, n in _unique(pairs).items() if n.casefold() != BACKGROUND}
    for pairs in every.values()
  ]
  if any(codes != maps[0] for codes in maps):
    forms = ', '.join(f'{path}:{name}' for name in every)
    raise ValueError(
      f'classes: the modalities of {path} have different label codes: choose'
      f' one of {forms}'
    )
  return next(iter(every.values())), _partial(path, chosen)


def _partial(path: pathlib.Path, chosen: dict[str, Any]) -> Task | None:
  """What a dataset.json says of what was drawn in each label map."""
  if not any({'drawn', 'sparse'} & {*fields} for fields in chosen.values()):
    return None
  if len(chosen) > 1:
    raise ValueError(
      f'classes: {path} says for each modality what was drawn: choose one of'
      f' {", ".join(f"{path}:{name}" for name in chosen)}'
    )
  (name,) = chosen
  task = task_file.find(str(path))
  return task._replace(modalities=task.select(name))


def _pairs(
  path: pathlib.Path, found: Any, modality: str = ''
) -> list[tuple[int, str]]:
  """(code, name) of an object's "labels", in either form.

  An export's model.json calls them "label_codes".
  """
  found = found if isinstance(found, dict) else {}
  labels = found.get('labels', found.get('label_codes'))
  if not isinstance(labels, dict):
    where = f' for {modality}' if modality else ''
    raise ValueError(
      f'classes: {path} has no "labels"{where}, such as'
      ' {"liver": 1, "kidney": 2}'
    )
  pairs: list[tuple[int, str]] = []
  for key, value in labels.items():
    if isinstance(value, str) and (_is_code(key) or not _is_code(value)):
      pairs.append((_code(key), value.strip()))
    else:
      several = value if isinstance(value, list) else [value]
      pairs += [(_code(code), key.strip()) for code in several]
  return pairs
