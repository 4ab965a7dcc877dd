"""Where a backbone comes from: timm's registry, the model hub, a folder, a file, an asset."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from timm.models import get_pretrained_cfg, load_pretrained

from faceaffect.errors import CheckpointError, RecipeError, first_line, suggest
from faceaffect.networks.assets import asset_path
from faceaffect.networks.weights import load_asset, load_asset_metadata, read_weights

HUB_TIMEOUT = 10.0
"""Seconds that the model hub has to answer before it counts as unreachable."""

RESERVED = {
    "cache_dir", "checkpoint_path", "drop_path_rate", "features_only", "file", "img_size",
    "model_name", "num_classes", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
}  # fmt: skip
"""Arguments of timm that are not about the network, or that are set here."""

# Where timm looks for weights: always said outright, never taken from a description.
_PLACES = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "custom_load")

_OWN_PREFIX = "backbone.net."
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass
class Source:
    """What to build and where its weights lie.

    Attributes:
        name: the architecture in timm, with a tag where timm itself has the weights.
        config: timm's description of the weights (input size, mean, std, classifier, ...).
        args: arguments of the architecture.
        kind: "asset", "file" or "hub"; None for random weights.
        title: what names the weights.
        file: a file or folder with the weights; None for random weights.
        own: whether the weights are those that timm has for this name, so that timm reads them.
    """

    name: str
    config: dict[str, Any]
    args: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    title: str = ""
    file: Path | None = None
    own: bool = False


def find_source(
    name: str, pretrained: bool, weights: str | None, revision: str | None, *, fetch: bool
) -> Source:
    """Resolve a backbone's name; only ``pretrained`` lets it ask the hub.

    Args:
        name: as the other arguments, see :func:`faceaffect.networks.backbones.create_backbone`.
        pretrained: whether to take weights from the hub.
        weights: a file or folder with weights.
        revision: of the weights on the hub.
        fetch: whether weights are wanted; if not, the source has no ``file``.

    Raises:
        RecipeError: an unknown name, or settings that contradict each other.
        CheckpointError: what the name stands for is missing or cannot be fetched.
    """
    scheme, colon, place = name.partition(":")
    if not colon:
        scheme = "timm"
    if scheme not in ("timm", "asset", "hf-hub", "local-dir"):
        raise RecipeError(
            f"backbone.name: '{name}': a prefix is one of asset:, hf-hub:, local-dir:"
        )
    if weights is not None and (pretrained or scheme != "timm"):
        raise RecipeError(
            f"backbone.weights: '{name}' with pretrained={str(pretrained).lower()} "
            "names other weights already; give one source of weights"
        )
    if pretrained != (scheme == "hf-hub") and scheme != "timm":
        raise RecipeError(
            f"backbone.pretrained: must be {str(not pretrained).lower()} for '{name}'; "
            "it alone decides whether the hub may be asked"
        )
    if revision is not None and not pretrained:
        raise RecipeError(
            "backbone.revision: is about weights on the hub and needs pretrained: true"
        )
    if scheme == "asset":
        source = _asset(place)
    elif scheme == "local-dir":
        source = _folder(Path(place), "file", place)
    elif scheme == "hf-hub":
        config = hub_file(place, ["config.json"], revision)
        if fetch:
            hub_file(place, _WEIGHT_FILES, revision)
        source = _folder(config.parent, "hub", f"{place}{_commit(config)}")
    else:
        source = Source(name, _config(name))
        if weights is not None:
            source.kind, source.title, source.file = "file", weights, Path(weights)
        elif pretrained and fetch:
            _take_own_weights(source, revision)
    if not fetch:
        source.file = None
    return source


def hub_file(repo: str, names: list[str] | tuple[str, ...], revision: str | None = None) -> Path:
    """Return the first of some files that a repository of the hub has, downloaded if need be.

    A cached file is taken without asking. Before a download the hub is asked once: its client by
    itself keeps trying an unreachable hub for the better part of a minute.

    Args:
        repo: owner/name.
        names: files, the preferred one first.
        revision: branch, tag or commit.

    Raises:
        CheckpointError: the hub cannot be reached, or has no such repository, revision or file.
    """
    for name in names:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    for name in names:
        try:
            url = hf_hub_url(repo, name, revision=revision)
            get_hf_file_metadata(url, token=get_token(), timeout=HUB_TIMEOUT)
        except EntryNotFoundError:
            continue
        except Exception as error:
            raise _unreachable(repo, revision, error) from None
        try:
            return Path(hf_hub_download(repo, name, revision=revision))
        except Exception as error:
            raise _unreachable(repo, revision, error) from None
    raise CheckpointError(f"'{repo}' on the model hub has none of {', '.join(names)}")


def _unreachable(repo: str, revision: str | None, error: Exception) -> CheckpointError:
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(
            f"'{repo}' on the model hub has no revision '{revision}'; give a branch, a tag or a "
            "whole commit of it, or none for the newest"
        )
    what = f"'{repo}'" + (f" (revision {revision})" if revision else "")
    return CheckpointError(
        f"could not fetch {what} from {constants.ENDPOINT}: {first_line(error)}. To do without the "
        "hub, say pretrained: false and name what lies on this machine: a folder that "
        "save_pretrained wrote, or for a backbone weights: FILE.safetensors"
    )


def _config(name: str) -> dict[str, Any]:
    """Return timm's description of a name of its registry."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = suggest(architecture, timm.list_models())
        raise RecipeError(
            f"backbone.name: timm has no model '{architecture}'{near or '.'} "
            "'faceaffect ls backbones' lists them"
        )
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        raise RecipeError(
            f"backbone.name: timm has no weights '{tag}' for '{architecture}'"
            f"{suggest(tag, tags) or '.'} It has: {', '.join(tags) or 'none'}"
        ) from None
    return dataclasses.asdict(config) if config else {}


