"""Measurements as tables for the terminal, and as a file."""

import os
import pathlib
from typing import Any

from data.files import atomic


def _bytes(count: int | None) -> str:
  return '-' if count is None else f'{count / 2**20:.0f} MiB'


def steps_table(rows: list[dict[str, Any]]) -> str:
  """One line per measured step; the notes say what the columns are."""
  lines = [
    f'{"method":12s}{"K":>3s}{"width":>6s}{"patch":>6s}{"batch":>6s}'
    f'{"dtype":>10s}{"compile s":>10s}{"step ms":>9s}{"quartiles":>15s}'
    f'{"images/s":>9s}{"GMAC":>8s}{"GFLOP/s":>9s}{"share":>7s}'
    f'{"program":>10s}{"device":>10s}{"process":>10s}{"ratio":>7s}'
  ]
  fastest = min(row['median_ms'] for row in rows)
  for row in rows:
    low, high = row['quartile_low_ms'], row['quartile_high_ms']
    digits = 0 if low > 100 else 1
    quartiles = f'{low:.{digits}f}-{high:.{digits}f}'
    memory = row['memory']
    lines.append(
      f'{row["method"]:12s}{row["modalities"]:3d}{row["width"]:6d}'
      f'{row["patch"]:6d}{row["batch"]:6d}{row["dtype"]:>10s}'
      f'{row["compile_seconds"]:10.1f}{row["median_ms"]:9.1f}{quartiles:>15s}'
      f'{row["images_per_second"]:9.1f}{row["counted_macs"] / 1e9:8.2f}'
      f'{row["flops_per_second"] / 1e9:9.1f}'
      f'{row["share_of_matmul_rate"]:7.2f}{_bytes(memory["program"]):>10s}'
      f'{_bytes(memory["device"]):>10s}{_bytes(memory["process"]):>10s}'
      f'{row["median_ms"] / fastest:7.2f}'
    )
  rate = rows[0]['matmul_flops_per_second'] / 1e9
  lines += [
    'GMAC: multiply-accumulates of the convolutions and matrix products of a',
    'step as traced, forward and backward; GFLOP/s: twice that by the median;',
    f'share: of the {rate:.0f} GFLOP/s of a large matrix product, measured in',
    'this run. program: arguments, results and temporaries of the compiled',
    'step; device: the most it has held ("-": it does not count); process:',
    'peak resident memory; ratio: to the fastest row. Rows took turns.',
  ]
  return '\n'.join(lines)


def parts_table(parts: dict[str, dict[str, Any]]) -> str:
  """Each part's time and what leaving it out means."""
  lines = [f'{"whole step":12s}{parts["whole"]["ms"]:9.1f} ms']
  for name, part in parts.items():
    if name != 'whole':
      lines.append(
        f'{name:12s}{part["ms"]:9.1f} ms {100 * part["share"]:5.1f} %'
        f'  left out: {part["left_out"]}'
      )
  return '\n'.join(lines)


def _part_line(name: str, kinds: dict[str, Any], total: int, rate: int) -> str:
  """A part's kernels and GB, forward and backward, its share and floor."""
  columns = ''.join(
    f'{kind["kernels"]:9,d}{kind["bytes"] / 1e9:9.3f}'
    for kind in kinds.values()
  )
  moved = sum(kind['bytes'] for kind in kinds.values())
  share = f'{100 * moved / max(total, 1):.1f} %'
  return f'{name:36s}{columns}{share:>9s}{1e3 * moved / rate:10.3f}'


def compiled_table(found: dict[str, Any]) -> str:
  """What a program compiled for a GPU does, by part of the method."""
  rate, total = found['bytes_per_second'], found['bytes']
  memory = found['memory']
  kernels_gb = f'{"kernels":>9s}{"GB":>9s}'
  lines = [
    f'{found["card"]}: {found["method"]}, K={found["modalities"]}, width'
    f' {found["width"]}, {found["batch"]} slices of {found["patch"]} x'
    f' {found["patch"]}, {found["classes"]} classes, stride {found["stride"]},'
    f' {found["dtype"]}',
    f'{"":36s}{"forward":>18s}{"backward":>18s}',
    f'{"part":36s}{kernels_gb}{kernels_gb}{"share":>9s}{"floor, ms":>10s}',
  ]
  lines += [
    _part_line(part, kinds, total, rate)
    for part, kinds in found['parts'].items()
    if any(kind['kernels'] for kind in kinds.values())
  ]
  loops = f'loops: {found["loops"]}'
  if found['open_loops']:
    loops += f' ({found["open_loops"]} of unknown length, counted as run once)'
  lines += [
    f'{found["kernels"]:,d} kernels, {total / 1e9:.2f} GB, a floor of'
    f' {found["floor_ms"]:.2f} ms at {rate / 1e12:.2f} TB/s;'
    f' copies: {found["copies"]}, {loops}',
    f'arguments {_bytes(memory["arguments"])}, of which'
    f' {_bytes(memory["donated"])} are donated; temporaries'
    f' {_bytes(memory["temporaries"])}; compiled in'
    f' {found["compile_seconds"]:.0f} s',
  ]
  return '\n'.join(lines)


COMPILED_NOTES = """\
Kernels: what is started on the GPU. GB: read and written by them, every array
once and whole. floor: these bytes at the card's memory bandwidth, no measured
time; its cache may save some. backward: what differentiation made; forward:
all else. A kernel with several parts' work counts as one's. Nothing was run."""


def write_json(found: dict[str, Any], path: str | os.PathLike) -> None:
  """Writes the measurements; the file is whole or not there."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic.write_json(path, found, allow_nan=True)


def metrics_line(found: dict[str, Any]) -> str:
  """How long the scores of a volume take."""
  return (
    f'Dice and HD95 of {" x ".join(map(str, found["shape"]))} voxels, seven'
    f' structures: {found["seconds"]:.2f} s (Dice {found["dice"]:.2f}, HD95'
    f' {found["hd95_mm"]:.1f} mm)'
  )


def predict_line(found: dict[str, Any]) -> str:
  """How long a volume takes from file to file, and what of it does."""
  parts = ', '.join(
    f'{name} {found[name]:.2f}'
    for name in ('read', 'resample', 'network', 'write')
  )
  return (
    f'a volume of {" x ".join(map(str, found["shape"]))} voxels, file to file:'
    f' {found["total"]:.2f} s ({parts})'
  )
