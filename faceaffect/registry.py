"""The closed tables of names that a recipe may use, and how a name becomes a class.

A recipe is data: a name outside these tables is an error, so no file can make the program import
or call something. Own components are added by the person at the keyboard, who imports a module
(``--import my_package.models``) that adds a line to a table::

    from faceaffect.registry import TABLES
    TABLES["models"]["mine"] = "my_package.models:Mine"
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from faceaffect.errors import RecipeError, unknown

_TRANSFORMS = "faceaffect.data.transforms"
_FACES = "faceaffect.data.faces"
_PROTOCOLS = "faceaffect.data.protocols"
_CALLBACKS = "faceaffect.runs.callbacks"
_LOGGERS = "faceaffect.runs.loggers"

TABLES: dict[str, dict[str, str]] = {
    "models": {
        "auformer": "faceaffect.models.auformer:AUFormer",
        "distillation": "faceaffect.models.distillation:Distillation",
        "comp_gan": "faceaffect.models.comp_gan:CompGan",
        "emert": "faceaffect.models.emert:Emert",
        "endpoint": "faceaffect.models.endpoint:EndpointModel",
        "face_analysis": "faceaffect.models.face_analysis:FaceAnalysis",
        "gimefive": "faceaffect.models.gimefive:GiMeFive",
        "emo_llama": "faceaffect.models.emo_llama.module:EmoLlama",
        "multiview_pretraining": "faceaffect.models.multiview_pretraining:MultiviewPretraining",
        "onnx": "faceaffect.models.onnx:Onnx",
        "mini_llama": "faceaffect.models.emo_llama.mini_llama:MiniLlama",
        "mini_vlm": "faceaffect.models.vlm.mini:MiniVlm",
        "sacl": "faceaffect.models.sacl:SACL",
        "table": "faceaffect.models.table:Table",
        "timm_classifier": "faceaffect.models.timm_classifier:TimmClassifier",
        "trained": "faceaffect.models.trained:Trained",
        "vlm": "faceaffect.models.vlm.module:Vlm",
        "vit_pretraining": "faceaffect.models.vit_pretraining:VitPretraining",
    },
    "priors": {
        "face_analysis": "faceaffect.models.emo_llama.face_prior:FaceAnalysisPrior",
        "fan": "faceaffect.models.emo_llama.fan_prior:FanPrior",
        "landmarks_106": "faceaffect.models.emo_llama.landmarks_prior:Landmarks106",
    },
    "minings": {
        "emola": "faceaffect.models.vlm.mining:EmolaOptions",
        "face_info_mining": "faceaffect.models.emo_llama.mining:MiningOptions",
        "face_llava": "faceaffect.models.vlm.mining:FaceLlavaOptions",
    },
    "data": {
        "affectnet": "faceaffect.data.affectnet:AffectNet",
        "affwild2": "faceaffect.data.affwild2:AffWild2",
        "bp4d": "faceaffect.data.bp4d:Bp4d",
        "bp4d_plus": "faceaffect.data.bp4d:Bp4dPlus",
        "casme2": "faceaffect.data.casme2:Casme2",
        "csv": "faceaffect.data.csv:CsvFaces",
        "dfew": "faceaffect.data.dfew:Dfew",
        "disfa": "faceaffect.data.disfa:Disfa",
        "disfa_plus": "faceaffect.data.disfa_plus:DisfaPlus",
        "emer": "faceaffect.data.emer:Emer",
        "expression_quartets": "faceaffect.data.synthetic.quartets:ExpressionQuartets",
        "faba_bench": "faceaffect.data.faba:FabaBench",
        "facial_expressions": "faceaffect.data.facial_expressions:FacialExpressions",
        "fer2013": "faceaffect.data.fer:Fer2013",
        "ferplus": "faceaffect.data.fer:FerPlus",
        "ferv39k": "faceaffect.data.ferv39k:Ferv39k",
        "folder": "faceaffect.data.folder:FolderFaces",
        "hf": "faceaffect.data.hub:HubFaces",
        "mafw": "faceaffect.data.mafw:Mafw",
        "mixture": "faceaffect.data.mixture:Mixture",
        "multiview": "faceaffect.data.multiview:MultiviewFaces",
        "rafdb": "faceaffect.data.rafdb:RafDb",
        "shards": "faceaffect.data.shards:Shards",
        "synthetic": "faceaffect.data.synthetic:SyntheticFaces",
        "template_labels": "faceaffect.data.template_labels:TemplateLabels",
    },
    "finders": {
        "face_alignment": f"{_FACES}.fan:FaceAlignment",
        "mtcnn": f"{_FACES}.mtcnn:Mtcnn",
        "uniface": f"{_FACES}.uniface:UniFace",
    },
    "protocols": {
        "all": f"{_PROTOCOLS}:All",
        "n_way_k_shot": "faceaffect.data.few_shot:NWayKShot",
        "lodo": "faceaffect.data.across:LeaveOneDatasetOut",
        "leave_one_subject_out": f"{_PROTOCOLS}:LeaveOneSubjectOut",
        "official": f"{_PROTOCOLS}:Official",
        "subject_kfold": f"{_PROTOCOLS}:SubjectKFold",
        "three_fold": f"{_PROTOCOLS}:ThreeFold",
    },
    "transforms": {
        "affine": f"{_TRANSFORMS}:Affine",
        "blur": f"{_TRANSFORMS}:Blur",
        "color_jitter": f"{_TRANSFORMS}:ColorJitter",
        "grayscale": f"{_TRANSFORMS}:Grayscale",
        "horizontal_flip": f"{_TRANSFORMS}:HorizontalFlip",
        "jpeg": f"{_TRANSFORMS}:Jpeg",
        "light": f"{_TRANSFORMS}:Light",
        "noise": f"{_TRANSFORMS}:Noise",
        "random_erasing": f"{_TRANSFORMS}:RandomErasing",
        "random_resized_crop": f"{_TRANSFORMS}:RandomResizedCrop",
    },
    "callbacks": {
        "early_stopping": f"{_CALLBACKS}:early_stopping",
        "gradient_accumulation": "lightning.pytorch.callbacks:GradientAccumulationScheduler",
        "learning_rate_monitor": "lightning.pytorch.callbacks:LearningRateMonitor",
        "model_summary": "lightning.pytorch.callbacks:RichModelSummary",
        "throughput": f"{_CALLBACKS}:throughput",
        "timer": "lightning.pytorch.callbacks:Timer",
    },
    "loggers": {
        "csv": "faceaffect.runs.logs:Utf8CSVLogger",
        "mlflow": f"{_LOGGERS}:mlflow",
        "tensorboard": f"{_LOGGERS}:tensorboard",
        "wandb": f"{_LOGGERS}:wandb",
    },
}

GIVEN_TO_LOGGERS = ("save_dir", "name", "folder")
"""Arguments that a logger gets from its run, where it takes them; a recipe does not name them."""


def as_node(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"name": value}`` for a scalar, which stands for it everywhere; a copy of a mapping.

    >>> as_node("all")
    {'name': 'all'}
    """
    return {"name": value} if isinstance(value, str) else dict(value)


