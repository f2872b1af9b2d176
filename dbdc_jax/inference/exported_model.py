"""What is known of a trained model beside its weights, and its files."""

from collections.abc import Mapping
import copy
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections

from configs import common
from data import task_file
from data.preprocessing import planes
from data.task import Task
from dbdc_jax import methods
from dbdc_jax.evaluation.components import Choice, kept
from dbdc_jax.inference import stablehlo
from dbdc_jax.inference.trained_run import TrainedRun
from dbdc_jax.runtime.precision import compute_dtype
from dbdc_jax.workdir import export_folder, run_folder, run_record
from dbdc_jax.workdir.run_folder import RunFolder
from dbdc_jax.workdir.weights import Weights
from dbdc_jax.workdir.weights import save as save_weights


class ExportedNetwork(NamedTuple):
  """A network's weights and the modalities it takes, in bank order."""

  names: list[str]
  weights: Weights


class ExportedModel(NamedTuple):
  """All that an export holds.

  Attributes:
    source: the run or export that it comes from.
    config: the run's config.
    task: what is segmented.
    joint: whether one network takes all of them.
    networks: numpy weights.
    record: the run's record: classes, data, package versions, commit.
    scores: modality -> what `results.json` says of its test, or None.
    fit: modality -> what `fit.json` says, where there is one.
    components: modality -> what `components.json` says, where there is one.
    doubts: see `TrainedRun`.
  """

  source: pathlib.Path
  config: ml_collections.ConfigDict
  task: Task
  joint: bool
  networks: list[ExportedNetwork]
  record: dict[str, Any]
  scores: dict[str, Any]
  fit: dict[str, Any]
  components: dict[str, Choice]
  doubts: tuple[str, ...]

  @property
  def names(self) -> list[str]:
    """Modalities, in bank order."""
    return self.record['modalities']

  @property
  def classes(self) -> tuple[str, ...]:
    """Names, background first."""
    return self.task.classes


def _scores(files: RunFolder) -> dict[str, Any]:
  """Modality -> scores of its test, of a run or an export."""
  if model := files.read_if_there(export_folder.MODEL):
    return model['test']
  return files.read_if_there(run_folder.RESULTS).get('modalities', {})


def of_run(run: TrainedRun) -> ExportedModel:
  """Collects what is known of a run (or of an export)."""
  names = [modality.name for modality in run.modalities]
  first = run.networks[names[0]]
  parts = [names] if first.method.traits.joint else [[name] for name in names]
  files = RunFolder(run.folder)
  kept = ('packages', 'commit', 'modalities', 'classes', 'data')
  networks = []
  for part in parts:
    network = run.networks[part[0]]
    arrays = jax.device_get((network.params, network.memory))
    networks.append(ExportedNetwork(part, Weights(*arrays)))
  scores = _scores(files)
  return ExportedModel(
    source=run.folder,
    config=_portable(run.config, run.task),
    task=run.task,
    joint=first.method.traits.joint,
    networks=networks,
    record={key: files.record[key] for key in kept},
    scores={name: scores.get(name) for name in names},
    fit=files.of_modalities(run_folder.LOOKS),
    components=run.components,
    doubts=run.doubts,
  )


def _portable(
  config: ml_collections.ConfigDict, task: Task
) -> ml_collections.ConfigDict:
  """A run's config without the places of its machine."""
  config = copy.deepcopy(config)
  config.task = task.name
  config.init_from = ''
  for field in ('cache', 'split', *common.sources()):
    config.data[field] = ''
  return config


def of_modality(model: ExportedModel, name: str) -> dict[str, Any]:
  """What another model has to know of one modality; see `with_modality`."""
  return {
    'modality': name,
    'entry': task_file.to_dict(model.task)['modalities'][name],
    'classes': list(model.classes),
    'data': model.record['data'][name],
    'test': model.scores[name],
    'fit': model.fit.get(name),
    'components': model.components.get(name),
    **run_record.versions(),
  }


