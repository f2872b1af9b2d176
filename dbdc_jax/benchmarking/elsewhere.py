"""A workload that is looked at in a process of its own, with other devices."""

from collections.abc import Mapping
import dataclasses
import importlib
import json
import os
import subprocess
import sys
from typing import Any

from dbdc_jax.benchmarking.workload import Workload, use_virtual_devices


def count(
  module: str,
  workload: Workload,
  environment: Mapping[str, str],
  what: str,
  devices: int = 1,
  **options: str,
) -> dict[str, Any]:
  """What a module's own `count` returns in another process.

  Args:
    module: its name.
    workload: what it looks at.
    environment: what differs there from this process's.
    what: is done, for the error.
    devices: of the CPU that the process has.
    **options: more arguments of the module's `count`.

  Raises:
    RuntimeError: the process failed; with its last words.
  """
  given = json.dumps([module, devices, dataclasses.asdict(workload), options])
  done = subprocess.run(
    [sys.executable, '-m', __spec__.name, given],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f'{what} failed: {done.stderr[-2000:]}')
  return json.loads(done.stdout.splitlines()[-1])


if __name__ == '__main__':
  # The other process: it prints what `count` reads, one line of JSON.
  name, number, fields, given = json.loads(sys.argv[1])
  use_virtual_devices(number)
  found = importlib.import_module(name).count(Workload(**fields), **given)
  print(json.dumps(found))
