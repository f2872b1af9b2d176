"""Folders that are sealed: the SHA-256 of each file is put beside the files.

A folder without a seal was not written to its end; a folder whose files are not
what the seal says is damaged.
"""

import hashlib
import json
import pathlib

from data.files import atomic

_FILE = 'seal.json'


def hashes(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 of each file of a folder, by its name in it."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob('*')
    if path.is_file()
  }


def put(folder: pathlib.Path) -> None:
  """Seals a folder whose other files are all there."""
  atomic.write(folder / _FILE, json.dumps(hashes(folder)).encode())


def is_on(folder: pathlib.Path) -> bool:
  """Whether a folder is sealed; its files are not looked at."""
  return (folder / _FILE).exists()


def fault(folder: pathlib.Path) -> str:
  """What is wrong with a folder's files; '' if nothing is."""
  try:
    sealed = json.loads((folder / _FILE).read_text())
    found = hashes(folder)
  except FileNotFoundError:
    return 'its writing was cut short'
  except (OSError, ValueError) as error:
    return f'not readable: {error}'
  del found[_FILE]
  if sealed == found:
    return ''
  names = sealed.keys() | found.keys()
  wrong = sorted(n for n in names if sealed.get(n) != found.get(n))
  return f'{", ".join(wrong[:3])}: not what was saved'
