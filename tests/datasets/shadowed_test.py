import subprocess
import sys
from pathlib import Path

import pytest

from trainer import plugins


@pytest.mark.parametrize(("target", "group"), [("datasets.anything:Source", "data"), ("dynamics", "tasks")])
def test_a_package_of_the_same_name_that_hides_ours_is_explained(tmp_path, target, group):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("")
    root = Path(plugins.__file__).resolve().parent.parent
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in str(finder).lower()]\n"
        "from trainer import plugins\n"
        f"try:\n    plugins.resolve({target!r}, {group!r})\n"
        "except plugins.ConfigError as e:\n    print(e)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True).stdout
    assert f"'datasets' at {tmp_path}/datasets, of another distribution, hides" in out
    assert f"Run from {root}" in out
