"""Folders that are given away: described, sealed, whole or not there.

One JSON file says what such a folder is and holds the SHA-256 of every other
file, and of itself. Two kinds: a whole model (`model.json`), and one modality's
rows of the banks (`rows.json`).
"""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

from data import atomic
from dbdc_jax import run_record, weights

MODEL = 'model.json'
ROWS = 'rows.json'
_FORMATS = {MODEL: 'dbdc_jax model', ROWS: 'dbdc_jax bank rows'}
# Raised with every change that an older reader would misunderstand.
VERSION = 1
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
  files = {
    str(path.relative_to(folder)): _sha256(path.read_bytes())
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }
  said = {'format': _FORMATS[kind], 'version': VERSION, **content}
  said['files'] = files
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


@contextlib.contextmanager
def making(folder: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
  """A folder to fill that becomes `folder` once it is complete.

  Args:
    folder: that is wanted.
    overwrite: replace what was exported there before.

  Yields:
    The folder to fill.

  Raises:
    ValueError: something is there that must not be replaced.
  """
  folder = folder.absolute()
  if folder.exists() and not overwrite:
    raise ValueError(
      f'{folder} is there already: choose another folder, or --overwrite'
    )
  if folder.exists() and not any((folder / kind).exists() for kind in _FORMATS):
    raise ValueError(
      f'{folder} is not an export, --overwrite leaves it alone: choose another'
      ' folder'
    )
  before = folder.with_name(f'.replaced-{folder.name}')
  with atomic.filling(folder, lambda: False) as partial:
    yield partial
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
      os.replace(folder, before)
  shutil.rmtree(before, ignore_errors=True)