def _take_own_weights(source: Source, revision: str | None) -> None:
    repo = source.config.get("hf_hub_id")
    if not repo:
        raise RecipeError(f"backbone.pretrained: the hub has no weights of '{source.name}'")
    source.file = hub_file(repo, _WEIGHT_FILES, revision)
    source.kind, source.title, source.own = "hub", f"{repo}{_commit(source.file)}", True


def _commit(cached: Path) -> str:
    """Return the commit of a file in the hub's cache, as a suffix."""
    return f"@{cached.parent.name}" if cached.parent.parent.name == "snapshots" else ""


def _folder(folder: Path, kind: str, title: str) -> Source:
    file = folder / "config.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        name, described = about["architecture"], about["pretrained_cfg"]
    except FileNotFoundError:
        raise CheckpointError(
            f"backbone.name: no model of timm in {folder}: config.json is missing"
        ) from None
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: not a description by timm: {error!r}") from None
    config = {**_config(name), **described}
    args = {k: v for k, v in about.get("model_args", {}).items() if k not in RESERVED}
    return Source(name, config, args, kind, title, folder)


def _asset(name: str) -> Source:
    file = asset_path(name)
    about = load_asset_metadata(file)
    if isinstance(about.get("network"), dict):  # a whole model, around a backbone
        about = about["network"]
    if "architecture" not in about:
        raise RecipeError(f"backbone.name: the asset '{name}' is no backbone")
    size = about["image_size"]
    config = _config(about["architecture"]) | {
        "input_size": (3, size, size),
        **{key: about[key] for key in ("mean", "std", "interpolation")},
    }
    return Source(about["architecture"], config, about["args"], "asset", name, file)


def build(source: Source, size: int, options: Mapping[str, Any]) -> Any:
    """Build the network; weights that timm itself has for it are read along the way."""
    given = dict(options)
    if source.config.get("fixed_input_size"):
        given["img_size"] = size
    config = {key: value for key, value in source.config.items() if key not in _PLACES}
    if source.own:
        config["file"] = str(source.file)
    architecture = source.name.partition(".")[0]
    try:
        net = timm.create_model(
            architecture, pretrained=source.own, pretrained_cfg=config, num_classes=0, **given
        )
    except Exception as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in given.items()) or "no arguments"
        raise RecipeError(
            f"backbone: timm cannot build '{source.name}' with {shown}: {error}"
        ) from None
    if source.own and options:
        with torch.device("meta"):
            usual = timm.create_model(architecture, num_classes=0).state_dict()
        _complain_of_missing(source, [key for key in net.state_dict() if key not in usual])
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    patch = patch[0] if isinstance(patch, tuple) else patch
    if patch is not None and size % patch:
        raise RecipeError(
            f"backbone.image_size: {size} is no multiple of {patch}, the patch of {source.name}"
        )
    return net


def fill(net: Any, source: Source) -> None:
    """Load weights from a file, in whatever form timm knows for this architecture, all of them."""
    assert source.file is not None
    state = load_asset(source.file)[0] if source.kind == "asset" else read_weights(source.file)
    own = {
        key.removeprefix(_OWN_PREFIX): v for key, v in state.items() if key.startswith(_OWN_PREFIX)
    }
    missing: list[str] = []
    hook = net.register_load_state_dict_post_hook(
        lambda _, keys: missing.extend(
            k for k in keys.missing_keys if "num_batches_tracked" not in k
        )
    )
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    config = {
        "num_classes": 1000,
        **net.pretrained_cfg,
        "state_dict": own or state,
        "source": "",
    }
    try:
        load_pretrained(net, config, num_classes=0, filter_fn=convert, strict=False)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()[:4]]
        raise CheckpointError(
            f"{source.file}: does not fit {source.name}: {' '.join(lines)}"
        ) from None
    finally:
        hook.remove()
    _complain_of_missing(source, missing)


def _complain_of_missing(source: Source, missing: list[str]) -> None:
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise CheckpointError(
            f"{source.title}: lacks {len(missing)} weights of this {source.name}: {shown}"
        )
