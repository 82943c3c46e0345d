"""`python -m datasets.build bouncing_square/reference`: the `tfds build` command, with all of its options.

The `tfds` script itself imports its format converter at start-up, and with it TensorFlow, which building needs nowhere.
"""

from absl import app
from tensorflow_datasets.scripts.cli import build, cli_utils

from datasets import builders

if __name__ == "__main__":
    for name in builders.own_names():
        builders.register(name)
    parse = cli_utils.make_flags_parser(build.Args, description="Writes data sets in the TFDS format.")
    app.run(lambda args: args.execute(), flags_parser=parse)
