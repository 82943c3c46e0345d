"""Python reads it as it starts, where this folder is on its path: here, too, the world models are gone."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from gone import Gone

sys.path.pop()
sys.meta_path.insert(0, Gone())
