"""The typed configuration: the YAML keys of the public MUNIT and UNIT trainers, and those of fastmunit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from fastmunit.errors import ConfigError
from fastmunit.files import expand, is_unicode, printable, write_text
from fastmunit.section import PathText, Section, brief, explain, nearest, plain
from fastmunit.yaml_file import parse_yaml, read_yaml

Activation = Literal["relu", "lrelu", "prelu", "selu", "tanh", "none"]
Padding = Literal["reflect", "replicate", "zero"]
Iterations = Annotated[int, Field(gt=0, le=10**12)]
Pixels = Annotated[int, Field(gt=0, le=65536)]
Channels = Annotated[int, Field(gt=0, le=8192)]
Levels = Annotated[int, Field(gt=0, le=16)]
Images = Annotated[int, Field(gt=0, le=65536)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_MAX_LISTED = 10
_POLICIES = ("color", "translation", "cutout")


def _factory_name(text: str) -> str:
    module, _, function = text.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise ValueError("expected package.module:factory, the name of a function that takes the configuration")
    return text


def _value_range(value: Any) -> Any:
    """Return "auto", None, [low, high], or a list of such pairs, with numbers as floats."""
    if value is None or (isinstance(value, str) and value == "auto"):
        return value
    pairs = value if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple) else [value]
    numbers = [_pair(pair) for pair in pairs]
    if None in numbers or not all(0 < pair[1] - pair[0] < math.inf for pair in numbers if pair is not None):
        raise ValueError("expected auto, [low, high] with low < high, or one such pair per channel")
    return numbers[0] if pairs[0] is value else numbers


def _window(value: Any) -> Any:
    """Return None or [center, width] as floats."""
    if value is None:
        return None
    pair = _pair(value)
    if pair is None or pair[1] <= 0:
        raise ValueError("expected [center, width] with a width above 0")
    return pair


def _pair(value: Any) -> list[float] | None:
    """Return a list of two finite numbers as floats, or None for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 2 or any(isinstance(part, bool) for part in value):
        return None
    try:
        numbers = [float(part) for part in value]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _policies(value: Any) -> list[str]:
    """Return a list of different names of policies of augmentation, in the order in which they are applied.

    A text is split at commas, as that of `eval_metrics` is.
    """
    value = _split(value)
    texts = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    if not texts or len(set(value)) < len(value) or not set(value) <= set(_POLICIES):
        raise ValueError(f"expected a list of {', '.join(_POLICIES)}, each at most once")
    return [policy for policy in _POLICIES if policy in value]


def _names(value: Any) -> Any:
    """Return None or a list of different texts."""
    if value is None:
        return None
    texts = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    if not texts or not value or len(set(value)) < len(value) or not all(0 < len(name) <= 200 for name in value):
        raise ValueError("expected a list of different names, of at most 200 characters each")
    if not all(map(is_unicode, value)):
        raise ValueError("a name is not UTF-8")
    return list(value)


def _measure_names(value: Any) -> Any:
    """Return None or a list of different texts. A text is split at commas, as the option --metrics is."""
    return _names(_split(value))


