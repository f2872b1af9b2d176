"""Files and folders that appear whole or not at all."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import csv
import errno
import fcntl
import io
import json
import os
import pathlib
import shutil
import signal
import time
from typing import Any
import uuid

from data.files import errors, signals

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a disk answers when it takes no more.
DISK_ERRORS = (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
# Younger left-overs may belong to a process that has not locked them yet.
_SECONDS = 60


@contextlib.contextmanager
def filling(
  target: pathlib.Path, done: Callable[[], bool]
) -> Iterator[pathlib.Path]:
  """An empty folder that becomes `target` when it is filled.

  Whatever ends the filling early, an error, Ctrl-C or SIGTERM, the folder is
  removed. What a killed process left behind is removed by the next one that
  wants the same target.

  Args:
    target: the folder to make; its parents are made if missing.
    done: whether `target` is what is wanted. Somebody else may have finished
      it in the meantime.

  Yields:
    The folder to fill, beside the target.

  Raises:
    OSError: the disk took no more; the text names the target.
    FileExistsError: the target is there, but is not what is wanted.
  """
  stem = f'.partial-{target.name}-'
  folder = target.with_name(stem + uuid.uuid4().hex[:8])
  with terminable(), naming(target):
    target.parent.mkdir(parents=True, exist_ok=True)
    for other in target.parent.iterdir():
      if other.name.startswith(stem):
        _remove_if_dead(other)
    try:
      folder.mkdir()
      with locked(folder):
        yield folder
        try:
          os.replace(folder, target)
        except OSError as error:
          if not done():
            raise FileExistsError(
              f'{target} is there and is not finished: remove it'
            ) from error
    finally:
      shutil.rmtree(folder, ignore_errors=True)


def write(path: pathlib.Path, data: bytes) -> None:
  """Writes a file; it appears whole, or what was there before stays.

  Raises:
    OSError: the disk took no more; the text names the file.
  """
  partial = path.with_name('.partial-' + path.name)
  with naming(path):
    try:
      partial.write_bytes(data)
      os.replace(partial, path)
    finally:
      partial.unlink(missing_ok=True)


def write_json(
  path: pathlib.Path,
  found: Any,
  *,
  sort_keys: bool = False,
  allow_nan: bool = False,
) -> None:
  """Writes a JSON file as `write` does.

  Raises:
    ValueError: it holds NaN or infinity, which JSON has not, unless allowed.
    OSError: as `write`.
  """
  text = json.dumps(found, indent=2, sort_keys=sort_keys, allow_nan=allow_nan)
  write(path, (text + '\n').encode())


def write_csv(
  path: pathlib.Path, rows: Iterable[Iterable[Any]], encoding: str = 'utf-8'
) -> None:
  """Writes a table as `write` does."""
  text = io.StringIO(newline='')
  csv.writer(text).writerows(rows)
  write(path, text.getvalue().encode(encoding))


def tells_capitals_apart(folder: pathlib.Path) -> bool:
  """Whether a folder's disk has `a` and `A` as two names.

  Raises:
    OSError: the folder cannot be written.
  """
  probe = folder / f'.probe-a-{uuid.uuid4().hex[:8]}'
  probe.touch()
  try:
    return not probe.with_name(probe.name.upper()).exists()
  finally:
    probe.unlink()


def terminable() -> contextlib.AbstractContextManager[None]:
  """SIGTERM as `SystemExit`, so that what is unfinished gets tidied up."""
  # A second one must not stop the tidying up.
  once = iter([SystemExit(128 + signal.SIGTERM)])
  stop = lambda frame: next(once, None)
  return signals.handling(signal.SIGTERM, signal.SIG_DFL, stop)


@contextlib.contextmanager
def naming(target: pathlib.Path) -> Iterator[None]:
  """Errors of the disk name the target: a failed write knows no file."""
  try:
    yield
  except OSError as error:
    code = error.errno
    if code not in DISK_ERRORS or (error.filename and code not in _FULL):
      raise
    plain = OSError(code, os.strerror(code))
    raise errors.explained(plain, str(target)) from error


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
  """Waits for a folder's lock, which ends with the process however it ends."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # Some file systems have no locks.
      fcntl.flock(handle, fcntl.LOCK_EX)
    yield
  finally:
    os.close(handle)


def _remove_if_dead(folder: pathlib.Path) -> None:
  """Removes what a process left behind that is no longer there."""
  with contextlib.suppress(OSError):
    if time.time() - folder.stat().st_mtime < _SECONDS:
      return
    handle = os.open(folder, os.O_RDONLY)
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
      shutil.rmtree(folder, ignore_errors=True)
    finally:
      os.close(handle)
