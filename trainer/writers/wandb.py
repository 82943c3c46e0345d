"""Weights & Biases, where the extra `wandb` is installed."""

import html
import io
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import ConfigError, UserError, near_matches
from trainer.writers.base import Writer, utf8
from trainer.writers.console import say
from trainer.writers.media import file_name, gif_bytes, png_bytes, rate

_MODES = ("online", "offline", "disabled")


class WandbWriter(Writer):
    """Sends everything to Weights & Biases; needs the extra `wandb`.

    A continued run goes on under its id, which lies in `wandb_id` of the run folder. What was sent cannot be taken
    back: where a run was set back to a checkpoint, the steps after it appear twice. Curves are drawn over the scalar
    `step`, as Weights & Biases would drop what comes at an earlier step of its own count.

    Args:
      workdir: the run folder, whose name is the run's.
      project: the project.
      entity: the team or user; empty for the user's default.
      group: runs that belong together; empty for none.
      tags: of the run.
      mode: `online`, `offline` (kept in `wandb/` of the run folder, for `wandb sync`), `disabled`; empty for what the
        environment says (`WANDB_MODE`), and else `online`.
      fps: frames per second of videos.
    """

    def __init__(
        self, workdir: Path, project: str = "reverie", entity: str = "", group: str = "", tags: Sequence[str] = (),
        mode: str = "", fps: float = 8.0,
    ) -> None:  # fmt: skip
        if mode and mode not in _MODES:
            raise ConfigError(f"WandbWriter: no mode {mode!r}. {near_matches(mode, _MODES, 'Modes')}")
        try:
            import wandb

            _ = wandb.init  # a folder `wandb` of earlier runs can be imported, too
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                "the writer 'wandb' needs the package wandb: pip install 'reverie[wandb]' "
                "(in a checkout: pip install -c constraints.txt -e '.[wandb]')."
            ) from error
        self._wandb: Any = wandb
        self._workdir = Path(workdir)
        self._fps = rate(fps)
        self._settings = {
            "project": project, "entity": entity or None, "group": group or None, "tags": list(tags) or None,
            "mode": mode or None,
        }  # fmt: skip
        self._opened: Any = None

    def resume(self, step: int) -> None:
        """Opens the run, or opens it again."""
        _ = self._run

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars."""
        # Names that are empty or begin with "_" are wandb's own: it would drop or hide them.
        own = {name: f"scalar{name}" for name in scalars if not name or name.startswith("_")}
        self._log(step, {utf8(own.get(name, name)): value for name, value in scalars.items()})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures; N images are put one under the other."""
        self._log(step, {_key(name): self._image(image) for name, image in images.items()})

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray]) -> None:
        """Writes animated GIFs; N videos are put one under the other."""
        gifs = {_key(name): io.BytesIO(gif_bytes(video, self._fps)) for name, video in videos.items()}
        self._log(step, {name: self._wandb.Video(gif, format="gif") for name, gif in gifs.items()})

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts as they are."""
        pages = {_key(name): f"<pre>{html.escape(utf8(text))}</pre>" for name, text in texts.items()}
        self._log(step, {name: self._wandb.Html(page, inject=False) for name, page in pages.items()})

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the config."""
        self._run.config.update(dict(hparams), allow_val_change=True)

    def close(self) -> None:
        """Sends what is left; the run counts as failed where an exception is on its way."""
        if self._opened is not None:
            run, self._opened = self._opened, None
            run.finish(exit_code=0 if sys.exc_info()[0] is None else 1)

    @property
    def _run(self) -> Any:
        if self._opened is None:
            self._workdir.mkdir(parents=True, exist_ok=True)
            try:
                self._opened = self._wandb.init(
                    id=self._id(), resume="allow", name=self._workdir.resolve().name, dir=str(self._workdir),
                    reinit="create_new", settings=self._wandb.Settings(console="off", quiet=True), **self._settings,
                )  # fmt: skip
            except self._wandb.Error as error:
                raise UserError(
                    f"Weights & Biases: {error}. To keep the run here for `wandb sync`, give the writer mode=offline."
                ) from error
            self._opened.define_metric("step", hidden=True)
            self._opened.define_metric("*", step_metric="step")
            if not self._opened.offline and self._opened.url:
                say(f"Weights & Biases: {self._opened.url}")
        return self._opened

    def _id(self) -> str:
        """The run's id, made when it is opened for the first time."""
        path = self._workdir / "wandb_id"
        known = path.read_text().strip() if path.exists() else ""
        if not known:
            known = secrets.token_hex(8)
            path.write_text(f"{known}\n")
        return known

    def _image(self, image: np.ndarray) -> Any:
        from PIL import Image

        return self._wandb.Image(Image.open(io.BytesIO(png_bytes(image))))

    def _log(self, step: int, values: dict[str, Any]) -> None:
        self._run.log({**values, "step": step})


def _key(name: str) -> str:
    """A name whose parts are safe as files, as media are kept under it: `rollout/video`."""
    return "/".join(file_name(part) for part in name.split("/"))
