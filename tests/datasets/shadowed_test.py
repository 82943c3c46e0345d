import subprocess
import sys
from pathlib import Path

from trainer import plugins


def test_a_package_of_the_same_name_that_hides_ours_is_explained(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("")
    root = Path(plugins.__file__).resolve().parent.parent
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from trainer import plugins\n"
        "try:\n    plugins.resolve('datasets.anything:Source', 'data')\n"
        "except plugins.ConfigError as e:\n    print(e)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True).stdout
    assert f"'datasets' at {tmp_path}/datasets, of another distribution, hides" in out
    assert f"Run from {root}" in out
