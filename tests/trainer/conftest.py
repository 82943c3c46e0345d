"""The trainer's tests run without the world models: neither they nor what they start can import one of them."""

import sys

import pytest
from gone import NAMES, Gone, python_path


@pytest.fixture(autouse=True, scope="module")
def _alone():
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in NAMES}
    gone = Gone()
    sys.meta_path.insert(0, gone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path())
        yield
    sys.meta_path.remove(gone)
    sys.modules.update(hidden)