def check_name(table: str, name: object, where: str | None = None) -> str:
    """Return the name if the table has it, without importing anything.

    Raises:
        RecipeError: the name is missing or not in the table; the nearest match is named.
    """
    where = where or f"{table.removesuffix('s')}.name"
    if not isinstance(name, str):
        raise RecipeError(
            f"{where}: a name is needed; choose one of: {', '.join(sorted(TABLES[table]))}"
        )
    if name not in TABLES[table]:
        raise RecipeError(unknown(where, name, TABLES[table]))
    return name


def get(table: str, name: str, where: str | None = None) -> Any:
    """Import and return the class or function behind a name of a table.

    Raises:
        RecipeError: the name is not in the table, or what it points to is not there or needs a
            package that is not installed.
    """
    path = TABLES[table][check_name(table, name, where)]
    module, _, attribute = path.partition(":")
    missing = f"{where or table}: '{name}' points to {path}, which is not there"
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise RecipeError(missing) from None
        raise RecipeError(
            f"{where or table}: '{name}' needs the package {error.name}: pip install {error.name}"
        ) from None
    if not hasattr(found, attribute):
        raise RecipeError(missing)
    return getattr(found, attribute)


def names_with(table: str, member: str) -> list[str]:
    """Return the names of a table whose class has a member, such as a method; imports them all."""

    def has(name: str) -> bool:
        try:
            return hasattr(get(table, name), member)
        except RecipeError:  # the package behind it is not installed
            return False

    return [name for name in sorted(TABLES[table]) if has(name)]


def name_of(table: str, component: type) -> str:
    """Return the name under which a class stands in a table, or its own path ``module:Class``."""
    path = f"{component.__module__}:{component.__qualname__}"
    return next((name for name, entry in TABLES[table].items() if entry == path), path)
