"""Phase 1: the causal tokenizer, trained by masked autoencoding (Dreamer 4, arXiv:2509.24527, §3.1)."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import functional, lpips
from models.metrics import psnr
from models.normalization import RunningRms, init_rms, normalize
from models.tokenizer import Tokenizer, TokenizerConfig, from_patches, random_patch_mask, to_float, to_patches
from models.transformer import TransformerConfig
from tasks import pictures
from tasks.batches import first_rows
from trainer import hosts
from trainer.errors import ConfigError, check_fields
from trainer.task import Batch, Comparison, Evaluation, Evaluator, LossOutput, Task, Upstream

MAX_MASK_PROBABILITY = 0.9  # Dreamer 4, §3.1: p ~ U(0, 0.9)


class TokenizerTask(Task):
    """Reconstructs frames from a few latent tokens, with patches hidden in training only.

    Args:
      model: fields of `models.tokenizer.TokenizerConfig`; `image` is taken from the data.
      masked_share: share of the frames of a clip that are masked at all (Dreamer 4: all).
      masked_share_stills: the same for frames without a past: clips of one frame and rows of unrelated frames. What is
        hidden there cannot be known from other frames, which slows learning. [ours]
      latent_noise: standard deviation of the noise added to the latents in training; it makes near latents decode to
        near frames, so that the dynamics' small errors stay small. [ours]
      lpips_weight: weight of the perceptual loss beside the MSE (Dreamer 4: 0.2); 0 for none.
      lpips_weights: the file of its published weights, see `models.lpips`.
      clips: held-out clips that the reconstruction evaluator measures.
    """

    def __init__(
        self, *, model: Mapping[str, Any], masked_share: float = 1.0, masked_share_stills: float = 1.0,
        latent_noise: float = 0.0, lpips_weight: float = 0.0, lpips_weights: str | None = None, clips: int = 64,
    ):  # fmt: skip
        for name, share in (("masked_share", masked_share), ("masked_share_stills", masked_share_stills)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {share}")
        if clips < 1:
            raise ValueError(f"clips must be at least 1, got {clips}")
        self._model_fields = dict(model)
        self.masked_share = masked_share
        self.masked_share_stills = masked_share_stills
        self.latent_noise = latent_noise
        self.lpips_weight, self.lpips_weights = lpips_weight, lpips_weights
        self.clips = clips

    def setup(self, upstream: Mapping[str, Upstream], example: Batch) -> None:
        """Sizes the model for the data's frames."""
        del upstream
        image = tuple(example["frames"].shape[-3:])
        wanted = tuple(self._model_fields.get("image", image))
        if wanted != image:
            raise ConfigError(f"task.model.image = {wanted}, but the data has frames of {image}; leave it out.")
        check_fields(TokenizerConfig, self._model_fields, "task.model")
        for half in ("encoder", "decoder"):
            check_fields(TransformerConfig, self._model_fields.get(half, {}), f"task.model.{half}")
        try:
            self.config = TokenizerConfig.from_dict({**self._model_fields, "image": image})
        except (TypeError, ValueError) as e:
            raise ConfigError(f"task.model: {e}") from e

    def frozen(self) -> Mapping[str, Any]:
        """The perceptual loss's network, where it is used; read here, as later phases do without its file."""
        if not self.lpips_weight:
            return {}
        try:
            return {"lpips": lpips.load(self.lpips_weights or "(task.lpips_weights is not set)")}
        except (OSError, ValueError) as e:
            raise ConfigError(f"task.lpips_weight = {self.lpips_weight}: {e}") from e

    def model(self, params: functional.Params) -> Tokenizer:
        """The tokenizer with these parameters."""
        return functional.bind(self._make, params)

    def _make(self, rngs: Any) -> Tokenizer:
        return Tokenizer(self.config, rngs=rngs)

    def init_params(self, rng: jax.Array, batch: Batch) -> functional.Params:
        """Fresh parameters."""
        del batch
        return functional.init(self._make, rng)

    def init_extra(self, params: functional.Params) -> RunningRms:
        """The running scales of the loss terms."""
        del params
        return init_rms(tuple(self._weights))

    @property
    def _weights(self) -> dict[str, float]:
        return {"mse": 1.0} | ({"lpips": self.lpips_weight} if self.lpips_weight else {})

    def loss(
        self, params: functional.Params, frozen: Mapping[str, Any], batch: Batch, *, rng: jax.Array, step: jax.Array,
        extra: RunningRms, train: bool,
    ) -> LossOutput:  # fmt: skip
        """Mean squared error over all patches, and LPIPS where it is on; masks and noise only where `train`."""
        del step
        frames = to_float(batch["frames"])
        independent = batch.get("independent")
        mask_rng, noise_rng = jax.random.split(rng)
        mask = self._mask(mask_rng, frames, independent) if train else None
        model = self.model(params)
        latents, _ = model.encode(frames, mask=mask, independent=independent)
        if train and self.latent_noise:
            latents = latents + self.latent_noise * jax.random.normal(noise_rng, latents.shape)
        decoded, _ = model.decode(latents, independent=independent)
        terms = {"mse": jnp.mean(jnp.square(decoded - frames))}
        if self.lpips_weight:
            terms["lpips"] = jnp.mean(lpips.lpips(frozen["lpips"], decoded, frames))
        loss, extra = normalize(terms, self._weights, extra)
        return LossOutput(loss, terms | {"latent_rms": jnp.sqrt(jnp.mean(jnp.square(latents)))}, extra)

    def _mask(self, rng: jax.Array, frames: jax.Array, independent: jax.Array | None) -> jax.Array:
        shape = (*frames.shape[:2], self.config.patches)
        if shape[1] == 1:
            return random_patch_mask(rng, shape, MAX_MASK_PROBABILITY, self.masked_share_stills)
        clips = random_patch_mask(rng, shape, MAX_MASK_PROBABILITY, self.masked_share)
        if independent is None:
            return clips
        stills = random_patch_mask(rng, shape, MAX_MASK_PROBABILITY, self.masked_share_stills)
        return jnp.where(independent[:, None, None], stills, clips)

    def evaluators(self) -> Mapping[str, Evaluator]:
        """PSNR with and without masks, and the grid masked input | reconstruction | truth."""
        return {"reconstruction": Reconstruction(self, clips=self.clips)}

    def frames_per_batch(self, batch: Batch) -> int:
        """B × T."""
        return batch["frames"].shape[0] * batch["frames"].shape[1]


