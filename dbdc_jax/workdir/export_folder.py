"""Folders that are given away: described, sealed, whole or not there.

One JSON file says what such a folder is and holds the SHA-256 of every other
file, and of itself. Two kinds: a whole model (`model.json`), and one modality's
rows of the banks (`rows.json`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

from data.files import atomic, destination
from dbdc_jax.workdir import run_record, seal, weights

MODEL = 'model.json'
ROWS = 'rows.json'
_FORMATS = {MODEL: 'dbdc_jax model', ROWS: 'dbdc_jax bank rows'}
# Raised with every change that an older reader would misunderstand.
VERSION = 1
# What systems and Python leave in a folder by themselves.
_LITTER = ('.DS_Store', 'Thumbs.db', 'desktop.ini')
# What tells a run's folder, and an exported model's too.
_RUN = ('run.json', 'config.json')
_ELSEWHERE = 'choose another --output'
_AGAIN = 'copy it again from where it was exported, or export again'


def _sha256(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
  """SHA-256 of all that a description says but this number itself."""
  said = {k: v for k, v in content.items() if k != 'sha256'}
  return _sha256(json.dumps(said, sort_keys=True).encode())


def describe(folder: pathlib.Path, kind: str, content: dict[str, Any]) -> None:
  """Writes the description of a folder whose other files are all there.

  Args:
    folder: that is given away.
    kind: `MODEL` or `ROWS`.
    content: what is said of it.
  """
  said = {'format': _FORMATS[kind], 'version': VERSION, **content}
  said['files'] = seal.hashes(folder)
  # As JSON reads it back: it has no tuples.
  said = json.loads(json.dumps(said))
  run_record.write_json(folder / kind, said | {'sha256': _digest(said)})


def read(folder: pathlib.Path, kind: str) -> dict[str, Any]:
  """Reads a folder's description and holds every file against it.

  Args:
    folder: that `describe` described.
    kind: `MODEL` or `ROWS`.

  Raises:
    ValueError: it is something else, of a newer version, or damaged; names
      the first file that is.
  """
  path = folder / kind
  try:
    content = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise ValueError(f'{path} is missing: {_AGAIN}') from error
  except (OSError, ValueError) as error:
    raise ValueError(f'{path} is not readable ({error}): {_AGAIN}') from error
  if not isinstance(content, dict) or content.get('format') != _FORMATS[kind]:
    raise ValueError(
      f'{path} is something else: {folder} was not written by'
      ' python -m dbdc_jax.export'
    )
  if content.get('version') != VERSION:
    raise ValueError(
      f'{path}: format version {content.get("version")}, this program reads'
      f' {VERSION}: use the version of dbdc_jax that wrote it'
    )
  if content.get('sha256') != _digest(content):
    raise ValueError(f'{path} is damaged (not what was written): {_AGAIN}')
  for name, wanted in content['files'].items():
    try:
      found = _sha256((folder / name).read_bytes())
    except OSError as error:
      raise ValueError(
        f'{folder / name}: {error.strerror}; {folder} is not whole: {_AGAIN}'
      ) from error
    if found != wanted:
      raise ValueError(
        f'{folder / name} is damaged (not what was written): {_AGAIN}'
      )
  return content


def is_model(folder: pathlib.Path) -> bool:
  """Whether a folder is an exported model, or what is left of one."""
  names = (MODEL, weights.FOLDER, f'*/{weights.FOLDER}')
  return any(any(folder.glob(name)) for name in names)


def _described(folder: pathlib.Path) -> dict[str, Any] | None:
  """What `describe` said of a folder, if it is one of its folders at all."""
  for kind, name in _FORMATS.items():
    try:
      content = json.loads((folder / kind).read_text())
    except (OSError, ValueError):
      continue
    if isinstance(content, dict) and content.get('format') == name:
      return content
  return None


def _strays(folder: pathlib.Path, files: Collection[str]) -> list[str]:
  """What lies in an export and is none of its files."""
  found = {
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.is_symlink() or not path.is_dir()
    if path.name not in _LITTER and path.parent.name != '__pycache__'
  }
  return sorted(found - {*_FORMATS, *files})


def check(
  output: str | os.PathLike,
  overwrite: bool,
  sources: Sequence[str | os.PathLike] = (),
) -> pathlib.Path:
  """The place of an export that is to be made, through links.

  Args:
    output: the folder that is wanted.
    overwrite: whether an export that is there may be replaced.
    sources: folders that it is made from.

  Raises:
    ValueError: it would replace something else, or lie in a run or an export,
      which would then be taken for another thing.
  """
  folder = destination.check(output)
  for source in sources:
    if destination.inside(folder, source):
      raise ValueError(
        f'{output} is or lies in {source}, which is exported: {_ELSEWHERE}'
      )
    if destination.inside(source, folder):
      raise ValueError(
        f'{output} holds {source}, which is exported: {_ELSEWHERE}'
      )
  for parent in folder.parents:
    run = all((parent / name).is_file() for name in _RUN)
    if run or _described(parent) is not None:
      raise ValueError(
        f'{output} lies in {parent}, a run or an export: {_ELSEWHERE}'
      )
  if not os.path.lexists(folder):
    return folder
  if not overwrite:
    raise ValueError(
      f'{folder} is there already: choose another folder, or --overwrite'
    )
  described = _described(folder)
  if described is None:
    raise ValueError(
      f'{folder} is not an export, --overwrite leaves it alone: {_ELSEWHERE}'
    )
  if strays := _strays(folder, described.get('files', ())):
    raise ValueError(
      f'{folder} also holds what no export wrote ({", ".join(strays[:3])}):'
      f' --overwrite leaves it alone: move that away, or {_ELSEWHERE}'
    )
  return folder


@contextlib.contextmanager
def making(
  output: str | os.PathLike,
  overwrite: bool,
  sources: Sequence[str | os.PathLike] = (),
) -> Iterator[pathlib.Path]:
  """A folder to fill that becomes `output` once it is complete.

  What it replaces is there until then, and is back if the last step fails.

  Args:
    output: the folder that is wanted.
    overwrite: replace what was exported there before.
    sources: folders that it is made from.

  Yields:
    The folder to fill.

  Raises:
    ValueError: see `check`.
  """
  folder = destination.real(output)
  before = folder.with_name(f'.replaced-{folder.name}')
  # A process was killed in the middle of replacing.
  _bring_back(before, folder)
  check(folder, overwrite, sources)
  try:
    with atomic.filling(folder, lambda: False) as partial:
      yield partial
      # Once more: something may have been put there in the meantime.
      check(folder, overwrite, sources)
      if folder.exists():
        shutil.rmtree(before, ignore_errors=True)
        os.replace(folder, before)
  finally:
    _bring_back(before, folder)
  shutil.rmtree(before, ignore_errors=True)


def _bring_back(before: pathlib.Path, folder: pathlib.Path) -> None:
  """Undoes the first half of a replacement whose second half did not come."""
  if before.is_dir() and not os.path.lexists(folder):
    os.replace(before, folder)