def _split(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


RangeKey: TypeAlias = Annotated[Literal["auto"] | list[float] | list[list[float]] | None, BeforeValidator(_value_range)]
WindowKey: TypeAlias = Annotated[list[float] | None, BeforeValidator(_window)]
NumberKey: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
PoliciesKey: TypeAlias = Annotated[list[str], BeforeValidator(_policies)]
NamesKey: TypeAlias = Annotated[list[str] | None, BeforeValidator(_names)]
MeasuresKey: TypeAlias = Annotated[list[str] | None, BeforeValidator(_measure_names)]


class GeneratorConfig(Section):
    """The sizes of a generator (`gen:`), see appendix B of the MUNIT paper."""

    dim: Channels = Field(default=64, description="Channels of the first layer.")
    mlp_dim: Channels = Field(
        default=256, description="Channels of the MLP that maps a style code to AdaIN parameters."
    )
    style_dim: Channels = Field(default=8, description="Length of a style code.")
    activ: Activation = Field(default="relu", description="Activation function.")
    n_downsample: int = Field(default=2, ge=0, le=16, description="Stride-2 convolutions of the content encoder.")
    n_res: int = Field(
        default=4, ge=0, le=1000, description="Residual blocks of the content encoder, and of the decoder."
    )
    pad_type: Padding = Field(default="reflect", description="Padding of convolutions.")


class DiscriminatorConfig(Section):
    """The sizes of a multi-scale discriminator (`dis:`)."""

    dim: Channels = Field(default=64, description="Channels of the first layer.")
    norm: Literal["none", "bn", "in", "ln", "sn"] = Field(
        default="none",
        description="Normalization: batch, instance or layer normalization, spectral normalization, or none.",
    )
    activ: Activation = Field(default="lrelu", description="Activation function.")
    n_layer: Levels = Field(default=4, description="Stride-2 convolutions per scale.")
    gan_type: Literal["lsgan", "nsgan", "hinge"] = Field(default="lsgan", description="Adversarial loss.")
    num_scales: Levels = Field(default=3, description="Scales, each with half the resolution of the one before.")
    pad_type: Padding = Field(default="reflect", description="Padding of convolutions.")


class Config(Section):
    """The configuration of a training run.

    It has the keys of the public MUNIT and UNIT configuration files, followed by those of fastmunit. Loss weights
    multiply the terms of equation 5 of the MUNIT paper.
    """

    system: str = Field("munit", description="System to train: munit, unit, cyclegan or bicyclegan.")
    options: Annotated[dict[str, Any], BeforeValidator(plain)] = Field(
        default_factory=dict, description="Keys that only this system has."
    )

    image_save_iter: Iterations = Field(10000, description="Iterations between saved sample grids.")
    image_display_iter: Iterations = Field(500, description="Iterations between updates of the current sample grids.")
    display_size: Images = Field(16, description="Images per sample grid.")
    snapshot_save_iter: Iterations = Field(10000, description="Iterations between checkpoints.")
    log_iter: Iterations = Field(10, description="Iterations between logged losses.")

    max_iter: Iterations = Field(1000000, description="Iterations of the whole training.")
    batch_size: Images = Field(1, description="Images of each domain per iteration.")
    weight_decay: Weight = Field(0.0001, description="Weight of the L2 penalty that Adam adds to the gradients.")
    beta1: float = Field(0.5, ge=0, lt=1, description="Decay of Adam's average of gradients.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay of Adam's average of squared gradients.")
    init: Literal["gaussian", "xavier", "kaiming", "orthogonal", "default"] = Field(
        "kaiming", description="Initial weights. Discriminators of MUNIT and UNIT always start from gaussian."
    )
    lr: LearningRate = Field(0.0001, description="Learning rate of Adam.")
    lr_policy: Literal["constant", "step", "linear"] | None = Field(
        "step",
        description="How the learning rate changes. step: times gamma every step_size iterations. linear: to 0 at "
        "max_iter.",
    )
    step_size: Iterations = Field(
        100000,
        description="Iterations between learning rate drops. linear: iterations before the decay to 0 at max_iter.",
    )
    gamma: float = Field(0.5, gt=0, le=1, description="Factor of each learning rate drop.")
    gan_w: Weight = Field(1, description="Weight of the adversarial loss.")
    recon_x_w: Weight = Field(10, description="Weight of the image reconstruction loss.")
    recon_s_w: Weight = Field(1, description="Weight of the style code reconstruction loss.")
    recon_c_w: Weight = Field(1, description="Weight of the content code reconstruction loss.")
    recon_x_cyc_w: Weight = Field(0, description="Weight of the style-augmented cycle consistency loss.")
    vgg_w: Weight = Field(0, description="Weight of the domain-invariant perceptual loss.")
    recon_h_w: Weight = Field(0, description="Unused: a key of public UNIT files.")
    recon_kl_w: Weight = Field(0.01, description="UNIT: weight of the KL divergence of the latent code.")
    recon_kl_cyc_w: Weight = Field(0.01, description="UNIT: weight of the KL divergence of the code of translations.")
    vgg_model_path: PathText | None = Field(None, description="Folder that contains VGG-16 as models/vgg16.weight.")

    gen: GeneratorConfig = Field(default_factory=GeneratorConfig)
    dis: DiscriminatorConfig = Field(default_factory=DiscriminatorConfig)

    input_dim_a: Channels = Field(3, description="Image channels of domain A.")
    input_dim_b: Channels = Field(3, description="Image channels of domain B.")
    num_workers: int = Field(8, ge=0, le=1024, description="Worker processes that load images.")
    new_size: Pixels | None = Field(None, description="Shorter side of images after resizing, in pixels.")
    new_size_a: Pixels | None = Field(None, description="new_size of domain A.")
    new_size_b: Pixels | None = Field(None, description="new_size of domain B.")
    crop_image_height: Pixels = Field(256, description="Height of training crops, in pixels.")
    crop_image_width: Pixels = Field(256, description="Width of training crops, in pixels.")
    flip: bool = Field(True, description="Mirror half of the training images.")
    data_root: PathText | None = Field(None, description="Folder that contains trainA, trainB, testA and testB.")
    data_folder_train_a: PathText | None = Field(None, description="Folder of the training images of domain A.")
    data_list_train_a: PathText | None = Field(
        None, description="File that lists training images of domain A, one path per line."
    )
    data_folder_test_a: PathText | None = Field(None, description="Folder of the test images of domain A.")
    data_list_test_a: PathText | None = Field(
        None, description="File that lists test images of domain A, one path per line."
    )
    data_folder_train_b: PathText | None = Field(None, description="Folder of the training images of domain B.")
    data_list_train_b: PathText | None = Field(
        None, description="File that lists training images of domain B, one path per line."
    )
    data_folder_test_b: PathText | None = Field(None, description="Folder of the test images of domain B.")
    data_list_test_b: PathText | None = Field(
        None, description="File that lists test images of domain B, one path per line."
    )
    data_module: Annotated[str, AfterValidator(_factory_name)] | None = Field(
        None,
        description="package.module:factory that returns the images, instead of folders and lists. Its code is run.",
    )

    pairs: Literal["unpaired", "folders", "side_by_side"] = Field(
        "unpaired", description="folders: equal file names in A and B. side_by_side: left half A, right half B."
    )

    max_pixels: Annotated[int, Field(gt=0, le=10**12)] | None = Field(
        None, description="Maximum number of pixels of an image. Not set: Pillow's limit, 179 megapixels."
    )

    value_range_a: RangeKey = Field(
        None,
        description="Stored values that become -1 and 1: [low, high], or one such pair per channel. auto: percentiles "
        "of the training images. Not set: the range of the type.",
    )
    value_range_b: RangeKey = Field(None, description="value_range_a for domain B.")
    window_a: WindowKey = Field(
        None,
        description="[center, width]: another way to write value_range_a: [center - width / 2, center + width / 2].",
    )
    window_b: WindowKey = Field(None, description="window_a for domain B.")
    nodata_a: NumberKey | None = Field(None, description="Stored value of pixels without data, besides NaN.")
    nodata_b: NumberKey | None = Field(None, description="nodata_a for domain B.")
    channel_names_a: NamesKey = Field(None, description="Channels to read by name from files that name them.")
    channel_names_b: NamesKey = Field(None, description="channel_names_a for domain B.")
    slices: int = Field(1, ge=1, le=255, description="Neighboring slices of a volume that form one image: 1, 3, 5, ...")
    background_a: Literal["auto", "none"] | NumberKey = Field(
        "auto",
        description="Stored value of the background of slides and volumes, whose regions are not trained on. auto: the "
        "low or the high end of the value range. none: train on all regions.",
    )
    background_b: Literal["auto", "none"] | NumberKey = Field("auto", description="background_a for domain B.")
    min_foreground: float = Field(
        0.1, ge=0, le=1, description="Share of a region's pixels that must not be background or without data."
    )

    eval_iter: Iterations | None = Field(None, description="Iterations between evaluations. Not set: none.")
    eval_metrics: MeasuresKey = Field(
        None,
        description="Measures of `fastmunit evaluate`; the first decides which checkpoint is the best. Not set: KID "
        "and LPIPS diversity, if their weights are on this machine.",
    )
    eval_direction: Literal["a2b", "b2a"] = Field("a2b", description="Direction that is evaluated.")
    eval_inputs: int = Field(50, ge=2, le=65536, description="Test images that an evaluation translates.")
    eval_samples: int = Field(4, ge=2, le=65536, description="Outputs per test image, with fixed styles.")
    eval_patience: Annotated[int, Field(gt=0, le=10**6)] | None = Field(
        None,
        description="End the training after this many evaluations in which no measure improves beyond its interval. "
        "Not set: never.",
    )

    seed: int = Field(0, ge=0, lt=2**63, description="Seed of weights, style codes, image order and augmentation.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of convolutions and matrix products."
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto", description="Layout of feature maps and weights. auto: channels_last unless precision is float32."
    )
    compile: bool = Field(False, description="Compile the networks with torch.compile.")
    cuda_graph: bool | Literal["auto"] = Field(
        "auto", description="Replay iterations as CUDA graphs. auto: on a GPU, except in float16 or with compat."
    )
    parallel_streams: bool | Literal["auto"] = Field(
        "auto",
        description="Run the networks of both domains, the scales of their discriminators and weight gradients at the "
        "same time, on four CUDA streams. auto: in iterations that are replayed.",
    )
    cudnn_search: bool = Field(
        True,
        description="On a GPU, let cuDNN search for the fastest algorithm of each convolution whose shape recurs.",
    )
    recompute: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Recompute padded feature maps in backward. auto: if precision is float32, whose maps are large.",
    )
    checkpointing: bool = Field(
        False, description="Save only the inputs of networks for backward, which needs less memory."
    )
    micro_batches: Images = Field(
        1, description="Number of equal parts that a batch is computed in. Their gradients are summed."
    )
    gradient_compression: Literal["none", "bfloat16"] = Field(
        "none", description="Several processes: type that gradients are rounded to when they are averaged."
    )
    overlap_communication: bool = Field(
        False, description="Several processes: average gradients while backward still computes others."
    )
    lr_dis: LearningRate | None = Field(
        None, description="Learning rate of the discriminators' Adam. Not set: lr, for both."
    )
    lr_warmup: int = Field(
        0, ge=0, le=10**12, description="Iterations in which the learning rates rise linearly from 0. 0: no warm-up."
    )
    ema_warmup: bool = Field(
        False, description="In iteration t, use a decay of at most (1 + t) / (10 + t) instead of ema_decay."
    )
    dis_augment: PoliciesKey = Field(
        default_factory=list,
        description="Augmentation of the images that discriminators see, real and fake: any of color, translation, "
        "cutout.",
    )
    dis_augment_target: float | None = Field(
        None,
        gt=-1,
        lt=1,
        description="Augment with a probability that keeps the mean sign of the discriminators' outputs for real "
        "images at this value, such as 0.6. Not set: augment every image.",
    )
    dis_augment_ramp: Iterations = Field(
        20000, description="Images in which the probability of dis_augment_target can rise from 0 to 1."
    )
    r1_w: Weight = Field(0, description="Weight of the R1 penalty: the discriminators' squared gradient, halved.")
    r1_iter: Iterations = Field(16, description="Iterations between R1 penalties, each multiplied by this number.")
    share_fakes: bool = Field(
        False, description="MUNIT, UNIT: draw styles or noise once per iteration instead of twice."
    )
    ema_decay: float = Field(
        0, ge=0, lt=1, description="Decay of the moving average of generator weights. 0: no average."
    )

    @model_validator(mode="after")
    def _perceptual_loss_needs_rgb(self) -> Config:
        if self.vgg_w > 0 and (self.input_dim_a, self.input_dim_b) != (3, 3):
            raise ValueError("vgg_w > 0 needs input_dim_a = input_dim_b = 3: VGG-16 takes RGB; set vgg_w to 0")
        return self

    @model_validator(mode="after")
    def _warm_up_needs_an_average(self) -> Config:
        if self.ema_warmup and self.ema_decay == 0:
            raise ValueError("ema_warmup needs an ema_decay above 0: without it, there is no average")
        return self

    @model_validator(mode="after")
    def _regularization_fits_the_discriminators(self) -> Config:
        if self.dis_augment_target is not None and not self.dis_augment:
            raise ValueError("dis_augment_target needs dis_augment: name what to augment by, such as [color, cutout]")
        if self.r1_w > 0 and self.dis.norm == "bn":
            raise ValueError(
                "r1_w > 0 needs dis.norm none, in, ln or sn: with bn, an output depends on the whole batch, and not on "
                "the image whose gradient is penalized"
            )
        return self

    @model_validator(mode="after")
    def _one_resize_rule(self) -> Config:
        if self.new_size is not None and (self.new_size_a is not None or self.new_size_b is not None):
            raise ValueError("give either new_size or new_size_a and new_size_b, not both")
        return self

    @model_validator(mode="after")
    def _values_fit_the_channels(self) -> Config:
        if self.slices % 2 == 0:
            raise ValueError(f"slices = {self.slices}: expected an odd number, the slice itself and its neighbors")
        for domain in "ab":
            values, window = getattr(self, f"value_range_{domain}"), getattr(self, f"window_{domain}")
            names, channels = getattr(self, f"channel_names_{domain}"), getattr(self, f"input_dim_{domain}")
            if values is not None and window is not None:
                raise ValueError(f"give either value_range_{domain} or window_{domain}: a window is a value range")
            if values is None and window is None and getattr(self, f"nodata_{domain}") is not None:
                raise ValueError(f"nodata_{domain} needs value_range_{domain} or window_{domain}: give one of them")
            if channels % self.slices:
                raise ValueError(
                    f"slices = {self.slices} needs an input_dim_{domain} that is a multiple of it, got {channels}: "
                    "set it to slices times the channels of a file"
                )
            counts = {"channel_names": names, "value_range": values if _is_nested(values) else None}
            for key, given in counts.items():
                if given is not None and len(given) != channels // self.slices:
                    raise ValueError(
                        f"{key}_{domain} has {len(given)} entries, but there are {channels // self.slices} channels "
                        f"(input_dim_{domain} {channels}): give one per channel"
                    )
        return self

    @property
    def size_a(self) -> int | None:
        """Shorter side of the images of domain A after resizing, in pixels, or None to keep their size."""
        return self.new_size if self.new_size is not None else self.new_size_a

    @property
    def size_b(self) -> int | None:
        """Shorter side of the images of domain B after resizing, in pixels, or None to keep their size."""
        return self.new_size if self.new_size is not None else self.new_size_b

    def learning_rate(self, half: str) -> float:
        """Return the learning rate of a half of an iteration, "dis" or "gen", without its schedule."""
        return self.lr_dis if half == "dis" and self.lr_dis is not None else self.lr

    def channels(self, direction: str) -> tuple[int, int]:
        """Return the numbers of image channels of the source and target domain of "a2b" or "b2a"."""
        pair = (self.input_dim_a, self.input_dim_b)
        return pair if direction == "a2b" else pair[::-1]

    @classmethod
    def shipped(cls) -> list[str]:
        """Return the names of the configurations in the package."""
        folder = resources.files("fastmunit") / "configs"
        return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
        """Read a YAML file, or a shipped configuration by name, and apply "key=value" overrides.

        Args:
            name_or_path: Path of a YAML file, or a name that `Config.shipped` lists. The public file names, which end
                in "_folder", work too.
            overrides: Texts such as ["lr=0.0002", "gen.dim=32"]. Values are parsed as YAML.

        Raises:
            ConfigError: If the file is missing or not YAML, or a key or value is wrong.

        Example:
            >>> config = fastmunit.Config.load("edges2shoes", ["lr=0.0002", "gen.dim=32"])
            >>> config.lr, config.gen.dim, config.crop_image_height
            (0.0002, 32, 256)
        """
        name = str(name_or_path)
        try:
            path = Path(expand(os.fspath(name_or_path)))
        except ValueError as error:
            raise ConfigError(f"configuration {brief(name)}: {error}.") from error
        is_file = os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises in a folder without permission
        if not is_file and name.removesuffix("_folder") in cls.shipped():
            shipped = resources.files("fastmunit") / "configs" / f"{name.removesuffix('_folder')}.yaml"
            values = parse_yaml(shipped.read_text("utf-8"), name)
        elif is_file or not _is_missing(path):
            values = read_yaml(path, "configuration")
        else:
            raise ConfigError(
                f"configuration {brief(name)} is neither a file nor a shipped name; "
                f"shipped: {', '.join(cls.shipped())}."
            )
        source = printable(name)
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ConfigError(f"{source} must have 'key: value' lines at its top level.")
        for override in overrides:
            _apply_override(values, override)
        return cls.from_dict(values, source=source)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = "configuration") -> Config:
        """Check a mapping with the structure of the YAML file and fill in defaults.

        Args:
            values: Keys and values; `gen`, `dis` and `options` are mappings.
            source: Name of the origin of the values, for error messages.

        Raises:
            ConfigError: If there is an unknown key (the most similar valid key is named) or a wrong value.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source}: expected a mapping of keys to values, got {type(values).__name__}.")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(explain(error, cls, source)) from None

    def to_dict(self) -> dict[str, Any]:
        """Return a nested dict of all keys, as `MUNIT` and scripts for the public trainer take it."""
        return self.model_dump()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the configuration as YAML, without keys that are not set. Raises FastmunitError if that fails."""
        fields = type(self).model_fields
        values = {k: v for k, v in self.model_dump().items() if v is not None or fields[k].default is not None}
        write_text(path, yaml.safe_dump(values, sort_keys=False))


def _is_nested(values: Any) -> bool:
    return isinstance(values, list) and isinstance(values[0], list)


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # read_yaml reports it
        return False
    return False


def unknown_keys(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the unknown keys of a mapping, each with the most similar valid key ("" if there is none)."""
    unknown: dict[str, tuple[str, type[Section], str]] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            continue  # Config.from_dict reports it
        if key not in Config.model_fields:
            unknown[key] = (key, Config, "")
        elif key in ("gen", "dis") and isinstance(value, Mapping):
            section = GeneratorConfig if key == "gen" else DiscriminatorConfig
            unknown |= {
                f"{key}.{inner}": (inner, section, f"{key}.")
                for inner in value
                if isinstance(inner, str) and inner not in section.model_fields
            }
    # The search is slow, and messages list only a few keys.
    return {name: nearest(*about) if k < _MAX_LISTED else "" for k, (name, about) in enumerate(unknown.items())}


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {brief(override)}: expected key=value (for example gen.dim=32).")
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {brief(override)}: {brief(parent)} is not a section.")
    values[last] = parse_yaml(text, f"override {brief(override)}: the value")