class Reconstruction(Evaluator):
    """`eval/psnr` (all patches, nothing masked) and `eval/psnr_masked` (hidden patches only, p ~ U(0, 0.9))."""

    comparisons = (
        Comparison("eval/psnr", "reconstruction of whole frames", "dB"),
        Comparison("eval/psnr_masked", "reconstruction of what is hidden", "dB"),
    )

    def __init__(self, task: TokenizerTask, *, clips: int, every: int | None = None):
        self.task, self.clips, self.every = task, clips, every
        self._measure = jax.jit(self._measure_batch)

    def _measure_batch(self, params: functional.Params, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        model, patch = self.task.model(params), self.task.config.patch
        frames = to_float(batch["frames"])
        whole = jnp.clip(model.decode(model.encode(frames)[0])[0], 0, 1)
        mask = random_patch_mask(rng, (*frames.shape[:2], self.task.config.patches), MAX_MASK_PROBABILITY)
        filled = jnp.clip(model.decode(model.encode(frames, mask=mask)[0])[0], 0, 1)
        hidden = mask[..., None] * jnp.square(to_patches(filled, patch) - to_patches(frames, patch))
        masked_input = jnp.where(mask[..., None], 0.5, to_patches(frames, patch))
        return {
            "mse": jnp.mean(jnp.square(whole - frames), axis=(1, 2, 3, 4)),
            "hidden": jnp.mean(hidden, axis=(1, 2, 3)),
            "hidden_share": jnp.mean(mask, axis=(1, 2)),
            "masked_input": from_patches(masked_input, self.task.config.image),
            "filled": filled,
            "whole": whole,
        }

    def evaluate(
        self, *, params: functional.Params, frozen: Mapping[str, Any], extra: Any, rng: jax.Array,
        batches: Iterable[Batch], step: int,
    ) -> Evaluation:  # fmt: skip
        """Measures `clips` held-out clips."""
        del frozen, extra, step
        results, picture = [], None
        for index, batch, take in first_rows(batches, self.clips):
            out = hosts.whole(self._measure(params, batch, jax.random.fold_in(rng, index)))
            results.append({name: out[name][:take] for name in ("mse", "hidden", "hidden_share")})
            if picture is None:
                picture = self._picture(out, hosts.whole(batch["frames"]))
        if picture is None:
            return Evaluation()
        total = {name: np.concatenate([r[name] for r in results]).mean() for name in results[0]}
        scalars = {
            "eval/psnr": float(psnr(total["mse"])),
            "eval/psnr_masked": float(psnr(total["hidden"] / total["hidden_share"])),
        }
        return Evaluation(scalars=scalars, images={"reconstruction": picture})

    def _picture(self, out: Mapping[str, np.ndarray], frames: np.ndarray) -> np.ndarray:
        """A column per clip, each at another moment."""
        clips = np.arange(min(12, len(frames)))
        times = np.linspace(0, frames.shape[1] - 1, len(clips)).astype(int)

        def pick(x: np.ndarray) -> np.ndarray:
            return x[clips, times]

        rows = {
            "masked input": pick(out["masked_input"]),
            "reconstruction": pick(out["filled"]),
            "truth": pick(frames),
            "unmasked rec.": pick(out["whole"]),
        }
        return pictures.comparison(rows)
