"""The fuzz targets, for seconds: what broke them once, and changes of good inputs, always the same.

``make fuzz`` runs them for minutes and longer, with atheris, which sees where an input leads.
"""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).parent.parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import seeds  # noqa: E402, lies there
from targets import TARGETS  # noqa: E402

EXAMPLES = 120
BORDERS = (
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"-1",
    b"1e999",
)
CASES = sorted(path for path in FUZZ.glob("cases/*/*"))


@st.composite
def changed(draw, name: str) -> bytes:
    """A good input with a few bytes replaced, put in, repeated or cut off."""
    data = draw(st.sampled_from(seeds.seeds(name)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        new = draw(st.binary(max_size=4) | st.sampled_from(BORDERS))
        gap = draw(st.sampled_from([0, 1, len(new), 8, 512]))
        data = data[:at] + new + data[at + gap :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_target(name):
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.binary(max_size=64) | changed(name) | changed(name))
    def run(data):
        TARGETS[name](data)

    run()


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_broke_a_target_once_does_not_again(case):
    TARGETS[case.parent.name](case.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_are_taken(name):
    for data in seeds.seeds(name):
        TARGETS[name](data)
