"""Which codes of label maps are which class: the forms users have them in."""

import json
import pathlib
from typing import Any

_FORM = "write CODE=NAME,CODE=NAME, e.g. '1=liver,2=kidney', or a JSON file"


def parse(text: str) -> dict[int, str] | None:
  """Classes from the command line.

  Args:
    text: `1=liver,2=kidney`, `1,2` (named by their numbers), or a JSON file
      with "labels", as `{"liver": 1}` or `{"1": "liver"}`. Codes that share a
      name are one class. '' leaves the choice to the label maps.

  Returns:
    Code -> class name, in the order given and without the background (code 0);
    or None.

  Raises:
    ValueError: no such form, an ambiguous one or an unreadable file.
  """
  if not text:
    return None
  if text.endswith('.json'):
    pairs = _from_json(pathlib.Path(text))
  else:
    pairs = [_pair(part.strip()) for part in text.split(',')]
  codes: dict[int, str] = {}
  for code, name in pairs:
    if not name:
      raise ValueError(f'classes: code {code} has no name: {_FORM}')
    if codes.setdefault(code, name) != name:
      raise ValueError(
        f'classes: code {code} is {codes[code]!r} and {name!r}: a voxel has one'
        ' class; evaluate overlapping classes one by one'
      )
  codes.pop(0, None)
  if not codes:
    raise ValueError(f'classes: none but the background in {text!r}: {_FORM}')
  return codes


def _code(value: Any) -> int:
  """A code from JSON or the command line."""
  if isinstance(value, str):
    digits = value.strip().removeprefix('-')
    if digits.isascii() and digits.isdigit():
      return int(value)
  elif isinstance(value, int) and not isinstance(value, bool):
    return value
  raise ValueError(f'classes: {value!r} is no label code: {_FORM}')


def _pair(part: str) -> tuple[int, str]:
  code, equals, name = part.partition('=')
  return _code(code), name.strip() if equals else str(_code(code))


def _from_json(path: pathlib.Path) -> list[tuple[int, str]]:
  """(code, name) of a data set's description."""
  try:
    found = json.loads(path.read_text())
  except OSError as error:
    raise ValueError(
      f'classes: {path} cannot be read ({error.strerror}): check the name'
    ) from error
  except ValueError as error:
    raise ValueError(f'classes: {path} is not JSON ({error})') from error
  labels = found.get('labels') if isinstance(found, dict) else None
  if not isinstance(labels, dict):
    raise ValueError(
      f'classes: {path} has no "labels", such as {{"liver": 1, "kidney": 2}}'
    )
  pairs: list[tuple[int, str]] = []
  for key, value in labels.items():
    if key == 'ignore':
      raise ValueError(
        f'classes: {path} has voxels to ignore, which are not supported: list'
        ' the classes without "ignore" if no label map holds its code'
      )
    if isinstance(value, str):
      pairs.append((_code(key), value.strip()))
    else:
      several = value if isinstance(value, list) else [value]
      pairs += [(_code(code), key) for code in several]
  return pairs
