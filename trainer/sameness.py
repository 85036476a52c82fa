"""Whether a config is that of an earlier run, but for what does not change what is learned."""

from collections.abc import Iterator, Mapping
from typing import Any

# Keys that may change between a run and its continuation: how long, where, and what is told.
FREE = frozenset(
    {
        *("config", "ckpt_path", "weights_only", "out", "fresh"),
        *("checkpoint_minutes", "log_keys", "auto_batch_size", "early_stopping"),
        *("trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps"),
        "trainer.default_root_dir",
        *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
        *("trainer.logger", "trainer.log_every_n_steps", "trainer.profiler"),
        *("trainer.enable_checkpointing", "trainer.enable_progress_bar"),
        *("trainer.enable_model_summary", "trainer.enable_autolog_hparams"),
        *("trainer.num_sanity_val_steps", "trainer.limit_test_batches"),
        *("data.shards", "data.val_shards", "data.storage_options", "data.num_workers"),
        *("data.prefetch", "data.cache", "data.cache_dir", "data.cache_bytes", "data.cache_mount"),
    }
)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys in which a config differs from an earlier one, each a line with both values."""
    old, new = dict(flat(before)), dict(flat(now))
    keys = [key for key in {**old, **new} if not _is_free(key)]
    return [
        f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in keys
        if old.get(key) != new.get(key)
    ]


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a config by their paths, such as ``data.batch_size``."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _shown(config: Mapping[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "(not there)"
