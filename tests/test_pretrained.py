"""trainer.pretrained: encoders that others trained, loaded whole or refused by name."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loader.backends import import_torchaudio
from trainer.models import RatingModel, Size
from trainer.pretrained import PretrainedEncoder, PretrainedOptions

with suppress(ImportError):  # transformers would import it, extension and all
    import_torchaudio()
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

RATE = 16000
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 4),
    "conv_stride": (5, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}


def save(folder: Path, kind: str = "Hubert", *, masked: bool = True, **options: Any) -> Path:
    """A tiny model of random weights and its preprocessor, as on the hub."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SHAPE | options)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    preprocessor = {"sampling_rate": RATE, "do_normalize": True, "return_attention_mask": masked}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def encoder(folder: Path, *, sample_rate: int = RATE, **options: Any) -> PretrainedEncoder:
    chosen = PretrainedOptions(name=str(folder), **options)
    return PretrainedEncoder(chosen, sample_rate=sample_rate, dim=8)


def clips(rows: int = 2, samples: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    audio = torch.randn(rows, samples, generator=torch.Generator().manual_seed(3)) * 0.1
    return audio, torch.full((rows,), samples)


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("hubert"), feat_extract_norm="layer")


@pytest.mark.parametrize("kind", ["Hubert", "Wav2Vec2"])
@pytest.mark.parametrize("stable", [False, True])
def test_layers_are_those_of_the_whole_model(kind: str, stable: bool, tmp_path: Path):
    save(tmp_path, kind, do_stable_layer_norm=stable, feat_extract_norm="layer")
    made = encoder(tmp_path, layers=(0, 2)).eval()
    whole = getattr(transformers, f"{kind}Model").from_pretrained(tmp_path).eval()
    audio, frames = clips()
    normal = (audio - audio.mean(1, keepdim=True)) / (
        audio.var(1, False, keepdim=True) + 1e-7
    ).sqrt()
    layers = whole(normal, output_hidden_states=True).hidden_states
    torch.testing.assert_close(made(audio, frames).values, made.out((layers[0] + layers[2]) / 2))
    assert len(made.backbone.encoder.layers) == 2


def test_padding_changes_nothing_and_is_marked(hubert: Path):
    made, (audio, frames) = encoder(hubert).eval(), clips()
    longer = torch.cat([audio, torch.zeros(2, 1600)], dim=1)
    short, long = made(audio, frames), made(longer, frames)
    assert int(long.mask.sum()) == int(short.mask.sum()) == short.mask.numel()
    torch.testing.assert_close(long.values[long.mask], short.values[short.mask], atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [10, 4000])
def test_empty_clips_are_finite(hubert: Path, samples: int):
    made = encoder(hubert, frozen_layers=1)
    audio, frames = torch.zeros(2, samples), torch.zeros(2, dtype=torch.int64)
    found = made(audio, frames)
    found.values.sum().backward()
    assert found.mask[:, 0].all()
    assert torch.isfinite(found.values).all()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


def test_only_what_lies_above_the_frozen_layers_is_trained(hubert: Path):
    made = encoder(hubert, frozen_layers=2).train()
    trained = {n for n, p in made.backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("encoder.layers.2.") for name in trained)
    assert [layer.training for layer in made.backbone.encoder.layers] == [False, False, True]
    made(*clips()).values.square().sum().backward()
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)
    frozen = encoder(hubert)
    assert not any(p.requires_grad for p in frozen.backbone.parameters())


def test_training_masks_nothing_by_numpys_generator(hubert: Path):
    """HuBERT would by itself, and a resumed run would differ."""
    made = encoder(hubert, frozen_layers=0).train()
    before = np.random.get_state()[1].tolist()
    made(*clips())
    assert np.random.get_state()[1].tolist() == before


def test_another_sample_rate_is_refused_with_both_keys(hubert: Path):
    with pytest.raises(
        ValueError, match=r"model\.audio_encoder.*16000 Hz.*--data\.sample_rate 16000"
    ):
        encoder(hubert, sample_rate=24000)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"layers": (4,)}, r"model\.audio_layers must be in \[0, 3\]"),
        ({"layers": ()}, r"model\.audio_layers"),
        ({"frozen_layers": 4}, r"model\.frozen_layers must be in \[0, 3\]"),
    ],
)
def test_layers_that_are_not_there_are_refused_by_key(hubert: Path, options: Any, key: str):
    with pytest.raises(ValueError, match=key):
        encoder(hubert, **options)


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_mert_is_loaded_as_the_hubert_that_it_is(tmp_path: Path):
    save(tmp_path, feat_extract_norm="layer")
    plain = encoder(tmp_path).eval()
    # Code beside the weights, which raises when run.
    (tmp_path / "modeling_MERT.py").write_text("raise SystemExit('code was run')\n")
    code = {"AutoConfig": "modeling_MERT.C", "AutoModel": "modeling_MERT.M"}
    rewrite(tmp_path, model_type="mert_model", auto_map=code, feature_extractor_cqt=False)
    mert = encoder(tmp_path).eval()
    mert.load_state_dict(plain.state_dict())
    torch.testing.assert_close(mert(*clips()).values, plain(*clips()).values)
    rewrite(tmp_path, feature_extractor_cqt=True)
    with pytest.raises(ValueError, match=r"feature_extractor_cqt.*never run"):
        encoder(tmp_path)


def test_other_kinds_missing_weights_and_missing_files_are_refused(tmp_path: Path):
    save(tmp_path, feat_extract_norm="layer")
    rewrite(tmp_path, num_hidden_layers=4)
    with pytest.raises(ValueError, match=r"lacks the weights encoder\.layers\.3"):
        encoder(tmp_path)
    rewrite(tmp_path, model_type="bert")
    with pytest.raises(ValueError, match="is of type bert"):
        encoder(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        encoder(tmp_path)


def test_a_missing_transformers_is_named_with_its_pip_line(
    hubert: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'clavier-data\[hf-models\]'"):
        encoder(hubert)


def test_a_fusion_hears_through_it_and_its_backbone_is_told_apart(hubert: Path):
    options = PretrainedOptions(name=str(hubert), frozen_layers=2)
    size = Size(dim=8, layers=1, heads=2, dropout=0.0, pretrained=options)
    statistics = {"a": {"mean": 0.0, "std": 1.0}}
    made = RatingModel("fusion", statistics=statistics, sample_rate=RATE, size=size)
    nn.init.normal_(made.heads[0][-1].weight)
    audio, frames = clips()
    batch = {"audio": audio, "audio_frames": frames, "midi": torch.ones(2, 3, 8).long()}
    rated = made.eval()(batch | {"midi_notes": torch.tensor([3, 0])})
    other = made(batch | {"midi_notes": torch.tensor([3, 0]), "audio": audio * 0.5 + 0.1})
    assert torch.isfinite(rated).all()
    assert rated.shape == other.shape == (2, 1)
    owners = {name.partition(".")[0] for name, p in made.named_parameters()
              if any(p is other for other in made.backbone())}  # fmt: skip
    assert owners == {"audio", "midi"}
