"""Batches arrive on the device that was asked for."""

import logging

import corpus
import pytest
import torch

from loader import make_pipeline

SMALL = {"sample_rate": corpus.SAMPLE_RATE, "clip_seconds": 1.0, "max_notes": 4, "batch_size": 8}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_all_tensors_go_to_the_device_and_audio_as_float32(dataset):
    with make_pipeline(dataset, device="meta", audio_dtype="int16", **SMALL) as pipe:
        batch = next(iter(pipe))
        sample = pipe[batch["__key__"][0]]
    tensors = [v for found in (batch, sample) for v in found.values() if torch.is_tensor(v)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch["audio"].dtype == sample["audio"].dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_batches_stay_in_memory_with_a_warning(dataset, caplog):
    with caplog.at_level(logging.WARNING), make_pipeline(dataset, device="cuda", **SMALL) as pipe:
        batch = next(iter(pipe))
    assert batch["audio"].device.type == "cpu"
    assert "finds no CUDA" in caplog.text


@needs_cuda
def test_batches_on_the_gpu_are_those_in_memory(dataset):
    with (
        make_pipeline(dataset, device="cuda", **SMALL) as there,
        make_pipeline(dataset, **SMALL) as here,
    ):
        for _ in range(3):
            for moved, plain in zip(there, here, strict=True):
                assert moved["audio"].is_cuda
                for name, value in plain.items():
                    if torch.is_tensor(value):
                        assert torch.equal(
                            moved[name].cpu().nan_to_num(-9), value.nan_to_num(-9)
                        ), name


@needs_cuda
def test_batches_held_on_the_gpu_stay_intact(dataset):
    with make_pipeline(dataset, device="cuda", shuffle=0, **SMALL) as pipe:
        held = [batch for _ in range(20) for batch in pipe]
        torch.cuda.synchronize()
        epoch = len(held) // 20
        for number, batch in enumerate(held):
            assert torch.equal(batch["audio"], held[number % epoch]["audio"])
