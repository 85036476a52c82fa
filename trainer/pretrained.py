"""A pretrained audio encoder from the Hugging Face hub or a folder, by way of transformers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loader.backends import import_torchaudio
from trainer.attention import Encoded, real_positions

if TYPE_CHECKING:
    from types import ModuleType

PREFIX = "hf:"
_KEY = "model.audio_encoder"
_CLASSES = {
    "hubert": "HubertModel",
    "wav2vec2": "Wav2Vec2Model",
    # MERT is HuBERT under another name, unless its config asks for one of _ONLY_MERT.
    "mert_model": "HubertModel",
}
_ONLY_MERT = ("feature_extractor_cqt", "deepnorm")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedOptions:
    """Which encoder, and what of it is used and trained.

    Attributes:
        name: of a model on the hub, or a folder that ``save_pretrained`` wrote.
        layers: whose outputs are weighed: 0 is what goes into the first transformer layer, n what
            comes out of layer n; None is all.
        frozen_layers: how many transformer layers from the bottom are not trained; None is all.
            What lies below them never is.
    """

    name: str
    layers: tuple[int, ...] | None = None
    frozen_layers: int | None = None


class PretrainedEncoder(nn.Module):
    """HuBERT, wav2vec 2.0 or MERT: a learned weighting of its layers, brought to ``dim``.

    The weighting is that of SUPERB (Yang et al., 2021): a softmax over one scalar a layer.
    """

    def __init__(
        self,
        options: PretrainedOptions,
        *,
        sample_rate: int,
        dim: int,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Load the weights; no code that comes with them is run.

        Args:
            options: which encoder, and what of it.
            sample_rate: Hz of the audio to come; must be what the encoder was trained on.
            dim: width of what comes out.
            gradient_checkpointing: compute trained layers twice instead of keeping them.

        Raises:
            ImportError: transformers is not installed.
            ValueError: the model is of another kind, was trained on another rate, or has no such
                layers; the message names the key of the config.
        """
        super().__init__()
        transformers = _transformers()
        self.normalised, self.masked = _preprocessing(transformers, options.name, sample_rate)
        self.backbone = _load(transformers, options.name)
        depth = len(self.backbone.encoder.layers)
        self.layers = _chosen(options.layers, depth=depth)
        # What lies above the topmost layer in use would be computed for nothing.
        del self.backbone.encoder.layers[max(self.layers) :]
        self.trained = _trained_layers(self.backbone, options.frozen_layers, depth=depth)
        if gradient_checkpointing and self.trained:
            self.backbone.gradient_checkpointing_enable()
        self.mixing = nn.Parameter(torch.zeros(len(self.layers)))
        width = int(self.backbone.config.hidden_size)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
        self.train(self.training)

    def forward(self, audio: Tensor, audio_frames: Tensor) -> Encoded:
        """Encode a batch of clips.

        Args:
            audio: (B, T) float32 in [-1, 1].
            audio_frames: (B,) int64, how many of the T samples are real; may be 0.

        Returns:
            Values (B, S, dim), S by the encoder's convolutions. The first position of a row is
            always real.
        """
        audio = self._padded(audio)
        if self.normalised:
            audio = _standardised(audio, audio_frames)
        mask = real_positions(audio.shape[1], audio_frames.clamp(min=self._shortest()))
        found = self.backbone(
            audio, attention_mask=mask.long() if self.masked else None, output_hidden_states=True
        ).hidden_states
        weights = torch.softmax(self.mixing, dim=0)
        mixed = sum(w * found[n] for w, n in zip(weights, self.layers, strict=True))
        values: Tensor = self.out(mixed)
        real = self.backbone._get_feat_extract_output_lengths(audio_frames).clamp(min=1)
        return Encoded(values, real_positions(values.shape[1], real))

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Set the mode of what is trained; what is frozen stays without dropout.

        So does the model itself, which would leave out layers at random, and mask by numpy's
        global generator.
        """
        super().train(mode)
        self.backbone.eval()
        for layer in self.trained:
            layer.train(mode)
        return self

    def _shortest(self) -> int:
        """Samples that give one position."""
        config, samples = self.backbone.config, 1
        for kernel, stride in zip(
            reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
        ):
            samples = (samples - 1) * stride + kernel
        return int(samples)

    def _padded(self, audio: Tensor) -> Tensor:
        return nn.functional.pad(audio, (0, max(0, self._shortest() - audio.shape[1])))


def _transformers() -> ModuleType:
    # transformers imports torchaudio by itself, which fails where its extension does not load.
    with suppress(ImportError):
        import_torchaudio()
    try:
        import transformers  # heavy, and needed for encoders that somebody else trained alone
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ImportError(
            f"{_KEY}: {PREFIX}... needs transformers: pip install 'clavier-data[hf-models]'"
        ) from None
    return transformers


def _preprocessing(transformers: ModuleType, name: str, sample_rate: int) -> tuple[bool, bool]:
    """Whether clips are standardised and masked; refuses another sample rate."""
    try:
        found, _ = transformers.Wav2Vec2FeatureExtractor.get_feature_extractor_dict(name)
    except OSError as error:
        raise ValueError(
            f"{_KEY}: {PREFIX}{name} has no preprocessor_config.json that can be read, which "
            f"tells its sample rate: {_first_line(error)}"
        ) from error
    rate = int(found["sampling_rate"])
    if rate != sample_rate:
        raise ValueError(
            f"{_KEY}: {PREFIX}{name} was trained on {rate} Hz, data.sample_rate is {sample_rate}: "
            f"--data.sample_rate {rate} brings the audio to it"
        )
    return bool(found.get("do_normalize", True)), bool(found.get("return_attention_mask", False))


def _load(transformers: ModuleType, name: str) -> Any:
    """The model, whole: every weight that it needs is in the file."""
    try:
        plain, _ = transformers.PretrainedConfig.get_config_dict(name)
    except OSError as error:
        raise ValueError(f"{_KEY}: {PREFIX}{name}: {_first_line(error)}") from error
    kind = str(plain.get("model_type"))
    if kind not in _CLASSES:
        raise ValueError(
            f"{_KEY}: {PREFIX}{name} is of type {kind}; what works: {', '.join(_CLASSES)}"
        )
    if special := [key for key in _ONLY_MERT if plain.get(key)]:
        raise ValueError(
            f"{_KEY}: {PREFIX}{name} sets {special[0]}, which is in MERT's own code alone; code "
            "that comes with weights is never run here: take a MERT without it (v1-95M)"
        )
    model_class = getattr(transformers, _CLASSES[kind])
    model, report = model_class.from_pretrained(
        name, config=_config(model_class, plain), output_loading_info=True
    )
    # Only training on speech would use it.
    if missing := sorted(set(report["missing_keys"]) - {"masked_spec_embed"}):
        raise ValueError(f"{_KEY}: {PREFIX}{name} lacks the weights {', '.join(missing[:3])}")
    return model


def _config(model_class: Any, plain: dict[str, Any]) -> Any:
    """The model's config, without what names another kind of model or code."""
    foreign = ("auto_map", "model_type", "architectures")
    return model_class.config_class(**{k: v for k, v in plain.items() if k not in foreign})


def _chosen(layers: tuple[int, ...] | None, *, depth: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(depth + 1))
    if not layers or not all(0 <= layer <= depth for layer in layers):
        raise ValueError(f"model.audio_layers must be in [0, {depth}], got {list(layers)}")
    return layers


def _trained_layers(backbone: Any, frozen: int | None, *, depth: int) -> list[nn.Module]:
    """Freeze all but the layers above the frozen ones, and return those."""
    if frozen is not None and not 0 <= frozen <= depth:
        raise ValueError(f"model.frozen_layers must be in [0, {depth}], got {frozen}")
    backbone.requires_grad_(False)
    trained = list(backbone.encoder.layers[depth if frozen is None else frozen :])
    for layer in trained:
        layer.requires_grad_(True)
    return trained


def _standardised(audio: Tensor, frames: Tensor) -> Tensor:
    """Every clip to mean 0 and variance 1 over its real samples; padding stays 0."""
    mask = real_positions(audio.shape[1], frames)
    count = frames.clamp(min=1)[:, None]
    centred = torch.where(mask, audio - (audio * mask).sum(1, keepdim=True) / count, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred / (variance + 1e-7).sqrt()


def _first_line(error: OSError) -> str:
    return str(error).strip().partition("\n")[0]
