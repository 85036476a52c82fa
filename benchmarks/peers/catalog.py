"""Who is compared: a name for readers, a module of ``wiring``, and the venv in which it runs."""

from dataclasses import dataclass

from benchmarks.peers.setting import DECODED, FLAC, OURS, SOUNDFILE, USERS

ROWS = ((FLAC, USERS), (FLAC, SOUNDFILE), (FLAC, OURS), (DECODED, USERS))
OWN = ""  # the venv of the project itself


@dataclass(frozen=True, slots=True)
class Peer:
    """One line of the table.

    Attributes:
        module: in ``wiring``.
        venv: one of ``REQUIREMENTS``, or ``OWN``.
        limit: whether it is no loader but what no loader can pass.
        rows: what is stored and who decodes it, where not all ways make a difference.
    """

    name: str
    module: str
    venv: str
    limit: bool = False
    rows: tuple[tuple[str, str], ...] = ROWS


PEERS = (
    Peer("this project", "clavier", OWN),
    Peer("files, torch Dataset", "files", "shared"),
    Peer("webdataset", "webdataset", "shared"),
    Peer("wids", "wids", "shared"),
    Peer("mosaicml-streaming", "mosaicml", "mosaicml"),
    Peer("litdata", "litdata", "shared"),
    Peer("HF datasets, webdataset streamed", "hf_webdataset", "shared"),
    Peer("HF datasets, parquet streamed", "hf_parquet", "shared"),
    Peer("HF datasets, parquet mapped", "hf_mapped", "shared"),
    Peer("Megatron-Energon", "energon", "energon"),
    Peer("Lhotse Shar", "lhotse", "shared"),
    Peer("SPDL", "spdl", "shared"),
    Peer("Grain", "grain", "shared"),
    Peer("bare loop, 2 processes", "bare", OWN, limit=True, rows=(ROWS[2], ROWS[3])),
    Peer("copy of a batch in memory", "memory", OWN, limit=True, rows=(ROWS[3],)),
)

# In every venv: what decodes, and what this project's own functions need.
COMMON = (
    "fsspec[http]",
    "librosa",
    "miniaudio==1.71",
    "numpy",
    "packaging",
    "pretty_midi==0.2.11.post0",
    "pyyaml",
    "soundfile==0.14.0",
    "soxr",
    "symusic==0.5.9",
    "torchdata==0.11.0",
    "tqdm",
)
TORCH = "torch==2.13.0"
REQUIREMENTS = {
    "shared": (
        "datasets==5.2.0",
        "grain==0.2.18",
        "lhotse==1.33.0",
        "litdata==0.2.76",
        "spdl==0.8.0",
        "webdataset==1.0.2",
        "wids==0.1.11",
    ),
    "mosaicml": ("mosaicml-streaming==0.13.0",),
    "energon": ("megatron-energon[av-decode]==7.4.1",),
}
# Without what they require: later releases of it are built for CUDA and need its libraries.
ALONE = {"shared": ("torchcodec==0.12.0",)}
