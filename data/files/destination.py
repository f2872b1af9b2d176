"""Where a command may write, decided before anything is computed.

Every command has its own rule for what it may replace. What a path means is
the same for all of them: links, '..' and other spellings of a name lead to one
place.
"""

from collections.abc import Callable, Collection, Mapping
import json
import os
import pathlib


def real(path: str | os.PathLike) -> pathlib.Path:
  """The place that a path means, through links; it need not exist."""
  return pathlib.Path(os.path.realpath(path))


def inside(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
  """Whether a path is a folder or lies in it, by whatever name."""
  place, wanted = real(path), real(folder)
  if place == wanted or wanted in place.parents:
    return True
  # A disk that does not tell capitals apart, or that is mounted twice.
  return any(_same(part, wanted) for part in (place, *place.parents))


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
  try:
    return one.samefile(other)
  except OSError:
    return False


def check(path: str | os.PathLike) -> pathlib.Path:
  """The place that a path means, where something can be made.

  Raises:
    ValueError: what should hold it is a file, or must not be written to; says
      which folder.
  """
  place = real(path)
  folder = place.parent
  while not os.path.lexists(folder) and folder != folder.parent:
    folder = folder.parent
  if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
    why = 'must not be written to' if folder.is_dir() else 'is no folder'
    raise ValueError(f'{path}: {folder} {why}: choose another place')
  return place


def check_ours(
  folder: pathlib.Path, known: Mapping[str, Callable[[str], bool]], said: str
) -> None:
  """Checks that files which are to be written replace none of somebody else's.

  Args:
    folder: where they come.
    known: name of each -> whether a text is of such a file.
    said: of a file that is not, behind its name.

  Raises:
    ValueError: such a file is there, or what is no file.
  """
  for name, is_ours in known.items():
    path = folder / name
    if not os.path.lexists(path):
      continue
    try:
      ours = path.is_file() and is_ours(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
      ours = False
    if not ours:
      raise ValueError(f'{path}{said}')


def has_keys(text: str, keys: Collection[str]) -> bool:
  """Whether a text is a JSON object with these keys, and maybe more.

  Raises:
    ValueError: it is no JSON.
  """
  found = json.loads(text)
  return isinstance(found, dict) and found.keys() >= set(keys)
