"""Starts several processes of one run on this machine."""

import os
import pathlib
import re
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def start(count, arguments):
  """Python processes of two devices each that find each other.

  Args:
    count: how many.
    arguments: `(process id, 'localhost:PORT') -> arguments of python`.
  """
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    at = f'localhost:{probe.getsockname()[1]}'
  # The tests' own flags with another number of devices.
  devices = r'(?<=--xla_force_host_platform_device_count=)\d+'
  flags = re.sub(devices, '2', os.environ['XLA_FLAGS'])
  return [
    subprocess.Popen(
      [sys.executable, *arguments(index, at)],
      cwd=ROOT,
      env={**os.environ, 'XLA_FLAGS': flags},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(count)
  ]