def with_modality(
  model: ExportedModel, said: Mapping[str, Any], weights: Weights
) -> ExportedModel:
  """A model that has one more modality.

  Args:
    model: without it.
    said: what `of_modality` said.
    weights: of the network with its rows, behind the others.
  """
  name = said['modality']
  names = [*model.names, name]
  task = task_file.to_dict(model.task)
  task['modalities'][name] = said['entry']
  config = copy.deepcopy(model.config)
  config.modalities = ','.join(names)
  data = {**model.record['data'], name: said['data']}
  # It was of the model's own scans alone.
  data.pop('hash', None)
  fit = model.fit if said['fit'] is None else model.fit | {name: said['fit']}
  # Rows of before the validation scans chose do not say.
  chosen = said.get('components')
  return model._replace(
    config=config,
    # Rows of before planes could be said are of axial slices.
    task=task_file.from_dict(task, model.task.name, 'axial'),
    networks=[ExportedNetwork(names, weights)],
    record=model.record | {'modalities': names, 'data': data},
    scores=model.scores | {name: said['test']},
    fit=fit,
    components=model.components | ({name: chosen} if chosen else {}),
  )


def write(model: ExportedModel, folder: pathlib.Path) -> dict[str, Any]:
  """Writes a model's files: as a run keeps them, weights, StableHLO.

  Args:
    model: what is written.
    folder: an empty one.

  Returns:
    What `model.json` says.
  """
  run_record.write_json(folder / run_folder.CONFIG, model.config.to_dict())
  run_record.write_json(folder / run_folder.RECORD, model.record)
  task_file.write(task_file.to_dict(model.task), folder / run_folder.TASK)
  if model.fit:
    run_record.write_json(folder / run_folder.LOOKS, model.fit)
  if model.components:
    run_record.write_json(folder / run_folder.COMPONENTS, model.components)
  config = copy.deepcopy(model.config)
  config.task = str(folder / run_folder.TASK)
  if config.dtype == 'auto':
    # Which of the three platforms it will run on is not known.
    config.dtype = 'float32'
  networks = []
  for names, learnt in model.networks:
    own = folder if model.joint else folder / names[0]
    own.mkdir(exist_ok=True)
    save_weights(learnt, own)
    config.modalities = ','.join(names)
    file = 'network' if model.joint else f'network_{names[0]}'
    predict = methods.build(config).predict
    networks.append(stablehlo.write(folder, file, predict, learnt, names))
  stablehlo.write_loader(folder)
  return _description(model, networks, str(compute_dtype(config.dtype)))


def _description(model, networks, dtype: str) -> dict[str, Any]:
  """The content of `model.json`."""
  patch = model.config.augment.patch_size
  entries = task_file.to_dict(model.task)['modalities']
  chosen, classes = model.task.select(','.join(model.names)), model.classes
  return {
    'method': model.config.method,
    'task': model.task.name,
    'classes': list(model.classes),
    'modalities': {
      modality.name: {
        'title': modality.title,
        'label_codes': {
          model.classes[index]: code
          for index, code in modality.written_codes().items()
        },
        'intensity': entries[modality.name]['intensity'],
        'mm_per_pixel': model.record['data'][modality.name]['mm_per_pixel'],
        'plane': modality.plane,
        # Of slices, rows and columns, where the plane says no view: axial.
        'axes': ''.join(planes.axes(modality.plane)),
      }
      for modality in chosen
    },
    'preprocessing': {
      'intensity': 'window, or darkest value (padding counts as dark, single'
      ' odd voxels do not count) to upper percentile of the volume, to [0, 1],'
      ' clipped',
      'roi': model.config.data.roi,
      'slice_size': model.config.data.slice_size,
      'patch_size': patch,
      'stride': patch // 2,
      'windows': 'softmax averaged where windows overlap',
    },
    'postprocessing': {
      # What the run's results have, and prediction does.
      'components': model.config.evaluation.components,
      # Of each class its largest (6 neighbours) alone, the rest background.
      'largest_component': {
        name: [classes[index] for index in kept(choice, classes)]
        for name, choice in model.components.items()
      },
    },
    'networks': networks,
    'compute_dtype': dtype,
    'data': model.record['data'],
    'test': model.scores,
    'doubts': list(model.doubts),
    'trained_with': {k: model.record[k] for k in ('packages', 'commit')},
    'exported_with': run_record.versions(),
  }
