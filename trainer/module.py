"""What Lightning trains: a rating model, its loss, its figures and its optimiser."""

from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from trainer.augmentation import Augmentation
from trainer.augmenter import Augmenter
from trainer.losses import UncertaintyWeighting, masked_mae, masked_mse
from trainer.models import Batch, Mode, RatingModel, Size, Statistics
from trainer.optimiser import adamw
from trainer.pretrained import PREFIX, PretrainedOptions
from trainer.schedule import warmup_cosine
from trainer.scores import Scores


class Rater(LightningModule):
    """Trains a rating model and logs how it compares with rating all at the training mean."""

    def __init__(
        self,
        *,
        mode: Mode = "fusion",
        statistics: Statistics,
        sample_rate: int = 24000,
        dim: int = 96,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        wide_dropout: float = 0.1,
        modality_dropout: float = 0.1,
        audio_encoder: str = "mel",
        audio_layers: list[int] | None = None,
        frozen_layers: int | None = None,
        n_mels: int = 64,
        n_fft: int = 1024,
        hop_length: int = 480,
        gradient_checkpointing: bool = False,
        loss: Literal["mse", "uncertainty"] = "mse",
        learning_rate: float = 1e-3,
        backbone_learning_rate: float | None = None,
        wide_learning_rate: float | None = None,
        weight_decay: float = 0.05,
        warmup_fraction: float = 0.05,
        augment: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        """Build the model; all of it is plain values, which a checkpoint carries.

        Args:
            mode: what the model listens to: audio, midi, or fusion of both.
            statistics: mean and std by label name, from the training split's manifest.
            sample_rate: Hz of the audio, as the data section says.
            dim: width of the encoders, a multiple of heads.
            layers: transformer layers of each encoder.
            heads: attention heads.
            dropout: share of activations dropped in training.
            wide_dropout: share of the figures of a clip dropped in training, from which a linear
                layer rates beside the encoders; 1 is all of them.
            modality_dropout: share of training rows of which a fusion hears or reads nothing.
            audio_encoder: mel (log-mel and convolutions, trained here), or hf:NAME for a model of
                the Hugging Face hub, or of a folder (HuBERT, wav2vec 2.0, MERT).
            audio_layers: of an hf: encoder, whose outputs are weighed; null is all.
            frozen_layers: of an hf: encoder, not trained, from the bottom; null is all.
            n_mels: mel bands.
            n_fft: window of the spectrogram, samples.
            hop_length: step of the spectrogram, samples; the encoder's is eight times that.
            gradient_checkpointing: less memory for more time.
            loss: mse, or uncertainty, which learns how much each dimension counts.
            learning_rate: AdamW's, at the end of the warm-up.
            backbone_learning_rate: that of the encoders; null is the same.
            wide_learning_rate: that of the linear layer on the figures of a clip; null is the same.
            weight_decay: of matrices; vectors (biases, norms) have none.
            warmup_fraction: share of all steps in which the rate rises, in [0, 1].
            augment: what is done to training batches; null is nothing.
            seed: of the augmentation, as the data section says.

        Raises:
            ValueError: an option is out of range, or does not go with another.
            ImportError: the model takes audio, and torchaudio is not installed.
        """
        super().__init__()
        shares = {
            "dropout": dropout,
            "wide_dropout": wide_dropout,
            "modality_dropout": modality_dropout,
            "warmup_fraction": warmup_fraction,
        }
        for name, share in shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"model.{name} must be in [0, 1], got {share}")
        if dim < 1 or heads < 1 or dim % heads:
            raise ValueError(f"model.dim must be a multiple of model.heads, got {dim} and {heads}")
        # Not what only training needs, nor what is no plain value.
        self.save_hyperparameters(ignore=["augment", "seed"])
        size = Size(
            dim=dim,
            layers=layers,
            heads=heads,
            dropout=dropout,
            wide_dropout=wide_dropout,
            n_mels=n_mels,
            n_fft=n_fft,
            hop_length=hop_length,
            modality_dropout=modality_dropout,
            gradient_checkpointing=gradient_checkpointing,
            pretrained=_pretrained(audio_encoder, audio_layers, frozen_layers),
        )
        self.model = RatingModel(mode, statistics=statistics, sample_rate=sample_rate, size=size)
        self.scores = Scores(list(statistics))
        self.weighting = UncertaintyWeighting(len(statistics)) if loss == "uncertainty" else None
        self.augmenter = (
            None
            if augment is None
            else Augmenter(augment, mode=mode, sample_rate=sample_rate, seed=seed)
        )
        self.learning_rate = learning_rate
        self.backbone_learning_rate = backbone_learning_rate
        self.wide_learning_rate = wide_learning_rate
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, D) ratings in the labels' units."""
        ratings: Tensor = self.model(batch)
        return ratings

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; that of mse is in squared standard deviations of the labels."""
        spectrogram: Callable[[Tensor], Tensor] | None = None
        if self.augmenter is not None:
            batch, spectrogram = self.augmenter(
                batch, epoch=self.current_epoch, step=batch_idx, rank=self.global_rank
            )
        ratings = self.model.normalised(batch, spectrogram=spectrogram)
        target, weight = self.model.scale.normalise(batch["labels"]), batch["weight"]
        loss = (self.weighting or masked_mse)(ratings, target, weight=weight)
        mae = masked_mae(self.model.scale.restore(ratings), batch["labels"])
        rows = len(target)
        self.log("train/step_loss", loss, prog_bar=True, batch_size=rows)
        for name, value in (("train/loss", loss), ("train/mae", mae)):
            self.log(
                name, value.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=rows
            )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another mode's or other labels' weights by name, before torch does by shape.

        Raises:
            ValueError: the checkpoint is not of this mode, not of these dimensions, or of a model
                without a wide path, as those were at first.
        """
        theirs, ours = checkpoint["hyper_parameters"], self.hparams
        if "wide_dropout" not in theirs:
            raise ValueError(
                "the checkpoint is of an earlier model, without a wide path: train anew (--fresh)"
            )
        if theirs["mode"] != ours["mode"]:
            raise ValueError(f"the checkpoint was trained with --mode {theirs['mode']}")
        if list(theirs["statistics"]) != list(ours["statistics"]):
            names = ", ".join(theirs["statistics"])
            raise ValueError(f"the checkpoint rates other dimensions: {names}")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, and a schedule that ends with the last step of the run."""
        optimizer = adamw(
            self.parameters(),
            apart=[
                (self.model.backbone(), self.backbone_learning_rate),
                (list(self.model.wide.parameters()), self.wide_learning_rate),
            ],
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(total * self.warmup_fraction)
        schedule = LambdaLR(
            optimizer, lambda step: warmup_cosine(step, warmup_steps=warmup, total_steps=total)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _score(self, batch: Batch) -> None:
        scale, rated = self.model.scale, self.model.normalised(batch)
        target = scale.normalise(batch["labels"])
        self.scores.update(rated, target, std=scale.std, weight=batch["weight"])

    def _log_scores(self, stage: str) -> None:
        figures = {
            f"{stage}/{name}": v.float().to(self.device)
            for name, v in self.scores.compute().items()
        }
        self.scores.reset()
        # Equal on all ranks already; the mean over ranks only says so to Lightning.
        self.log_dict(figures, sync_dist=True)


def _pretrained(
    encoder: str, layers: list[int] | None, frozen_layers: int | None
) -> PretrainedOptions | None:
    """What ``model.audio_encoder`` asks for: None for log-mel.

    Raises:
        ValueError: it is neither, or an option of the one goes with the other.
    """
    if encoder.startswith(PREFIX):
        return PretrainedOptions(
            name=encoder.removeprefix(PREFIX),
            layers=None if layers is None else tuple(layers),
            frozen_layers=frozen_layers,
        )
    if encoder != "mel":
        raise ValueError(f"model.audio_encoder must be mel or {PREFIX}NAME, got {encoder!r}")
    for name, value in (("audio_layers", layers), ("frozen_layers", frozen_layers)):
        if value is not None:
            raise ValueError(
                f"model.{name} is of {PREFIX} encoders, and model.audio_encoder is mel"
            )
    return None
