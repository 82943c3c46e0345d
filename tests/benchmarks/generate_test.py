import functools

import jax
import numpy as np
import pytest

from benchmarks.generate import STEPS, WINDOWS, _action, counts, play
from benchmarks.interactive import Player
from models.actions import Component
from models.dynamics import Dynamics, DynamicsConfig
from models.functional import init
from models.generation import Sampler
from models.tokenizer import Tokenizer, TokenizerConfig
from models.transformer import TransformerConfig

SMALL = TransformerConfig(width=16, layers=2, heads=2, time_every=2, window=4)


@pytest.fixture(scope="module")
def player():
    sizes = {"latents": 4, "channels": 4}
    dynamics = DynamicsConfig(
        **sizes, registers=1, actions={"move": Component("categorical", 5)}, transformer=SMALL, latent_scale=1.5
    )
    tokenizer = TokenizerConfig(**sizes, image=(8, 8, 3), encoder=SMALL, decoder=SMALL)
    return Player(dynamics=dynamics, tokenizer=tokenizer, sampler=Sampler(steps=4))


@pytest.fixture(scope="module")
def params(player):
    makers = {"dynamics": functools.partial(Dynamics, player.dynamics), "tokenizer": _tokenizer(player)}
    return {name: init(lambda rngs, make=make: make(rngs=rngs), jax.random.key(0)) for name, make in makers.items()}


def _tokenizer(player):
    return functools.partial(Tokenizer, player.tokenizer)


@pytest.fixture(scope="module")
def counted(player, params):
    return counts(player, params)


def test_k_denoising_steps_and_a_commit_take_k_plus_one_passes(counted):
    assert set(counted["passes_by_steps"]) == set(STEPS)
    for steps, passes in counted["passes_by_steps"].items():
        assert passes == pytest.approx(steps + 1, rel=0.01)  # and turning the past's keys once
    flops = counted["flops_by_steps"]
    assert flops[8] - flops[4] == 2 * (flops[4] - flops[2]) == 4 * (flops[2] - flops[1])


def test_cost_is_linear_in_the_window(counted):
    flops = counted["flops_by_window"]
    assert tuple(flops) == WINDOWS == (16, 32, 64, 128)
    slope = flops[32] - flops[16]
    assert slope > 0
    assert (flops[64] - flops[32], flops[128] - flops[64]) == (2 * slope, 4 * slope)


def test_one_program_plays_far_beyond_the_window(player, params):
    seen, past = [], jax.jit(player.begin)(params, jax.random.key(0))
    frame = jax.jit(player.frame).trace(params, past, _action(player)).lower().compile()

    def watched(*args):
        past, pixels = frame(*args)
        seen.append((int(past.dynamics.length), int(past.decoder.length), np.asarray(pixels)))
        return past, pixels

    assert len(play(watched, params, past, _action(player), 11)) == 11
    assert [(dynamics, decoder) for dynamics, decoder, _ in seen] == [(n, n) for n in range(1, 12)]
    assert {(pixels.dtype.name, pixels.shape) for *_, pixels in seen} == {("uint8", (1, 8, 8, 3))}
