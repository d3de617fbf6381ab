"""What config.json says: the schema of a model's folder."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from hashzoo.codes import MAX_BITS, MIN_BITS
from hashzoo.errors import ConfigError, short
from hashzoo.files import read_bytes, read_json_value

MAX_ITEMS, MAX_TEXT = 64, 1000  # of a component's args: values in a list, characters of a text
NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"


class Schema(BaseModel):
    """Base of every file schema: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=96)]


class ComponentRef(Schema):
    """A component by its registry name; code is never named by path.

    Attributes:
        package: the distribution that registers it; named when it is not installed.
        args: of its constructor, which says what it takes (see `hashzoo.arguments`): names, with numbers, truth values and
            short texts, or lists of them.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=192)]
    package: Name | None = None
    args: dict[str, Any] = {}

    @pydantic.field_validator("args")
    @classmethod
    def _are_small(cls, args: dict[str, Any]) -> dict[str, Any]:
        if len(args) > MAX_ITEMS:
            raise ValueError(f"there are at most {MAX_ITEMS} arguments")
        for name, value in args.items():
            if not (name.isidentifier() and _is_small(name) and _is_small(value)):
                raise ValueError(
                    f"an argument is a name with a finite number, true, false or a short text, or a list of up to {MAX_ITEMS}"
                )
        return args


Side = Annotated[int, Field(ge=8, le=1024)]  # of an input image, pixels
Channels = tuple[float, float, float]


class PreprocessConfig(Schema):
    """From an RGB image to the network's input.

    Attributes:
        size: height and width of the input, pixels.
        fit: "squash" resizes both sides to `size`; "crop" resizes the shorter side and cuts the centre.
        interpolation: of the resize; always antialiased.
        mean: per RGB channel, of pixel values scaled to 0..1.
        std: likewise.
    """

    size: tuple[Side, Side]
    fit: Literal["squash", "crop"] = "crop"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)


Classes = Annotated[tuple[Annotated[str, Field(max_length=512)], ...], Field(max_length=1 << 16)]


class BackboneSource(Schema):
    """The model whose file holds a backbone's tensors.

    Attributes:
        model: its name in the zoo.
        weights_sha256: of that file.
        repo, commit: where the Hub has it, should the zoo have another file under that name one day.
    """

    model: Name
    weights_sha256: Hash
    repo: Annotated[str, Field(max_length=192)] | None = None
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None


class ModelConfig(Schema):
    """config.json of a model: everything `hashzoo.load` needs beside the weights.

    Attributes:
        format: version of this schema; a newer one is refused. `as_json` writes the lowest that says everything.
        name: `method-backbone-dataset-NNbit`, with an optional `.tag`; a key, never parsed.
        method, dataset: None of a network that no method trained, or no data set.
        classes: of the data set; empty where there are none.
        dtype: of the stored matrices; vectors (biases, batch-norm) are stored in float32.
        weights_sha256: of model.safetensors.
        backbone_from: a model with the very same backbone; model.safetensors then holds the other tensors alone.
        nested: shorter code lengths whose codes are the first bits of these, ascending.
    """

    format: Literal[1, 2] = 1
    name: Name
    method: str | None = None
    bits: Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)]
    backbone: ComponentRef
    head: ComponentRef
    quantizer: ComponentRef
    preprocess: PreprocessConfig
    dataset: str | None = None
    classes: Classes = ()
    multi_label: bool = False
    dtype: Literal["float16", "float32"] = "float16"
    weights_sha256: Hash
    backbone_from: BackboneSource | None = None
    license: str = "apache-2.0"
    nested: Annotated[tuple[Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)], ...], Field(max_length=64)] = ()

    def as_json(self) -> str:
        """Write config.json in the lowest format that says everything, so that older releases read what they can."""
        data = self.model_dump(mode="json", exclude_none=True)
        if not self.nested:
            del data["nested"]
        backbone = data.get("backbone_from", {})
        newer = {"nested"} & data.keys() or {"repo", "commit"} & backbone.keys()
        data["format"] = 2 if newer or self.method is None or self.dataset is None else 1
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


S = TypeVar("S", bound=BaseModel)


def validate(schema: type[S], data: object, what: str) -> S:
    """Check `data` against `schema`.

    Raises:
        ConfigError: one sentence naming `what`, the field, and what is wrong with it.
    """
    formats = get_args(schema.model_fields["format"].annotation) if "format" in schema.model_fields else ()
    if formats and isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > max(formats):
        raise ConfigError(
            f"{what} has format {data['format']}, this hashzoo reads up to {max(formats)}; update with "
            "`pip install --upgrade hashzoo`."
        )
    try:
        return schema.model_validate(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if not first["loc"] and first["type"] == "value_error":  # what its own validators say of the whole
            raise ConfigError(f"{what}: {first['ctx']['error']}.") from error
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"{what}: {short(field)} is no key that this hashzoo knows; if a newer one wrote it, update with "
                "`pip install --upgrade hashzoo`."
            ) from error
        raise ConfigError(f"{what}: {short(field)} is wrong ({first['msg']}, got {short(first['input'])}).") from error


def read_json(schema: type[S], path: str | os.PathLike[str]) -> S:
    """Read a JSON file and check it against `schema`.

    Raises:
        ConfigError: the file is missing, is no JSON, or does not follow the schema.
    """
    path = Path(path)
    try:
        data = read_json_value(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; a model's folder needs it.") from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({getattr(error, 'strerror', None) or error}).") from error
    return validate(schema, data, str(path))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: the file is missing or is no TOML.
    """
    import tomllib

    path = Path(path)
    try:
        return tomllib.loads(read_bytes(path).decode())
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing.") from error
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as TOML ({getattr(error, 'strerror', None) or error}).") from error


def _is_small(value: object, depth: int = 2) -> bool:
    """Whether it is a plain value of a bounded size, or a list, or a list of lists, of such values."""
    if isinstance(value, list | tuple):
        return depth > 0 and len(value) <= MAX_ITEMS and all(_is_small(item, depth - 1) for item in value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 2**53)
