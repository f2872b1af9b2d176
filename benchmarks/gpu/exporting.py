"""Part `export`: the exported network on the device, and the commands."""

import hashlib
import json
import pathlib
import shutil
import sys
import time

import jax
import numpy as np

from benchmarks.gpu import clock, plan, steps, training, workspace
from dbdc_jax.benchmarking import workload as workloads
from dbdc_jax.inference import load_network, stablehlo

_MODALITIES = ('m0', 'm1')


def _write(method, weights, classes: int, folder: pathlib.Path) -> int:
  """Writes the network and its model.json; returns the network's bytes."""
  folder.mkdir(exist_ok=True)
  said = stablehlo.write(
    folder, 'network', method.predict, weights, _MODALITIES
  )
  code = (folder / said['file']).read_bytes()
  model = {
    'modalities': _MODALITIES,
    'classes': [f'class {c}' for c in range(classes)],
    'networks': [said],
    'files': {said['file']: hashlib.sha256(code).hexdigest()},
  }
  (folder / 'model.json').write_text(json.dumps(model))
  return len(code)


def _compare(context: plan.Context, found: plan.Found) -> None:
  """The exported network on the device and on the CPU."""
  workload = steps.workload('dbdc_heart_f32', context.tiny)
  method = workloads.build_method(workload)
  folder = workspace.work() / 'artifact'
  start = time.perf_counter()
  weights = workloads.initial(workload)
  found['bytes'] = _write(method, weights, workload.classes, folder)
  found['write_seconds'] = time.perf_counter() - start
  run = load_network.load('m1', folder)
  batch = 4 if context.tiny else 64
  shape = (batch, workload.patch, workload.patch, 1)
  images = np.random.default_rng(0).random(shape, np.float32)
  start = time.perf_counter()
  got = np.asarray(run(images))
  found['first_call_seconds'] = time.perf_counter() - start
  with jax.default_device(jax.local_devices(backend='cpu')[0]):
    want = np.asarray(run(images))
  away = np.linalg.norm(got - want) / np.linalg.norm(want)
  found['logits_rel'] = float(away)
  equal = float((got.argmax(-1) == want.argmax(-1)).mean())
  found['labels_equal'] = equal
  here = jax.device_put(images)
  _, piped = clock.seconds(lambda: run(here), 10)
  found['images_per_second'] = batch / piped
  found['lines'].append(
    f'artifact on {jax.default_backend()}: logits {away:.1e} from the CPU,'
    f' labels {100 * equal:.2f} % equal, {batch / piped:.0f} images/s (float32)'
  )
  found.save()


def _commands(run: pathlib.Path) -> dict[str, list[str | pathlib.Path]]:
  """`export` of the trained run, and `predict` with what it wrote."""
  new, target = workspace.work() / 'new', workspace.work() / 'exported'
  new.mkdir(exist_ok=True)
  scans = (workspace.work() / 'cache').rglob('ct_train/*_image.nii.gz')
  for image in sorted(scans)[:2]:
    shutil.copyfile(image, new / image.name)
  return {
    'export': [
      'dbdc_jax.export',
      *('--run', run),
      *('--output', target),
      '--overwrite',
    ],
    'predict': [
      'dbdc_jax.predict',
      *('--run', target),
      *('--modality', 'ct'),
      *('--input', new),
      *('--output', workspace.work() / 'segmented'),
      '--overwrite',
    ],
  }


def measure(context: plan.Context, name: str, found: plan.Found) -> None:
  """The artifact, then the commands `export` and `predict`."""
  del name
  found['lines'] = []
  _compare(context, found)
  run = workspace.work() / training.RUN
  if not (run / 'results.json').exists():
    found['lines'].append('no finished run: the commands were not tried')
    return
  for key, command in _commands(run).items():
    if context.left() < 20:
      break
    seconds = max(15, context.left() - 10)
    told = workspace.outcome([sys.executable, '-m', *command], seconds)
    code, found[key] = told['exit_code'], told
    if code:
      found['state'] = f'failed: {key} ended with {code}'
    found['lines'].append(f'{key}: exit code {code}, {told["seconds"]} s')
    found.save()
